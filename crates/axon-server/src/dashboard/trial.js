// A form made from a model's metadata that asks the model, and shows what it answers and how long that took.

import { address, modelPath, parse } from "./api.js";
import { make, section } from "./dom.js";
import { count, milliseconds, shape as shapeText } from "./format.js";
import { layoutOf, scalesOf, suggestedSize, valuesOf } from "./images.js";
import { elementsOf, generator, madeUp, MOST_AS_TEXT, MOST_ELEMENTS, requestOf } from "./tensors.js";

/** Milliseconds after which nobody waits any more. */
const PATIENCE = 120_000;
/** Elements of an output that are shown, and the largest that are named of a row. */
const MOST_SHOWN = 100;
const MOST_NAMED = 5;

/** The form of one model. */
export class Trial {
  constructor(name, version) {
    this.path = modelPath(name, version, "/infer");
    this.seed = 1;
    this.inputs = [];
    this.form = make("form");
    this.answer = make("div", { class: "answer", role: "status" });
    this.element = section("Try it", this.form, this.answer);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
  }

  /** Makes the fields for the inputs. */
  fill({ inputs }) {
    this.inputs = inputs.map((input, index) => new Input(input, index));
    const other = make("button", { type: "button" }, "Other random values");
    other.addEventListener("click", () => {
      this.seed += 1;
      this.inputs.forEach((input) => input.randomise(this.seed));
    });
    const buttons = make("p", { class: "controls" }, make("button", { type: "submit" }, "Send"), other);
    this.form.replaceChildren(...this.inputs.map(({ element }) => element), buttons);
    this.inputs.forEach((input) => input.randomise(this.seed));
  }

  async send() {
    const button = this.form.querySelector("[type=submit]");
    button.disabled = true;
    this.answer.replaceChildren(make("p", {}, "Sent."));
    try {
      const request = requestOf(await Promise.all(this.inputs.map((input) => input.tensor())));
      this.answer.replaceChildren(...(await ask(this.path, request)));
    } catch (error) {
      this.answer.replaceChildren(make("p", { class: "bad" }, error.message));
    }
    button.disabled = false;
  }
}

/** Sends a request and returns what is to be shown of the answer. */
async function ask(path, { body, headers }) {
  const started = performance.now();
  const signal = AbortSignal.timeout(PATIENCE);
  const response = await fetch(address(path), { method: "POST", headers, body, signal });
  const text = await response.text();
  const took = performance.now() - started;
  let document;
  try {
    document = parse(text);
  } catch {
    return [make("p", { class: "bad" }, `status ${response.status}, and no JSON`), make("pre", { tabindex: 0 }, text)];
  }
  if (!response.ok) {
    const code = `${response.status} ${document.code ?? ""}`.trim();
    return [make("p", { class: "bad" }, `${code}: ${document.error ?? text}`)];
  }
  return [timesOf(response.headers, took), ...document.outputs.map(outputView)];
}

function timesOf(headers, took) {
  const tell = (name) => Number(headers.get(name));
  const rows = tell("x-axon-batch-size");
  const parts = [
    `answered in ${milliseconds(took)}`, `waited ${milliseconds(tell("x-axon-queue-ms"))}`,
    `ran ${milliseconds(tell("x-axon-compute-ms"))}`, `${count(rows)} ${rows === 1 ? "row" : "rows"} in the run`,
  ];
  return make("p", { class: "good" }, parts.join(", "));
}

/** An output's name, type, shape and first elements, and the largest of its first row. */
function outputView({ name, datatype, shape, data }) {
  const flat = data.flat(Infinity);
  const rest = flat.length > MOST_SHOWN ? `, … ${count(flat.length - MOST_SHOWN)} more` : "";
  const shown = flat.slice(0, MOST_SHOWN).map((value) => JSON.stringify(value)).join(", ");
  const head = make("h3", {}, name, make("small", {}, ` ${datatype} ${shapeText(shape)}`));
  const parts = [head, make("pre", { tabindex: 0, "data-output": name }, `${shown}${rest}`)];
  const classes = shape.length === 2 && datatype.startsWith("FP") ? flat.slice(0, shape[1]) : [];
  if (classes.length > 1) {
    const best = classes.map((value, index) => ({ value, index })).sort((one, other) => other.value - one.value);
    const told = best.slice(0, MOST_NAMED).map(({ value, index }) => `${index}: ${Number(value).toPrecision(4)}`);
    parts.push(make("p", { class: "quiet" }, `Largest of the first row: ${told.join(", ")}`));
  }
  return make("div", {}, ...parts);
}

/** The fields of one input. */
class Input {
  constructor({ name, datatype, shape }, index) {
    Object.assign(this, { name, datatype, index, seed: 1 });
    this.layout = layoutOf({ datatype, shape });
    this.sizes = shape.map((size, dimension) => (size < 0 ? this.sizeField(dimension) : size));
    this.source = this.sourceField();
    this.values = make("textarea", { spellcheck: "false", rows: 4 });
    this.file = make("input", { type: "file", accept: "image/*" });
    this.scale = make("select", {}, ...scalesOf(datatype).map((scale) => make("option", {}, scale)));
    this.parts = {
      JSON: make("label", {}, "Values, row by row", this.values),
      image: make("div", { class: "fields" }, make("label", {}, "Image", this.file), make("label", {}, "Values", this.scale)),
      random: make("p", { class: "quiet" }, "Made-up values, too many to show."),
    };
    const fields = this.sizes.flatMap((size) => (typeof size === "number" ? [] : [size.parentElement]));
    const legend = make("legend", {}, name, make("small", {}, ` ${datatype} ${shapeText(shape)}`));
    this.element = make(
      "fieldset", {}, legend, make("div", { class: "fields" }, this.source.parentElement, ...fields), ...Object.values(this.parts),
    );
    this.show();
  }

  sizeField(dimension) {
    const value = suggestedSize(this.layout, dimension);
    const field = make("input", { type: "number", min: 0, step: 1, value, required: "" });
    field.addEventListener("change", () => this.randomise(this.seed));
    make("label", {}, `Size of dimension ${dimension}`, field);
    return field;
  }

  sourceField() {
    const kinds = this.layout ? ["JSON", "image", "random"] : ["JSON", "random"];
    const field = make("select", {}, ...kinds.map((kind) => make("option", { value: kind }, kind)));
    field.addEventListener("change", () => this.show());
    make("label", {}, "Values from", field);
    return field;
  }

  /** Shows the part that the values come from. */
  show() {
    for (const [kind, part] of Object.entries(this.parts)) part.hidden = kind !== this.source.value;
  }

  get shape() {
    return this.sizes.map((size) => (typeof size === "number" ? size : Number(size.value)));
  }

  get random() {
    const elements = elementsOf(this.shape);
    if (elements > MOST_ELEMENTS) throw new Error(`${this.name}: at most ${count(MOST_ELEMENTS)} elements`);
    return madeUp(this.datatype, elements, generator(this.seed + this.index * 7919));
  }

  /** Puts other made-up values where they can be seen and changed, if they are few enough. */
  randomise(seed) {
    this.seed = seed;
    const isShort = elementsOf(this.shape) <= MOST_AS_TEXT;
    if (isShort) this.values.value = `[${this.random.map((value) => JSON.stringify(value)).join(", ")}]`;
    else if (this.source.value === "JSON") this.source.value = "random";
    this.source.querySelector("[value=JSON]").disabled = !isShort;
    this.show();
  }

  /** What is to be sent. */
  async tensor() {
    const { name, datatype, shape } = this;
    switch (this.source.value) {
      case "image": {
        const [file] = this.file.files;
        if (!file) throw new Error(`${name}: choose an image`);
        if (this.shape.length === 4 && shape[0] !== 1) throw new Error(`${name}: an image is one row, not ${shape[0]}`);
        const values = await valuesOf(file, { layout: this.layout, shape, scale: this.scale.value });
        return { name, datatype, shape, values };
      }
      case "random":
        return { name, datatype, shape, values: this.random };
      default:
        return { name, datatype, shape, text: checked(name, this.values.value) };
    }
  }
}

/** JSON as it was typed, if it is an array. */
function checked(name, text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`${name}: ${error.message}`);
  }
  if (!Array.isArray(value)) throw new Error(`${name}: expected an array`);
  return text;
}
