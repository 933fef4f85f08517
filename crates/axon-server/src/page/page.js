// Renders the OpenAPI document of the server that this page came from.
//
// Whatever comes from the document or from an answer becomes text, never markup.
"use strict";

/** Operations that are open from the start, so that one sees at once what a model takes. */
const MOST_OPEN = 4;

/** The most elements that an example has. */
const MOST_ELEMENTS = 20000;

/** The most characters of an answer that are shown. */
const MOST_SHOWN = 100000;

let api = {};

/** Makes an element; children that are no elements become text. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A sentence of the document as children: what is in backticks is code. */
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

/** Follows a reference inside the document, by its own members only. */
function resolve(value) {
  const seen = new Set();
  while (value && typeof value.$ref === "string" && !seen.has(value.$ref)) {
    seen.add(value.$ref);
    const steps = value.$ref.split("/").slice(1).map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
    value = steps.reduce((at, step) => (at && Object.hasOwn(at, step) ? at[step] : undefined), api);
  }
  return value ?? {};
}

// Schemas

/** What a value is, in a few words. */
function typeOf(schema) {
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.map((choice) => typeOf(resolve(choice))).join(" or ");
  if (schema.prefixItems) {
    return `[${schema.prefixItems.map((item) => resolve(item).title ?? typeOf(resolve(item))).join(", ")}]`;
  }
  const type = [schema.type ?? "any"].flat().join(" | ");
  if (type === "array") {
    const length = schema.minItems && schema.minItems === schema.maxItems ? `${schema.minItems} ` : "";
    return schema.items ? `array of ${length}${typeOf(resolve(schema.items))}` : "array";
  }
  return type + bounds(schema);
}

function bounds({ minimum, maximum }) {
  // Larger ones are not what the document says any more.
  const shown = (bound) => (Number.isSafeInteger(bound) ? String(bound) : "");
  if (!shown(minimum) && !shown(maximum)) return "";
  return shown(maximum) ? ` ${shown(minimum)} to ${shown(maximum)}` : ` at least ${shown(minimum)}`;
}

/** The members of a schema as a list in lists; null when it has none. */
function membersOf(schema, open = new Set()) {
  schema = resolve(schema);
  if (open.has(schema)) return null;
  open.add(schema);
  const list = make("ul", { class: "members" });
  const properties = schema.properties ?? {};
  const required = (schema.required ?? []).filter((name) => Object.hasOwn(properties, name));
  const optional = Object.keys(properties).filter((name) => !required.includes(name));
  for (const name of [...required, ...optional]) {
    list.append(memberOf(name, properties[name], required.includes(name), open));
  }
  const choices = (schema.oneOf ?? schema.anyOf ?? []).filter((choice) => resolve(choice).properties);
  for (const choice of choices) {
    const item = make("li", {}, make("span", { class: "quiet" }, resolve(choice).title ?? "one of"));
    const inner = membersOf(choice, open);
    if (inner) item.append(inner);
    list.append(item);
  }
  const inItems = schema.items ? membersOf(schema.items, open) : null;
  open.delete(schema);
  if (inItems) list.append(...inItems.children);
  return list.children.length ? list : null;
}

function memberOf(name, member, required, open) {
  const schema = resolve(member);
  const inner = membersOf(schema, open);
  const type = inner ? [schema.type ?? "any"].flat().join(" | ") : typeOf(schema);
  const item = make("li", {}, make("span", { class: "name" }, name), " ", make("span", { class: "type" }, type));
  if (required) item.append(make("span", { class: "quiet" }, ", required"));
  if (schema.description) item.append(make("div", { class: "quiet" }, ...prose(schema.description)));
  if (inner) item.append(inner);
  return item;
}

/** The media types of a body and their schemas. */
function contentOf(content) {
  const parts = [];
  for (const [media, { schema }] of Object.entries(content ?? {})) {
    const resolved = resolve(schema);
    const members = schema ? membersOf(resolved) : null;
    const line = make("p", {}, make("code", {}, media));
    if (schema && !members) line.append(" ", make("span", { class: "type" }, typeOf(resolved)));
    parts.push(line);
    if (resolved.description) parts.push(make("p", { class: "quiet" }, ...prose(resolved.description)));
    if (members) parts.push(members);
  }
  return parts;
}

// Examples

/** A value that fits a schema: what is required, with zeros. */
function example(schema) {
  schema = resolve(schema);
  if ("const" in schema) return schema.const;
  if (schema.enum) return schema.enum[0];
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices) return example(choices[0]);
  switch ([schema.type].flat()[0]) {
    case "object": return exampleOfObject(schema);
    case "array": return exampleOfArray(schema);
    case "boolean": return false;
    case "string": return "";
    default: return Math.max(schema.minimum ?? 0, 0);
  }
}

function exampleOfObject(schema) {
  // Without a prototype: a model may call an input whatever it likes.
  const value = Object.create(null);
  const properties = schema.properties ?? {};
  for (const name of schema.required ?? []) {
    value[name] = example(properties[name]);
  }
  if (properties.data && properties.shape) {
    value.shape = value.shape.map((size) => Math.max(size, 1));
    const count = value.shape.reduce((product, size) => product * size, 1);
    const element = example(resolve(properties.data).items ?? {});
    value.data = count > MOST_ELEMENTS ? [] : Array(count).fill(element);
  }
  return value;
}

function exampleOfArray(schema) {
  if (schema.prefixItems) return schema.prefixItems.map(example);
  const items = resolve(schema.items);
  const least = schema.minItems ?? 0;
  if (items.oneOf && items.oneOf.length === least) return items.oneOf.map(example);
  return Array(Math.min(least, MOST_ELEMENTS)).fill(example(items));
}

/** JSON with arrays of plain values in one line. */
function write(value, indent = "") {
  const inner = `${indent}  `;
  if (Array.isArray(value) && value.some((item) => typeof item === "object" && item !== null)) {
    return `[\n${value.map((item) => inner + write(item, inner)).join(",\n")}\n${indent}]`;
  }
  if (Array.isArray(value)) return `[${value.map((item) => JSON.stringify(item)).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    const members = Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${write(item, inner)}`);
    return members.length ? `{\n${members.join(",\n")}\n${indent}}` : "{}";
  }
  return JSON.stringify(value);
}

// Trying

/** True for what changes nothing on the server. */
function canBeTried(method, operation) {
  return method === "get" || /^(infer|generate)/.test(operation.operationId);
}

/** A form that sends the operation, and what came of it. */
function trial(method, path, operation) {
  const form = make("form");
  const fields = new Map();
  const inPath = (operation.parameters ?? []).map(resolve).filter((parameter) => parameter.in === "path");
  for (const { name } of inPath) {
    const field = make("input", { required: "", autocomplete: "off" });
    fields.set(name, field);
    form.append(make("label", {}, name, field));
  }
  const schema = operation.requestBody?.content?.["application/json"]?.schema;
  const body = schema ? make("textarea", { spellcheck: "false" }) : null;
  if (body) {
    body.value = write(example(schema));
    form.append(make("label", {}, "body", body));
  }
  form.append(make("button", { type: "submit" }, "Send"));
  const answer = make("div", { role: "status" });
  form.append(answer);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const filled = path.replace(/\{(\w+)\}/g, (whole, name) => encodeURIComponent(fields.get(name)?.value ?? whole));
    send(method, filled, body?.value, answer);
  });
  return form;
}

async function send(method, path, body, answer) {
  answer.replaceChildren("Sent.");
  const started = performance.now();
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  try {
    const response = await fetch(new URL(path.slice(1), document.baseURI), { method, headers, body });
    const text = await response.text();
    const took = Math.round(performance.now() - started);
    const status = `${response.status} ${response.statusText}`.trim();
    const line = make("p", response.ok ? {} : { class: "bad" }, `${status}, ${text.length} characters, ${took} ms`);
    const shown = text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text;
    answer.replaceChildren(line, ...(shown ? [make("pre", { tabindex: "0" }, shown)] : []));
  } catch (error) {
    answer.replaceChildren(make("p", { class: "bad" }, `No answer: ${error.message}`));
  }
}

// The page

function parametersOf(operation) {
  const list = make("ul", { class: "members" });
  for (const parameter of (operation.parameters ?? []).map(resolve)) {
    const item = memberOf(parameter.name, parameter.schema, parameter.required, new Set());
    item.append(make("div", { class: "quiet" }, `In the ${parameter.in}. `, ...prose(parameter.description ?? "")));
    list.append(item);
  }
  return list;
}

function responsesOf(operation) {
  const parts = [];
  const refusals = make("ul", { class: "members" });
  for (const [status, reference] of Object.entries(operation.responses ?? {})) {
    const response = resolve(reference);
    if (status.startsWith("2")) {
      parts.push(make("h3", {}, `Answer ${status}`), make("p", {}, ...prose(response.description)), ...contentOf(response.content));
    } else {
      const name = make("span", { class: "name" }, status);
      refusals.append(make("li", {}, name, " ", make("span", { class: "quiet" }, ...prose(response.description))));
    }
  }
  if (refusals.children.length) {
    parts.push(make("h3", {}, "Refusals"), refusals);
    const error = api.components?.schemas?.Error;
    const inner = error ? membersOf(error) : null;
    if (inner) parts.push(make("p", {}, "each with the body"), inner);
  }
  return parts;
}

function fill(body, method, path, operation) {
  if ((operation.parameters ?? []).length) {
    body.append(make("h3", {}, "Parameters"), parametersOf(operation));
  }
  if (operation.requestBody) {
    const optional = operation.requestBody.required ? "Request" : "Request, which may be empty";
    body.append(make("h3", {}, optional), ...contentOf(operation.requestBody.content));
  }
  if (canBeTried(method, operation)) {
    body.append(make("h3", {}, "Try it"), trial(method, path, operation));
  }
  body.append(...responsesOf(operation));
}

function operationView(method, path, operation, isOpen) {
  const details = make("details", { id: operation.operationId });
  details.append(make(
    "summary",
    {},
    make("span", { class: `method ${method}` }, method),
    make("span", { class: "path" }, path),
    make("span", { class: "quiet" }, operation.summary ?? ""),
  ));
  const body = make("div", { class: "body" });
  details.append(body);
  // Filled when it is first opened: a server may have thousands of models.
  const fillOnce = () => {
    if (details.open && !body.children.length) fill(body, method, path, operation);
  };
  details.addEventListener("toggle", fillOnce);
  details.open = isOpen;
  fillOnce();
  return details;
}

function render() {
  document.getElementById("version").textContent = api.info?.version ?? "";
  document.getElementById("about").textContent = api.info?.description ?? "";
  const main = document.getElementById("operations");
  const groups = document.getElementById("groups");
  const all = Object.entries(api.paths ?? {}).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ method, path, operation })));
  let open = 0;
  (api.tags ?? []).forEach((tag, index) => {
    const mine = all.filter(({ operation }) => (operation.tags ?? []).includes(tag.name));
    if (!mine.length) return;
    const id = `group-${index}`;
    groups.append(make("li", {}, make("a", { href: `#${id}` }, `${tag.name} (${mine.length})`)));
    const section = make("section", { "aria-labelledby": id }, make("h2", { id, tabindex: "-1" }, tag.name));
    section.append(make("p", { class: "quiet" }, tag.description ?? ""));
    for (const { method, path, operation } of mine) {
      const isOpen = index === 0 && open < MOST_OPEN && operation.operationId.startsWith("infer_");
      open += isOpen ? 1 : 0;
      section.append(operationView(method, path, operation, isOpen));
    }
    main.append(section);
  });
  document.getElementById("state").remove();
}

/** Opens the operation that the address names. */
function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView();
  }
}

async function start() {
  try {
    const response = await fetch(new URL("openapi.json", document.baseURI));
    if (!response.ok) throw new Error(`status ${response.status}`);
    api = await response.json();
    render();
    openNamed();
    addEventListener("hashchange", openNamed);
  } catch (error) {
    const state = document.getElementById("state");
    if (!state) throw error;
    state.className = "bad";
    state.textContent = `The document cannot be shown: ${error.message}`;
  }
}

start();
