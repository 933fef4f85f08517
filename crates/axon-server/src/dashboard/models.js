// The first view: what is served, how it does, and what is kept in memory.

import { make, Rows, section, setText } from "./dom.js";
import { bytes, count, milliseconds, short, words } from "./format.js";
import { HeatMap } from "./heatmap.js";
import { Residency } from "./residency.js";
import { Shelf } from "./shelf.js";

const COLUMNS = [
  "Model", "State", "Size", "Requests/s", "p50", "p99", "Target", "Rows a batch", "Waiting", "Running", "Refused",
];

/** Puts up the view in `place` and returns what brings it up to date. */
export function showModels(place, signal) {
  const figures = new Figures();
  const rows = new Rows(COLUMNS);
  const none = make("p", { class: "quiet" }, "No model is loaded.");
  const heat = new HeatMap("Latency of all models");
  const residency = new Residency(signal);
  const shelf = new Shelf(signal);
  const models = section("Models", rows.table("Every version that is loaded or was to be"), none, shelf.element);
  place.append(make("h2", { class: "hidden" }, "Overview"), figures.element, models, heat.element, residency.element);
  const links = new Map();
  return async (overview) => {
    figures.update(overview);
    none.hidden = overview.models.length > 0;
    rows.body.parentElement.hidden = !none.hidden;
    rows.update(overview.models.map((model) => ({ key: keyOf(model), cells: cellsOf(model, links) })));
    heat.update(overview.latency, null);
    await Promise.all([residency.update(overview), shelf.update(overview)]);
  };
}

function keyOf({ name, version }) {
  return `${name}/${version}`;
}

function cellsOf(model, links) {
  const isReady = model.state === "READY";
  return [
    linkTo(model, links),
    stateOf(model),
    bytes(model.bytes),
    isReady ? short(model.requests_per_s) : "–",
    milliseconds(model.p50_ms),
    lateOf(model),
    targetOf(model),
    isReady ? short(model.mean_batch_rows) : "–",
    count(model.waiting),
    count(model.running),
    refusedOf(model),
  ];
}

function linkTo(model, links) {
  const key = keyOf(model);
  if (!links.has(key)) {
    const place = `#/models/${encodeURIComponent(model.name)}/${encodeURIComponent(model.version)}`;
    const version = make("span", { class: "quiet" }, ` ${model.version}`);
    links.set(key, make("span", {}, make("a", { href: place }, model.name), version));
  }
  return links.get(key);
}

/** The state, and the reason where there is one. */
export function stateOf({ state, reason }) {
  const name = { READY: "good", UNAVAILABLE: "bad" }[state] ?? "fair";
  return { text: reason ? `${words(state).toLowerCase()}: ${reason}` : words(state).toLowerCase(), class: name };
}

/** The p99, and whether it is within what it is measured against. */
export function lateOf({ p99_ms: p99, line_ms: line }) {
  if (p99 === null || p99 === undefined || !line) return milliseconds(p99);
  return { text: milliseconds(p99), class: p99 > line ? "bad" : "good" };
}

/** What the p99 is measured against; a line that nobody stated is in brackets. */
export function targetOf({ latency_target_ms: target, line_ms: line }) {
  if (!line) return "–";
  return target ? milliseconds(target) : `(${milliseconds(line)})`;
}

/** How many were refused since the load, by reason. */
export function refusedOf({ refused, refusing_because: now }) {
  if (!refused) return "–";
  const reasons = Object.entries(refused).filter(([, number]) => number > 0);
  if (!reasons.length) return "0";
  const text = reasons.map(([reason, number]) => `${words(reason)} ${count(number)}`).join(", ");
  return { text, class: now ? "bad" : null };
}

/** The few numbers on top. */
class Figures {
  constructor() {
    this.element = make("dl", { class: "figures" });
    this.values = new Map();
    for (const name of ["Models ready", "Requests/s", "p50", "p99", "Waiting", "Refused/s"]) {
      const value = make("dd", {}, "–");
      this.values.set(name, value);
      this.element.append(make("div", {}, make("dt", {}, name), value));
    }
  }

  update({ models, latency }) {
    const ready = models.filter(({ state }) => state === "READY");
    const sum = (member) => ready.reduce((total, model) => total + model[member], 0);
    const set = (name, text) => setText(this.values.get(name), text);
    set("Models ready", `${ready.length} of ${models.length}`);
    set("Requests/s", short(sum("requests_per_s")));
    set("p50", milliseconds(latency.p50_ms));
    set("p99", milliseconds(latency.p99_ms));
    set("Waiting", count(sum("waiting")));
    set("Refused/s", short(sum("refused_per_s")));
  }
}
