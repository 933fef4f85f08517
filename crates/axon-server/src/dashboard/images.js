// An image as a tensor: where a model's input has the shape of one.

/** The sizes that stand for a dimension of any size. */
const ANY_SIZE = 224;
const LARGEST_SIDE = 4096;
const SMALLEST_SIDE = 8;

/** How the values 0 to 255 of a channel become what a model wants. Mean and deviation are those of ImageNet. */
export const SCALES = {
  "0 to 1": (value) => value / 255,
  "0 to 255": (value) => value,
  "−1 to 1": (value) => value / 127.5 - 1,
  "ImageNet": (value, channel) => (value / 255 - [0.485, 0.456, 0.406][channel]) / [0.229, 0.224, 0.225][channel],
};

/** Which scales a type can hold. */
export function scalesOf(datatype) {
  return datatype === "UINT8" ? ["0 to 255"] : Object.keys(SCALES);
}

/**
 * How an input lays out an image, or null when it is not shaped like one: three or four dimensions, one or three
 * channels first or last. `sides` says which dimensions are height and width.
 */
export function layoutOf({ datatype, shape }) {
  if (!["UINT8", "FP16", "FP32", "FP64"].includes(datatype) || shape.length < 3 || shape.length > 4) return null;
  const from = shape.length - 3;
  const isSide = (size) => size < 0 || (size >= SMALLEST_SIDE && size <= LARGEST_SIDE);
  const isChannels = (size) => size === 1 || size === 3;
  const [first, second, third] = shape.slice(from);
  if (isChannels(first) && isSide(second) && isSide(third)) {
    return { order: "channels first", channels: first, sides: [from + 1, from + 2] };
  }
  if (isChannels(third) && isSide(first) && isSide(second)) {
    return { order: "channels last", channels: third, sides: [from, from + 1] };
  }
  return null;
}

/** The size to suggest for a dimension of any size. */
export function suggestedSize(layout, dimension) {
  return layout?.sides.includes(dimension) ? ANY_SIZE : 1;
}

/** Reads an image file, fits it to the shape, and returns the values of one row in the layout's order. */
export async function valuesOf(file, { layout, shape, scale }) {
  const [height, width] = layout.sides.map((dimension) => shape[dimension]);
  if (height > LARGEST_SIDE || width > LARGEST_SIDE) throw new Error(`a side has at most ${LARGEST_SIDE} pixels`);
  const picture = await createImageBitmap(file);
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  // What is transparent is white.
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  picture.close();
  return arrange(context.getImageData(0, 0, width, height).data, { pixels: width * height, layout, scale });
}

/** Puts red, green, blue and alpha by pixel into the layout's order; grey is their luma. Source: ITU-R BT.601. */
function arrange(data, { pixels, layout, scale }) {
  const { channels, order } = layout;
  const values = new Float32Array(pixels * channels);
  for (let pixel = 0; pixel < pixels; pixel += 1) {
    const [red, green, blue] = data.subarray(pixel * 4, pixel * 4 + 3);
    const of = channels === 3 ? [red, green, blue] : [Math.round(0.299 * red + 0.587 * green + 0.114 * blue)];
    for (let channel = 0; channel < channels; channel += 1) {
      const at = order === "channels first" ? channel * pixels + pixel : pixel * channels + channel;
      values[at] = SCALES[scale](of[channel], channel);
    }
  }
  return values;
}
