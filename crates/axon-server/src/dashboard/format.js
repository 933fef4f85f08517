// Numbers for people. What is not known is a dash.

const NONE = "–";

const isKnown = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** A count, with its thousands apart. */
export function count(value) {
  return isKnown(value) ? Math.round(value).toLocaleString("en-US") : NONE;
}

/** A number with about three digits that count. */
export function short(value) {
  if (!isKnown(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 100) return count(value);
  return value.toFixed(size >= 10 ? 1 : 2);
}

/** Milliseconds. */
export function milliseconds(value) {
  if (!isKnown(value)) return NONE;
  if (value >= 10_000) return `${short(value / 1000)} s`;
  return value < 0.1 && value > 0 ? `${Math.round(value * 1000)} µs` : `${short(value)} ms`;
}

/** Bytes, in units of 1024. */
export function bytes(value) {
  if (!isKnown(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : short(value)} ${units[unit]}`;
}

/** A length of time, in its two largest units. */
export function duration(seconds) {
  if (!isKnown(seconds)) return NONE;
  const whole = Math.floor(seconds);
  const parts = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([size]) => size > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).map(([size, unit]) => `${size} ${unit}`).join(" ");
}

/** A moment, as the clock of who looks. */
export function clock(sinceEpoch) {
  return new Date(sinceEpoch).toLocaleTimeString("en-GB");
}

/** A shape, `?` for what may be of any size. */
export function shape(sizes) {
  return `[${sizes.map((size) => (size < 0 ? "?" : size)).join(", ")}]`;
}

/** A name of the wire, as `queue_full`, in words. */
export function words(name) {
  return String(name).replaceAll("_", " ");
}
