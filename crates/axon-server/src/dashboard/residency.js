// What is kept in memory under a limit, where the server decides that by itself.

import { get } from "./api.js";
import { controls } from "./control.js";
import { make, Rows, section, setAttribute, setText } from "./dom.js";
import { bytes, duration, milliseconds, words } from "./format.js";

const COLUMNS = ["Model", "State", "Size", "Requests/s", "Score", "Predicted reload", "Unused for", "Change"];

/** The block; hidden where the server has no limit. */
export class Residency {
  constructor(signal) {
    this.signal = signal;
    this.rows = new Rows(COLUMNS);
    this.room = make("p");
    this.meter = make("meter", { min: 0, max: 1, high: 0.9, "aria-label": "Memory used of the limit" });
    this.told = make("p", { role: "status" });
    const table = this.rows.table("Every model that may be in memory, what is worth most first");
    this.element = section("Memory", this.room, this.meter, table, this.told);
    this.element.hidden = true;
    this.buttons = new Map();
  }

  async update({ server }) {
    // No other mode has a limit.
    if (server.control !== "auto") return;
    const residency = await get("v2/residency");
    if (this.signal.aborted) return;
    this.element.hidden = residency.budget_bytes === null;
    if (this.element.hidden) return;
    const { charged_bytes: used, budget_bytes: budget, evictions, models } = residency;
    setText(this.room, `${bytes(used)} of ${bytes(budget)} are used. Models were evicted ${evictions} times.`);
    setAttribute(this.meter, "value", budget ? Math.min(1, used / budget) : 0);
    const worth = ({ state, score }) => (state === "READY" ? 1 : 0) * Number.MAX_SAFE_INTEGER + score;
    const sorted = [...models].sort((one, other) => worth(other) - worth(one));
    this.rows.update(sorted.map((model) => ({ key: model.name, cells: this.cellsOf(model) })));
  }

  cellsOf(model) {
    const state = model.pinned ? `${words(model.state).toLowerCase()}, pinned` : words(model.state).toLowerCase();
    return [
      model.name,
      { text: model.reason ? `${state}: ${model.reason}` : state, class: model.state === "READY" ? "good" : null },
      bytes(model.bytes),
      significant(model.requests_per_second),
      significant(model.score),
      milliseconds(model.reload_s * 1000),
      duration(model.idle_s),
      this.buttonsOf(model),
    ];
  }

  buttonsOf({ name, pinned }) {
    const key = `${name} ${pinned}`;
    if (!this.buttons.has(key)) {
      const verbs = ["warm", pinned ? "unpin" : "pin"];
      this.buttons.set(key, controls({ name, verbs, say: (text) => setText(this.told, text) }));
    }
    return this.buttons.get(key);
  }
}

/** Three digits that count, however small the number. */
function significant(value) {
  return value === 0 ? "0" : Number(value.toPrecision(3)).toString();
}
