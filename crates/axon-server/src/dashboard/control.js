// Loading and unloading: only where the server takes such requests.

import { post } from "./api.js";
import { make } from "./dom.js";

const NAMES = { load: "Load", unload: "Unload" };

/** Whether the server loads and unloads on request. */
export function canControl({ control }) {
  return control === "explicit";
}

/**
 * Buttons for a model. `say` is told what comes of them. Unloading is asked for twice: requests that come after it are
 * refused.
 */
export function controls({ name, verbs, say }) {
  const group = make("span", { class: "controls" });
  for (const verb of verbs) {
    const button = make("button", { type: "button", "aria-label": `${NAMES[verb]} ${name}` }, NAMES[verb]);
    button.addEventListener("click", async () => {
      if (verb === "unload" && !(await confirmed(name))) return;
      button.disabled = true;
      say(`${NAMES[verb]}ing ${name}.`);
      try {
        await post(`v2/repository/models/${encodeURIComponent(name)}/${verb}`, {});
        say(`${name} was ${verb}ed.`);
      } catch (error) {
        say(`${name} was not ${verb}ed: ${error.message}`);
      }
      button.disabled = false;
    });
    group.append(button);
  }
  return group;
}

/** Asks whether a model is really to be unloaded. */
function confirmed(name) {
  return new Promise((resolve) => {
    const yes = make("button", { value: "yes" }, "Unload");
    const no = make("button", { value: "no", autofocus: "" }, "Keep");
    const question = make("p", { id: "question" }, `Unload ${name}? Requests to it are refused until it is loaded again.`);
    const dialog = make(
      "dialog",
      { "aria-labelledby": "question" },
      make("form", { method: "dialog" }, question, make("p", { class: "controls" }, yes, no)),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
