// From an image to a network's input, value by value as bcdnet.runtime.preprocess does it with Pillow and numpy.

const MAX_RESIZED = 2 ** 26; // pixels: an image one pixel wide would grow without bound
const PRECISION = 22; // bits of Pillow's fixed-point weights
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: bicubic },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function sinc(x) {
  if (x === 0) return 1;
  x *= Math.PI;
  return Math.sin(x) / x;
}

/** For each output position: the first input position and the fixed-point weights from there on. */
function windows(inSize, outSize, { support, weight }) {
  const scale = inSize / outSize, stretch = Math.max(scale, 1), reach = support * stretch;
  return Array.from({ length: outSize }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const last = Math.min(inSize, Math.trunc(center + reach + 0.5));
    const weights = new Float64Array(last - first);
    let sum = 0;
    for (let x = 0; x < weights.length; ++x) sum += weights[x] = weight((x + first - center + 0.5) * (1 / stretch));
    return {
      first,
      weights: weights.map((w) => {
        const share = sum === 0 ? w : w / sum;
        return Math.trunc(share * 2 ** PRECISION + (share < 0 ? -0.5 : 0.5));
      }),
    };
  });
}

/** One axis of Pillow's resize. `pixels` holds `lines` lines of inSize elements that lie `step` apart. */
function resizeAxis(pixels, lines, inSize, outSize, filter, lineStep, outLineStep, step) {
  const out = new Uint8ClampedArray(lines * outSize * 3);
  windows(inSize, outSize, filter).forEach(({ first, weights }, i) => {
    for (let line = 0; line < lines; ++line) {
      const from = line * lineStep + first * step, to = line * outLineStep + i * step;
      for (let c = 0; c < 3; ++c) {
        let sum = 2 ** (PRECISION - 1);
        for (let x = 0; x < weights.length; ++x) sum += pixels[from + x * step + c] * weights[x];
        out[to + c] = Math.floor(sum / 2 ** PRECISION); // clamps to 0..255
      }
    }
  });
  return out;
}

function resizeNearest(pixels, [width, height], [outWidth, outHeight]) {
  const out = new Uint8ClampedArray(outWidth * outHeight * 3);
  // Pillow adds step upon step.
  const places = (inSize, outSize) => {
    const step = inSize / outSize;
    let at = step * 0.5;
    return Array.from({ length: outSize }, () => {
      const place = Math.min(Math.floor(at), inSize - 1);
      at += step;
      return place;
    });
  };
  const columns = places(width, outWidth);
  places(height, outHeight).forEach((row, y) => {
    columns.forEach((column, x) => {
      for (let c = 0; c < 3; ++c) out[(y * outWidth + x) * 3 + c] = pixels[(row * width + column) * 3 + c];
    });
  });
  return out;
}

/** Pillow's resize of RGB bytes [height][width][3]. */
export function resize(pixels, [width, height], [outWidth, outHeight], interpolation) {
  if (interpolation === "nearest") return resizeNearest(pixels, [width, height], [outWidth, outHeight]);
  const filter = FILTERS[interpolation];
  const horizontally = () => {
    if (outWidth === width) return;
    pixels = resizeAxis(pixels, height, width, outWidth, filter, width * 3, outWidth * 3, 3);
    width = outWidth;
  };
  const vertically = () => {
    if (outHeight === height) return;
    pixels = resizeAxis(pixels, width, height, outHeight, filter, 3, 3, width * 3);
    height = outHeight;
  };
  // Each axis rounds to bytes, so their order shows: this is Pillow 13's.
  const removed = height - outHeight;
  const order = removed > 0 && removed > 2 * (width - outWidth) ? [vertically, horizontally] : [horizontally, vertically];
  order.forEach((pass) => pass());
  return pixels;
}

/** Python's round: halves to the even neighbour. */
function roundHalfEven(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** {size: [width, height] after resizing, left, top: of the crop in it}. */
export function cropPlan(width, height, { inputSize, cropPct }) {
  const [, inHeight, inWidth] = inputSize;
  if (width === inWidth && height === inHeight) return { size: [width, height], left: 0, top: 0 };
  const rows = roundHalfEven(inHeight / cropPct), columns = roundHalfEven(inWidth / cropPct);
  const size =
    width * rows <= height * columns
      ? [columns, Math.trunc((columns * height) / width)]
      : [Math.trunc((rows * width) / height), rows];
  return { size, left: roundHalfEven((size[0] - inWidth) / 2), top: roundHalfEven((size[1] - inHeight) / 2) };
}

/** RGBA bytes (ImageData) -> float32 [C][H][W], normalised. Transparency is dropped, as Pillow does. */
export function toInput({ data, width, height }, preprocess) {
  const [channels, rows, columns] = preprocess.inputSize;
  let pixels = new Uint8ClampedArray(width * height * 3);
  for (let i = 0; i < width * height; ++i) {
    const [r, g, b] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    // One channel: Pillow's luma.
    const grey = channels === 1 ? (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16 : 0;
    pixels[3 * i] = channels === 1 ? grey : r;
    pixels[3 * i + 1] = channels === 1 ? grey : g;
    pixels[3 * i + 2] = channels === 1 ? grey : b;
  }
  const { size, left, top } = cropPlan(width, height, preprocess);
  if (size[0] * size[1] > MAX_RESIZED) throw new Error("the image is too long for its width");
  pixels = resize(pixels, [width, height], size, preprocess.interpolation);
  const input = new Float32Array(channels * rows * columns);
  for (let c = 0; c < channels; ++c) {
    // The same two float32 roundings as in training: one multiply, one add.
    const factor = Math.fround(1 / (255 * preprocess.std[c]));
    const offset = Math.fround(-preprocess.mean[c] / preprocess.std[c]);
    for (let y = 0; y < rows; ++y) {
      for (let x = 0; x < columns; ++x) {
        const value = pixels[((y + top) * size[0] + x + left) * 3 + c];
        input[(c * rows + y) * columns + x] = Math.fround(Math.fround(value * factor) + offset);
      }
    }
  }
  return input;
}
