// From an image to a network's input, value by value as bcdnet.runtime.preprocess does it with Pillow and numpy.

const MAX_RESIZED = 2 ** 26; // pixels: an image one pixel wide would grow without bound
const PRECISION = 22; // bits of Pillow's fixed-point weights
const HALF = 2 ** (PRECISION - 1);
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

/** The first input position that an output position sees, and the fixed-point weights from there on. */
function windowAt(position, scale, inSize, { support, weight }) {
  const stretch = Math.max(scale, 1), reach = support * stretch, center = (position + 0.5) * scale;
  const first = Math.max(0, Math.trunc(center - reach + 0.5));
  const last = Math.min(inSize, Math.trunc(center + reach + 0.5));
  const weights = Array.from({ length: last - first }, (_, x) => weight((x + first - center + 0.5) * (1 / stretch)));
  const sum = weights.reduce((a, b) => a + b, 0);
  const fixed = weights.map((w) => {
    const share = sum === 0 ? w : w / sum;
    return Math.trunc(share * 2 ** PRECISION + (share < 0 ? -0.5 : 0.5));
  });
  return { first, last, weights: Int32Array.from(fixed) };
}

/** Of an axis, {inSize, outSize, begin, kept}, those of the positions that are kept. */
function windows({ inSize, outSize, begin, kept }, filter) {
  return Array.from({ length: kept }, (_, i) => {
    const position = begin + i;
    // An axis that keeps its size is not filtered.
    if (inSize === outSize) return { first: position, last: position + 1, weights: Int32Array.of(2 ** PRECISION) };
    return windowAt(position, inSize / outSize, inSize, filter);
  });
}

/** Rows of `width` RGB pixels -> rows of across.length ones. Only the rows from `begin` to `end` are made. */
function horizontally(pixels, width, across, begin, end) {
  const out = new Uint8ClampedArray(3 * across.length * end);
  let to = 3 * across.length * begin;
  for (let y = begin; y < end; ++y) {
    for (const { first, weights } of across) {
      let r = HALF, g = HALF, b = HALF, from = 3 * (y * width + first);
      for (const weight of weights) {
        r += pixels[from++] * weight;
        g += pixels[from++] * weight;
        b += pixels[from++] * weight;
      }
      out[to++] = r >> PRECISION; // clamps to 0..255
      out[to++] = g >> PRECISION;
      out[to++] = b >> PRECISION;
    }
  }
  return out;
}

function vertically(pixels, width, down) {
  const row = 3 * width, sums = new Int32Array(row);
  const out = new Uint8ClampedArray(row * down.length);
  down.forEach(({ first, weights }, y) => {
    sums.fill(HALF);
    for (let i = 0; i < weights.length; ++i) {
      const from = row * (first + i), weight = weights[i];
      for (let x = 0; x < row; ++x) sums[x] += pixels[from + x] * weight;
    }
    for (let x = 0; x < row; ++x) out[row * y + x] = sums[x] >> PRECISION;
  });
  return out;
}

/** The input position that each kept position takes. */
function nearestPlaces({ inSize, outSize, begin, kept }) {
  const step = inSize / outSize, places = [];
  let at = step * 0.5; // Pillow adds step upon step
  for (let i = 0; i < begin + kept; ++i, at += step) {
    if (i >= begin) places.push(Math.min(Math.floor(at), inSize - 1));
  }
  return places;
}

function nearest(pixels, columns, rows) {
  const out = new Uint8ClampedArray(3 * columns.kept * rows.kept);
  const places = nearestPlaces(columns);
  let to = 0;
  for (const y of nearestPlaces(rows)) {
    for (const x of places) {
      const from = 3 * (y * columns.inSize + x);
      for (let c = 0; c < 3; ++c) out[to++] = pixels[from + c];
    }
  }
  return out;
}

/** The kept part [rows.kept][columns.kept][3] of Pillow's resize of RGB bytes [rows.inSize][columns.inSize][3]. */
function resize(pixels, columns, rows, interpolation) {
  if (interpolation === "nearest") return nearest(pixels, columns, rows);
  const across = windows(columns, FILTERS[interpolation]), down = windows(rows, FILTERS[interpolation]);
  // Each axis rounds to bytes, so their order shows: this is Pillow 13's.
  const removed = rows.inSize - rows.outSize;
  if (removed > 0 && removed > 2 * (columns.inSize - columns.outSize)) {
    return horizontally(vertically(pixels, columns.inSize, down), columns.inSize, across, 0, rows.kept);
  }
  const narrow = horizontally(pixels, columns.inSize, across, down[0].first, down.at(-1).last);
  return vertically(narrow, columns.kept, down);
}

/** Python's round: halves to the even neighbour. */
function roundHalfEven(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The size [width, height] that the whole image is resized to. */
function resizedSize(width, height, { inputSize, cropPct }) {
  const [, inHeight, inWidth] = inputSize;
  if (width === inWidth && height === inHeight) return [width, height];
  const rows = roundHalfEven(inHeight / cropPct), columns = roundHalfEven(inWidth / cropPct);
  return width * rows <= height * columns
    ? [columns, Math.trunc((columns * height) / width)]
    : [Math.trunc((rows * width) / height), rows];
}

/** One axis: its size before and after the resize, and the part of the latter that is kept. */
function axis(inSize, outSize, kept) {
  return { inSize, outSize, begin: roundHalfEven((outSize - kept) / 2), kept };
}

/** RGBA bytes (ImageData) -> float32 [C][H][W], normalised. Transparency is dropped, as Pillow does. */
export function toInput({ data, width, height }, preprocess) {
  const [channels, rows, columns] = preprocess.inputSize;
  const [outWidth, outHeight] = resizedSize(width, height, preprocess);
  if (outWidth * outHeight > MAX_RESIZED) throw new Error("the image is too long for its width");
  let pixels = new Uint8ClampedArray(3 * width * height);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
    const r = data[from], g = data[from + 1], b = data[from + 2];
    if (channels === 1) {
      pixels[to] = pixels[to + 1] = pixels[to + 2] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16; // Pillow's luma
    } else {
      pixels[to] = r;
      pixels[to + 1] = g;
      pixels[to + 2] = b;
    }
  }
  pixels = resize(pixels, axis(width, outWidth, columns), axis(height, outHeight, rows), preprocess.interpolation);
  const input = new Float32Array(channels * rows * columns);
  for (let c = 0; c < channels; ++c) {
    // The same two float32 roundings as in training: one multiply, one add.
    const factor = Math.fround(1 / (255 * preprocess.std[c]));
    const offset = Math.fround(-preprocess.mean[c] / preprocess.std[c]);
    for (let i = 0; i < rows * columns; ++i) {
      input[c * rows * columns + i] = Math.fround(Math.fround(pixels[3 * i + c] * factor) + offset);
    }
  }
  return input;
}
