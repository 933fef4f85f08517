// Models that are in the repository and not loaded, where they can be loaded on request.

import { post } from "./api.js";
import { canControl, controls } from "./control.js";
import { make, Rows, setText } from "./dom.js";

/** The repository's folder is read for each look at it: one look in so many. */
const EVERY = 5;

/** A table of what could be loaded; hidden where nothing can be. */
export class Shelf {
  constructor(signal) {
    this.signal = signal;
    this.rows = new Rows(["Model", "State", "Change"]);
    this.told = make("p", { role: "status" });
    const table = this.rows.table("In the repository and not loaded");
    this.element = make("div", {}, make("h3", {}, "Not loaded"), table, this.told);
    this.element.hidden = true;
    this.looks = 0;
    this.buttons = new Map();
  }

  async update({ server, models }) {
    if (!canControl(server)) return;
    // A change of what is loaded is seen at once, one of the folder a little later.
    const loaded = models.map(({ name, state }) => `${name} ${state}`).join();
    this.looks = loaded === this.loaded ? this.looks + 1 : 0;
    this.loaded = loaded;
    if (this.looks % EVERY) return;
    const index = await post("v2/repository/index", {});
    if (this.signal.aborted) return;
    const present = new Set(models.filter(({ state }) => state !== "UNAVAILABLE").map(({ name }) => name));
    const away = index.filter(({ name }) => !present.has(name));
    this.element.hidden = away.length === 0 && !this.told.textContent;
    this.rows.body.parentElement.hidden = away.length === 0;
    this.rows.update(away.map(({ name, version, state, reason }) => ({
      key: `${name}/${version ?? ""}`,
      cells: [name, reason || state || "never loaded", this.buttonsOf(name)],
    })));
  }

  buttonsOf(name) {
    if (!this.buttons.has(name)) {
      this.buttons.set(name, controls({ name, verbs: ["load"], say: (text) => setText(this.told, text) }));
    }
    return this.buttons.get(name);
  }
}
