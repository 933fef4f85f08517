// One model: what it takes, how it is run, what was slow of late, and a form to try it.

import { get, modelPath, Refused } from "./api.js";
import { canControl, controls } from "./control.js";
import { curve } from "./curve.js";
import { draw, make, Rows, section, setText } from "./dom.js";
import { bytes, clock, count, milliseconds, shape, short, words } from "./format.js";
import { barChart, HeatMap } from "./heatmap.js";
import { lateOf, refusedOf, stateOf, targetOf } from "./models.js";
import { Trial } from "./trial.js";

/** The stages of a request, in their order, and what they are called. */
const STAGES = [["queue_ms", "Waiting"], ["input_ms", "Joining"], ["run_ms", "Running"], ["output_ms", "Splitting"]];

/** Puts up the view of a model in `place` and returns what brings it up to date. */
export function showModel(place, { name, version }) {
  const view = new ModelView(name, version);
  place.append(...view.parts);
  return (overview) => view.update(overview);
}

class ModelView {
  constructor(name, version) {
    this.name = name;
    this.version = version;
    this.told = make("p", { role: "status" });
    this.change = make("p", { hidden: "" }, controls({
      name, verbs: ["load", "unload"], say: (text) => setText(this.told, text),
    }));
    this.facts = new Facts();
    this.signature = make("div", {}, make("p", { class: "quiet" }, "Asking the server."));
    this.curve = make("div");
    this.batches = make("div");
    this.heat = new HeatMap("Latency");
    this.slow = new Slow();
    this.trial = new Trial(name, version);
    const back = make("p", {}, make("a", { href: "#/" }, "All models"));
    const heading = make("h2", {}, name, make("small", {}, ` version ${version}`));
    this.parts = [
      make("div", {}, back, heading, this.change, this.told), this.facts.element,
      section("What it takes and gives", this.signature), this.trial.element, this.heat.element, this.slow.element,
      section("Time of a run", this.curve), section("Rows of a batch, in the last minutes", this.batches),
    ];
  }

  async update({ server, models }) {
    this.change.hidden = !canControl(server);
    const model = models.find(({ name, version }) => name === this.name && version === this.version);
    this.facts.update(model ?? { state: "UNKNOWN", reason: "no such version is loaded" });
    const isReady = model?.state === "READY";
    for (const part of this.parts.slice(2)) part.hidden = !isReady;
    if (!isReady) return;
    try {
      await this.look(model);
    } catch (error) {
      // It may have gone since the overview was made; the next one says so.
      if (!(error instanceof Refused)) throw error;
    }
  }

  async look(model) {
    const path = (verb) => modelPath(this.name, this.version, verb);
    if (!this.metadata) {
      this.metadata = await get(path(""));
      this.signature.replaceChildren(signatureTable(this.metadata));
      this.trial.fill(this.metadata);
    }
    const [explained, recent] = await Promise.all([get(path("/explain")), get(path("/recent"))]);
    this.facts.explain(explained);
    this.heat.update(recent.latency, model.line_ms);
    this.slow.update(recent.slowest);
    this.showCurve(explained);
    this.showBatches(recent.batches);
  }

  /** Draws the curve again only when it is another, so that its table stays open. */
  showCurve(explained) {
    const { fixed_ms: fixed, per_row_ms: perRow, margin, by_rows: byRows } = explained.run_time;
    const key = JSON.stringify([fixed, perRow, margin, byRows, explained.plan.max_batch_rows]);
    if (key === this.curveKey) return;
    this.curveKey = key;
    const isOpen = this.curve.querySelector("details")?.open ?? false;
    this.curve.replaceChildren(...curve(explained));
    this.curve.querySelector("details").open = isOpen;
  }

  showBatches(batches) {
    const key = JSON.stringify(batches);
    if (key === this.batchesKey) return;
    this.batchesKey = key;
    if (!batches.length) {
      this.batches.replaceChildren(make("p", { class: "quiet" }, "Nothing was run."));
      return;
    }
    const told = batches.map(({ rows, count: runs }) => `${rows} rows: ${count(runs)} runs`).join(", ");
    const bars = batches.map(({ rows, count: runs }) => ({ label: String(rows), value: runs }));
    this.batches.replaceChildren(barChart(bars, told), make("p", { class: "quiet" }, told));
  }
}

function signatureTable({ platform, inputs, outputs }) {
  const rows = new Rows(["", "Name", "Type", "Shape"]);
  const cells = (kind) => (tensor, index) => ({
    key: `${kind} ${index}`, cells: [kind, tensor.name, tensor.datatype, shape(tensor.shape)],
  });
  rows.update([...inputs.map(cells("input")), ...outputs.map(cells("output"))]);
  return make("div", {}, rows.table("Inputs and outputs; ? is any size"), make("p", { class: "quiet" }, words(platform)));
}

/** Names and values. */
class Facts {
  constructor() {
    this.element = make("dl", { class: "facts" });
    this.values = new Map();
  }

  set(name, value) {
    if (!this.values.has(name)) {
      const place = make("dd");
      this.values.set(name, place);
      this.element.append(make("div", {}, make("dt", {}, name), place));
    }
    const { text, class: kind } = typeof value === "string" ? { text: value } : value;
    const place = this.values.get(name);
    setText(place, text);
    place.className = kind ?? "";
  }

  update(model) {
    this.set("State", stateOf(model));
    if (model.state !== "READY") return;
    this.set("Size", bytes(model.bytes));
    this.set("Requests/s", short(model.requests_per_s));
    this.set("p50", milliseconds(model.p50_ms));
    this.set("p99", lateOf(model));
    this.set("Target", targetOf(model));
    this.set("Waiting", count(model.waiting));
    this.set("Running", count(model.running));
    this.set("Busy instances", `${count(model.busy_instances)} of ${count(model.instances)}`);
    this.set("Refused", refusedOf(model));
  }

  explain({ plan, load }) {
    const batches = plan.batchable ? `up to ${count(plan.max_batch_rows)} rows` : `none: ${plan.not_batchable_because}`;
    this.set("Threads of a run", count(plan.threads));
    this.set("Batches", batches);
    this.set("Because", plan.chosen_because);
    this.set("Comes", `${short(load.arriving_rows_per_second)} rows/s`);
    this.set("Can do", `${short(load.capacity_rows_per_second)} rows/s`);
    const p99 = load.predicted_p99_ms;
    this.set("Expected p99", p99 === null ? { text: "more comes than it can do", class: "bad" } : milliseconds(p99));
  }
}

/** The slowest requests of late, and where their time went. */
class Slow {
  constructor() {
    this.rows = new Rows(["At", "Took", ...STAGES.map(([, name]) => name), "Rows", "Of a run of", "Where"]);
    this.none = make("p", { class: "quiet" }, "Nothing was answered of late.");
    this.table = this.rows.table("The slowest requests of the last minutes, slowest first");
    this.element = section("Slow requests", this.none, this.table);
    this.bars = new Map();
  }

  update(slowest) {
    this.none.hidden = slowest.length > 0;
    this.table.hidden = !this.none.hidden;
    const rows = slowest.map((request) => {
      const key = `${request.at_ms} ${request.total_ms}`;
      return { key, cells: this.cellsOf(request, key) };
    });
    this.rows.update(rows);
    const kept = new Set(rows.map(({ key }) => key));
    for (const key of this.bars.keys()) if (!kept.has(key)) this.bars.delete(key);
  }

  cellsOf(request, key) {
    if (!this.bars.has(key)) this.bars.set(key, stageBar(request));
    return [
      clock(request.at_ms), milliseconds(request.total_ms), ...STAGES.map(([stage]) => milliseconds(request[stage])),
      count(request.rows), count(request.batch_rows), this.bars.get(key),
    ];
  }
}

/** A bar whose parts are the stages; what is left is the way to the queue and back. */
function stageBar(request) {
  const total = Math.max(request.total_ms, 1e-6);
  const drawing = draw("svg", { viewBox: "0 0 100 8", class: "stages", "aria-hidden": "true", preserveAspectRatio: "none" });
  drawing.append(draw("rect", { x: 0, y: 0, width: 100, height: 8, class: "rest" }));
  let x = 0;
  for (const [stage] of STAGES) {
    const width = (request[stage] / total) * 100;
    drawing.append(draw("rect", { x, y: 0, width, height: 8, class: stage.replace("_ms", "") }));
    x += width;
  }
  return drawing;
}
