// Tensors for a request: made-up values that fit, and the body that carries them.

/** More elements than this go as bytes behind the JSON: text of them would be slow. */
export const MOST_AS_TEXT = 4096;

/** The most elements of one input: the form is for trying. */
export const MOST_ELEMENTS = 16_000_000;

/** Types whose elements are little-endian numbers that JavaScript has an array for. */
const ARRAYS = {
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  INT64: BigInt64Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  UINT64: BigUint64Array,
  FP32: Float32Array,
  FP64: Float64Array,
};

const WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"];

/** The elements of a shape. */
export function elementsOf(shape) {
  return shape.reduce((product, size) => product * size, 1);
}

/** A generator of numbers from 0 to 1 that a seed repeats. Source: mulberry32, public domain. */
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** So many made-up elements: fractions from 0 to 1, whole numbers from 0 to 99, or words. */
export function madeUp(datatype, elements, next) {
  const one = {
    BOOL: () => next() < 0.5,
    BYTES: () => WORDS[Math.floor(next() * WORDS.length)],
  }[datatype] ?? (datatype.includes("INT") ? () => Math.floor(next() * 100) : () => Math.round(next() * 1e4) / 1e4);
  return Array.from({ length: elements }, one);
}

/**
 * The body of an infer request and its headers. `inputs` are `{ name, datatype, shape, values }` with an array of
 * values, or with `text`, JSON that is sent as it stands: numbers that JavaScript would round arrive as they are.
 */
export function requestOf(inputs) {
  const binary = [];
  const members = inputs.map(({ name, datatype, shape, values, text }) => {
    const head = `"name":${JSON.stringify(name)},"datatype":${JSON.stringify(datatype)},"shape":${JSON.stringify(shape)}`;
    const type = ARRAYS[datatype];
    if (text !== undefined) return `{${head},"data":${text}}`;
    if (values.length <= MOST_AS_TEXT || !type) return `{${head},"data":${JSON.stringify(Array.from(values))}}`;
    const bytes = bytesOf(type, values);
    binary.push(bytes);
    return `{${head},"parameters":{"binary_data_size":${bytes.byteLength}}}`;
  });
  const json = `{"inputs":[${members.join(",")}]}`;
  if (!binary.length) return { body: json, headers: { "Content-Type": "application/json" } };
  const head = new TextEncoder().encode(json);
  const headers = {
    "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(head.byteLength),
  };
  return { body: new Blob([head, ...binary]), headers };
}

/** The bytes of numbers, the lowest first whatever the machine does. */
function bytesOf(type, values) {
  const isWide = type === BigInt64Array || type === BigUint64Array;
  const array = values instanceof type ? values : type.from(values, isWide ? BigInt : Number);
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  if (new Uint8Array(new Uint16Array([1]).buffer)[0] === 1) return bytes;
  const size = type.BYTES_PER_ELEMENT;
  return bytes.map((_, at) => bytes[at - (at % size) + (size - 1 - (at % size))]);
}
