// How latencies were spread over time: columns of time, rows of latency, darker where more requests were.
//
// The picture is a canvas; the same is beside it as a table, and the arrow keys read it column by column.

import { draw, make, Rows, section, setAttribute, setText } from "./dom.js";
import { clock, count, milliseconds } from "./format.js";

/** The height of the picture in pixels of the style sheet; it is as wide as there is room. */
const HEIGHT = 240;
/** Room for the words on the left and below. */
const LEFT = 64;
const BELOW = 24;

/** A heat map with its heading, its table and its words. */
export class HeatMap {
  constructor(title) {
    this.canvas = make("canvas", { role: "img", tabindex: 0 });
    this.told = make("p", { class: "quiet", "aria-live": "polite" });
    this.none = make("p", { class: "quiet" }, "Nothing was answered in the last minutes.");
    this.rows = new Rows(["From", "Requests", "p50", "p99", "Slowest within"]);
    this.details = make("details", {}, make("summary", {}, "As a table"), this.rows.table(title));
    for (const part of [this.none, this.canvas, this.details]) part.hidden = true;
    this.element = section(title, this.none, this.canvas, this.told, this.details);
    this.chosen = null;
    this.canvas.addEventListener("keydown", (event) => this.step(event));
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.choose(null));
    this.canvas.addEventListener("blur", () => this.choose(null));
  }

  /** `latency` is that of the overview or of a model; `line` the milliseconds that the p99 is measured against. */
  update(latency, line) {
    this.latency = latency;
    this.line = line;
    const isEmpty = !latency.slots.some(({ counts }) => counts.some((number) => number > 0));
    this.none.hidden = !isEmpty;
    this.canvas.hidden = isEmpty;
    this.details.hidden = isEmpty;
    if (isEmpty) return;
    setAttribute(this.canvas, "aria-label", this.inWords());
    this.paint();
    this.tell();
    if (this.details.open) this.tabulate();
    else this.details.ontoggle = () => this.tabulate();
  }

  inWords() {
    const { slots, slot_s: slot, p50_ms: p50, p99_ms: p99 } = this.latency;
    const requests = slots.reduce((total, { counts }) => total + sum(counts), 0);
    const minutes = Math.round((slots.length * slot) / 60);
    return `Heat map of latency over the last ${minutes} minutes: ${count(requests)} requests; in the last minute half ` +
      `took less than ${milliseconds(p50)} and 99 of 100 less than ${milliseconds(p99)}. Arrow keys read it by time.`;
  }

  paint() {
    const { slots, bounds_ms: bounds } = this.latency;
    const style = getComputedStyle(this.canvas);
    const context = this.canvas.getContext("2d");
    const width = this.size(context);
    const [low, high] = rowsUsed(slots);
    const wide = (width - LEFT) / slots.length;
    const tall = (HEIGHT - BELOW) / (high - low + 1);
    const most = Math.max(...slots.flatMap(({ counts }) => counts));
    context.clearRect(0, 0, width, HEIGHT);
    context.fillStyle = style.getPropertyValue("--heat");
    slots.forEach(({ counts }, column) => counts.forEach((number, row) => {
      if (!number) return;
      // Logarithmic, so that one slow request among thousands can be seen.
      context.globalAlpha = 0.15 + (0.85 * Math.log1p(number)) / Math.log1p(most);
      context.fillRect(LEFT + column * wide, (high - row) * tall, Math.ceil(wide), Math.ceil(tall));
    }));
    context.globalAlpha = 1;
    context.fillStyle = style.color;
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    const every = Math.ceil(14 / tall);
    for (let row = low; row <= high; row += every) {
      const bound = bounds[row];
      const text = bound === undefined ? "more" : milliseconds(bound);
      context.fillText(text, 0, (high - row + 0.5) * tall);
    }
    const marks = [0, Math.floor(slots.length / 2), slots.length - 1];
    context.textBaseline = "alphabetic";
    for (const column of marks) {
      const text = clock(slots[column].start_ms);
      const wanted = LEFT + column * wide;
      context.fillText(text, Math.min(wanted, width - context.measureText(text).width), HEIGHT - 6);
    }
    this.paintLine(context, style, { low, high, tall, width });
    if (this.chosen !== null) {
      context.strokeStyle = style.color;
      context.strokeRect(LEFT + this.chosen * wide, 0, wide, HEIGHT - BELOW);
    }
  }

  /** Gives the canvas the pixels of the screen, and returns its width in those of the style sheet. */
  size(context) {
    const width = this.canvas.clientWidth;
    const scale = devicePixelRatio;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(HEIGHT * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(HEIGHT * scale);
    }
    context.setTransform(scale, 0, 0, scale, 0, 0);
    return width;
  }

  /** The line that the p99 is measured against. */
  paintLine(context, style, { low, high, tall, width }) {
    if (!this.line) return;
    const row = this.latency.bounds_ms.findIndex((bound) => bound >= this.line);
    if (row < low || row > high) return;
    context.strokeStyle = style.getPropertyValue("--bad");
    context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(LEFT, (high - row) * tall + 0.5);
    context.lineTo(width, (high - row) * tall + 0.5);
    context.stroke();
    context.setLineDash([]);
  }

  step(event) {
    const last = this.latency.slots.length - 1;
    const at = this.chosen ?? last + 1;
    const moved = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (moved === undefined) return;
    event.preventDefault();
    this.choose(Math.min(last, Math.max(0, moved)));
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const part = (event.clientX - box.left - LEFT) / (box.width - LEFT);
    const column = Math.floor(part * this.latency.slots.length);
    this.choose(column >= 0 ? Math.min(column, this.latency.slots.length - 1) : null);
  }

  choose(column) {
    if (column === this.chosen || !this.latency) return;
    this.chosen = column;
    this.paint();
    this.tell();
  }

  tell() {
    const slot = this.chosen === null ? null : this.latency.slots[this.chosen];
    const line = this.line ? ` The dashed line is ${milliseconds(this.line)}.` : "";
    setText(this.told, slot ? this.cellsOf(slot).join(" · ") : `Darker where there were more.${line}`);
  }

  cellsOf({ start_ms: start, counts }) {
    const bounds = this.latency.bounds_ms;
    const slowest = counts.findLastIndex((number) => number > 0);
    const within = (share) => milliseconds(bounds[quantile(counts, share)]);
    if (slowest < 0) return [clock(start), "0 requests", "–", "–", "–"];
    return [
      clock(start),
      `${count(sum(counts))} requests`,
      `p50 ≤ ${within(0.5)}`,
      `p99 ≤ ${within(0.99)}`,
      `slowest ≤ ${milliseconds(bounds[slowest])}`,
    ];
  }

  tabulate() {
    const newestFirst = [...this.latency.slots].reverse();
    this.rows.update(newestFirst.map((slot) => ({ key: slot.start_ms, cells: this.cellsOf(slot) })));
  }
}

function sum(counts) {
  return counts.reduce((total, number) => total + number, 0);
}

/** The row in which the given share of the requests has been counted. */
function quantile(counts, share) {
  let left = share * sum(counts);
  return counts.findIndex((number) => (left -= number) <= 0);
}

/** The lowest and the highest row that hold anything, with one around them. */
function rowsUsed(slots) {
  const used = slots.flatMap(({ counts }) => counts.flatMap((number, row) => (number ? [row] : [])));
  const last = slots[0].counts.length - 1;
  return [Math.max(0, Math.min(...used) - 1), Math.min(last, Math.max(...used) + 1)];
}

/** Bars beside each other, as batch sizes: `bars` are `{ label, value }`. */
export function barChart(bars, label) {
  const most = Math.max(...bars.map(({ value }) => value), 1);
  const wide = 100 / Math.max(bars.length, 1);
  const drawing = draw("svg", { viewBox: "0 0 100 40", role: "img", "aria-label": label, class: "bars" });
  bars.forEach(({ label: name, value }, index) => {
    const tall = (value / most) * 30;
    const box = { x: index * wide + wide * 0.1, y: 32 - tall, width: wide * 0.8, height: tall };
    drawing.append(draw("rect", box, draw("title", {}, `${name}: ${count(value)}`)));
    const place = { x: (index + 0.5) * wide, y: 38, "text-anchor": "middle" };
    if (bars.length <= 16 || index % Math.ceil(bars.length / 16) === 0) drawing.append(draw("text", place, name));
  });
  return drawing;
}
