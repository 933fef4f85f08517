// Asks the server that this page came from. Addresses are relative, so that the page works behind a proxy's prefix.

/** How long an answer about the server itself may take, in milliseconds. */
const PATIENCE = 5000;

/** What the server answered that was no success. */
export class Refused extends Error {
  constructor(status, told) {
    super(told?.error ?? `status ${status}`);
    this.status = status;
    this.code = told?.code;
  }
}

/** The address of a path of the server. */
export function address(path) {
  return new URL(path, document.baseURI);
}

/** The path of a model. */
export function modelPath(name, version, verb = "") {
  const place = version ? `/versions/${encodeURIComponent(version)}` : "";
  return `v2/models/${encodeURIComponent(name)}${place}${verb}`;
}

/** Gets a JSON document. */
export async function get(path) {
  return read(await fetch(address(path), { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" }));
}

/** Posts a JSON document; a load may take minutes, so that there is no limit. */
export async function post(path, value) {
  const headers = { "Content-Type": "application/json" };
  return read(await fetch(address(path), { method: "POST", headers, body: JSON.stringify(value) }));
}

async function read(response) {
  const text = await response.text();
  let value = null;
  if (text) {
    try {
      value = parse(text);
    } catch (error) {
      if (response.ok) throw error;
    }
  }
  if (!response.ok) throw new Refused(response.status, value);
  return value;
}

/** Reads JSON; a whole number that JavaScript would round stays the text that it is. */
export function parse(text) {
  return JSON.parse(text, (_key, value, context) => {
    const isRounded = Number.isInteger(value) && !Number.isSafeInteger(value);
    return isRounded && /^-?\d+$/.test(context?.source ?? "") ? context.source : value;
  });
}

/**
 * Calls `look` at once and then about once a second while the page can be seen, until the signal is aborted.
 * `failed` is told what went wrong.
 */
export function follow(look, failed, signal) {
  let timer;
  let isLooking = false;
  async function next() {
    clearTimeout(timer);
    if (signal.aborted || document.hidden || isLooking) return;
    isLooking = true;
    const started = performance.now();
    try {
      await look();
    } catch (error) {
      if (!signal.aborted) failed(error);
    }
    isLooking = false;
    timer = setTimeout(next, Math.max(250, 1000 - (performance.now() - started)));
  }
  document.addEventListener("visibilitychange", next, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  next();
}
