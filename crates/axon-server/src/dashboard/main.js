// Which view is shown, and the line that says how the server is.

import { follow, get } from "./api.js";
import { make, setAttribute, setText } from "./dom.js";
import { duration } from "./format.js";
import { showModel } from "./model.js";
import { showModels } from "./models.js";

let leaving = new AbortController();

/** Says in the head of the page how the server is. */
function showStatus(server) {
  const ready = server.ready ? "ready" : `not ready: ${server.not_ready_because}`;
  const status = document.getElementById("status");
  setText(status, `${ready}, up for ${duration(server.uptime_s)}`);
  setAttribute(status, "class", server.ready ? "good" : "bad");
  setText(document.getElementById("version"), server.version);
}

function showFailure(error) {
  const status = document.getElementById("status");
  setText(status, `No answer: ${error.message}`);
  setAttribute(status, "class", "bad");
}

/** The view that the address names: `#/` or `#/models/NAME/VERSION`. */
function viewOf(hash) {
  const [, kind, name, version] = hash.slice(1).split("/");
  if (kind !== "models" || !name || !version) return { title: "Models", show: showModels };
  const model = { name: decodeURIComponent(name), version: decodeURIComponent(version) };
  return { title: model.name, show: (place) => showModel(place, model) };
}

/** Puts up the view that the address names. `moves` is true when somebody went there, and the focus goes along. */
function show(moves) {
  leaving.abort();
  leaving = new AbortController();
  const place = document.getElementById("view");
  let view;
  try {
    view = viewOf(location.hash || "#/");
  } catch {
    place.replaceChildren(make("p", { class: "bad" }, "The address names no model."));
    return;
  }
  document.title = `${view.title} – Axon`;
  place.replaceChildren();
  const update = view.show(place, leaving.signal);
  const look = async () => {
    const overview = await get("v2/axon/overview");
    showStatus(overview.server);
    await update(overview);
  };
  follow(look, showFailure, leaving.signal);
  if (moves) {
    place.focus();
    scrollTo(0, 0);
  }
}

addEventListener("hashchange", () => show(true));
// The address names the view, so that this link must not become a part of it.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("view").focus();
});
show(false);
