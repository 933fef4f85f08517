// The learned time of a run by its rows, as a drawing and as a table.

import { draw, make, Rows } from "./dom.js";
import { count, milliseconds } from "./format.js";

const WIDTH = 640;
const HEIGHT = 260;
const ROOM = { left: 64, right: 12, top: 12, below: 36 };
const POINTS = 64;

/** The drawing and the table of what `explain` answers, anew for each change. */
export function curve({ run_time: run, plan, latency_target_ms: target }) {
  const learned = (rows) => run.fixed_ms + run.per_row_ms * rows;
  const most = Math.max(plan.max_batch_rows, 2, ...run.by_rows.map(({ rows }) => rows));
  const limit = target && target < learned(most) * run.margin * 4 ? target : 0;
  const highest = Math.max(learned(most) * run.margin, limit, ...run.by_rows.map(({ ms }) => ms), 1e-3) * 1.1;
  const x = (rows) => ROOM.left + ((rows - 1) / (most - 1)) * (WIDTH - ROOM.left - ROOM.right);
  const y = (ms) => HEIGHT - ROOM.below - (ms / highest) * (HEIGHT - ROOM.top - ROOM.below);
  const line = (rule, name) => {
    const places = Array.from({ length: POINTS + 1 }, (_, index) => 1 + ((most - 1) * index) / POINTS);
    const points = places.map((rows) => `${x(rows).toFixed(1)},${y(rule(rows)).toFixed(1)}`).join(" ");
    return draw("polyline", { points, class: name });
  };
  const label = `A run of n rows takes ${milliseconds(run.fixed_ms)} and ${milliseconds(run.per_row_ms)} a row; nine of ` +
    `ten stay within ${run.margin.toFixed(2)} times that. A batch has at most ${count(plan.max_batch_rows)} rows.`;
  const drawing = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label, class: "curve" });
  drawing.append(...axes({ most, highest, x, y }));
  drawing.append(line(learned, "learned"), line((rows) => learned(rows) * run.margin, "margin"));
  if (limit) drawing.append(draw("line", { x1: ROOM.left, x2: WIDTH - ROOM.right, y1: y(limit), y2: y(limit), class: "limit" }));
  const knee = x(plan.max_batch_rows);
  drawing.append(draw("line", { x1: knee, x2: knee, y1: ROOM.top, y2: HEIGHT - ROOM.below, class: "knee" }));
  for (const { rows, ms } of run.by_rows) {
    const point = { cx: x(rows), cy: y(ms), r: 3.5, class: "seen" };
    drawing.append(draw("circle", point, draw("title", {}, `${rows} rows: ${milliseconds(ms)}`)));
  }
  return [drawing, make("p", { class: "quiet" }, label, ` Learned from ${count(run.runs)} runs.`), table(run, learned, most)];
}

function axes({ most, highest, x, y }) {
  const left = { x1: ROOM.left, x2: ROOM.left, y1: ROOM.top, y2: HEIGHT - ROOM.below, class: "axis" };
  const below = { x1: ROOM.left, x2: WIDTH - ROOM.right, y1: HEIGHT - ROOM.below, y2: HEIGHT - ROOM.below, class: "axis" };
  const marks = [draw("line", left), draw("line", below)];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const rows = Math.round(1 + (most - 1) * share);
    const ms = highest * share;
    marks.push(draw("text", { x: x(rows), y: HEIGHT - ROOM.below + 16, "text-anchor": "middle" }, String(rows)));
    marks.push(draw("text", { x: ROOM.left - 6, y: y(ms) + 4, "text-anchor": "end" }, milliseconds(ms)));
  }
  marks.push(draw("text", { x: WIDTH / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "rows of a run"));
  return marks;
}

function table(run, learned, most) {
  const rows = new Rows(["Rows", "Learned", "Within", "Seen"]);
  const seen = new Map(run.by_rows.map(({ rows: size, ms }) => [size, ms]));
  const sizes = new Set([1, most, ...seen.keys()]);
  rows.update([...sizes].sort((one, other) => one - other).map((size) => ({
    key: size,
    cells: [
      count(size), milliseconds(learned(size)), milliseconds(learned(size) * run.margin), milliseconds(seen.get(size)),
    ],
  })));
  return make("details", {}, make("summary", {}, "As a table"), rows.table("Time of a run by its rows"));
}
