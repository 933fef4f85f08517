// Loading, unloading and pinning: only where the server takes such requests.

import { post } from "./api.js";
import { make } from "./dom.js";

/** What is on the button of a verb, what is said while it is done, and when it was. */
const VERBS = {
  load: ["Load", "Loading", "loaded"],
  unload: ["Unload", "Unloading", "unloaded"],
  warm: ["Load now", "Loading", "loaded"],
  pin: ["Pin", "Pinning", "pinned"],
  unpin: ["Unpin", "Unpinning", "unpinned"],
};

/** Whether the server loads and unloads whatever is asked. */
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
    const [title, doing, done] = VERBS[verb];
    const button = make("button", { type: "button", "aria-label": `${title} ${name}` }, title);
    button.addEventListener("click", async () => {
      if (verb === "unload" && !(await confirmed(name))) return;
      button.disabled = true;
      say(`${doing} ${name}.`);
      try {
        await post(`v2/repository/models/${encodeURIComponent(name)}/${verb}`, {});
        say(`${name} was ${done}.`);
      } catch (error) {
        say(`${name} was not ${done}: ${error.message}`);
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
