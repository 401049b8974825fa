// The container of a .bcdn file: safetensors with one text in its metadata. And how its readers refuse what is wrong.
import { parseJson } from "./json.js";

export class FormatError extends Error {
  name = "FormatError";
}

const MAX_HEADER_BYTES = 100e6;
const KEY = "bcdnet_program";
const SIZES = new Map([["F32", 4], ["F16", 2], ["U32", 4]]); // bytes of a value

export function check(condition, message) {
  if (!condition) throw new FormatError(message);
}

/** Runs f; what it throws of its own accord becomes a FormatError with `where` in front. */
export function within(where, f) {
  try {
    return f();
  } catch (error) {
    throw new FormatError(`${where}: ${error.message}`);
  }
}

/** {metadata text, tensors: Map of name to {words, shape, bytes}} of an ArrayBuffer. */
export function readContainer(buffer) {
  check(buffer.byteLength >= 8, "the file is shorter than 8 bytes");
  const view = new DataView(buffer);
  const length = Number(view.getBigUint64(0, true));
  check(length <= MAX_HEADER_BYTES && 8 + length <= buffer.byteLength, "the file ends within its header");
  const header = within("the file's header", () => {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(buffer, 8, length));
    return parseJson(text);
  });
  check(header instanceof Map, "the file's header is not a JSON object");
  const metadata = header.get("__metadata__");
  check(
    metadata instanceof Map && metadata.size === 1 && typeof metadata.get(KEY) === "string",
    `not a packed program: its metadata must have exactly the key '${KEY}'`,
  );
  header.delete("__metadata__");
  const entries = [...header].map(([name, value]) => within(`tensor '${name}'`, () => readEntry(name, value)));
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let end = 0;
  for (const entry of entries) {
    check(entry.begin === end, `tensor '${entry.name}': does not begin where the one before it ends`);
    end = entry.end;
  }
  check(8 + length + end === buffer.byteLength, "the file is longer or shorter than its header says");
  const tensors = new Map();
  for (const { name, dtype, shape, begin, end } of entries) {
    const bytes = new Uint8Array(buffer, 8 + length + begin, end - begin);
    tensors.set(name, { words: dtype === "U32", shape, bytes: dtype === "F16" ? fromHalf(bytes) : bytes });
  }
  return { text: metadata.get(KEY), tensors };
}

/** The bytes of float16 values -> the bytes of the same float32 values. */
function fromHalf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values = new Float32Array(bytes.byteLength / 2);
  for (let i = 0; i < values.length; i++) {
    const half = view.getUint16(2 * i, true);
    const exponent = (half >> 10) & 31;
    const fraction = (half & 1023) / 1024;
    const subnormal = fraction * 2 ** -14;
    const finite = exponent === 0 ? subnormal : (1 + fraction) * 2 ** (exponent - 15);
    const size = exponent < 31 ? finite : fraction === 0 ? Infinity : NaN;
    values[i] = half >> 15 ? -size : size;
  }
  return new Uint8Array(values.buffer);
}

const product = (shape) => shape.reduce((a, b) => a * b, 1);
const isSize = (value) => Number.isInteger(value) && value >= 0 && !Object.is(value, -0);

function readEntry(name, value) {
  const keys = value instanceof Map ? [...value.keys()].sort().join() : "";
  check(keys === "data_offsets,dtype,shape", "expected a dtype, a shape and data offsets");
  const dtype = value.get("dtype");
  check(SIZES.has(dtype), "its dtype is not F32, F16 or U32");
  const shape = value.get("shape");
  check(Array.isArray(shape) && shape.every(isSize), "its shape is not a list of sizes");
  const offsets = value.get("data_offsets");
  check(Array.isArray(offsets) && offsets.length === 2 && offsets.every(isSize), "its offsets are not two sizes");
  check(offsets[1] - offsets[0] === SIZES.get(dtype) * product(shape), "its shape and its offsets disagree");
  return { name, dtype, shape, begin: offsets[0], end: offsets[1] };
}
