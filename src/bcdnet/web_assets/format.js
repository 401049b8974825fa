// The reader of .bcdn files: every rule of docs/format.md that the core does not check for all its callers
// (core/runtime/validate.cc). It trusts nothing in the file.
import { check, readContainer, within } from "./container.js";
import { Float, parseJson } from "./json.js";

const FORMAT = 2;
const MAX_JSON_BYTES = 2 ** 24;

// Each reader takes a value and appends to `out` what web/core.cc reads.

const MAX_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;
const INT = 2 ** 31;

function int(value, out) {
  check(Number.isInteger(value) && value >= -INT && value < INT, "expected an integer");
  out.push(value);
}

function bool(value, out) {
  check(typeof value === "boolean", "expected true or false");
  out.push(Number(value));
}

function pair(value, out) {
  check(Array.isArray(value) && value.length === 2, "expected two integers");
  value.forEach((item) => int(item, out));
}

function tensor(value, out, context) {
  check(typeof value === "string", "expected the name of a tensor");
  check(context.tensors.has(value), `there is no tensor '${value}'`);
  const { shape } = context.tensors.get(value);
  check(shape.length <= 4 && !shape.includes(0), `tensor '${value}' is empty or has too many dimensions`);
  context.used.add(value);
  out.push(context.index.get(value));
}

const oneOf = (choices) => (value, out) => {
  check(choices.includes(value), `expected one of ${choices.join(", ")}`);
  out.push(choices.indexOf(value));
};

const optional = (read) => (value, out, context) => {
  out.push(value === null ? 0 : 1);
  if (value !== null) read(value, out, context);
};

const list = (read) => (value, out, context) => {
  check(Array.isArray(value), "expected a list");
  out.push(value.length);
  value.forEach((item, i) => within(`[${i}]`, () => read(item, out, context)));
};

/** An object with exactly these keys, told in this order. */
const object = (fields) => (value, out, context) => {
  const names = Object.keys(fields);
  checkKeys(value, names);
  for (const name of names) within(name, () => fields[name](value.get(name), out, context));
};

function checkKeys(value, names) {
  check(value instanceof Map, "expected an object");
  for (const key of value.keys()) check(names.includes(key), `unknown key ${JSON.stringify(key)}`);
  for (const name of names) check(value.has(name), `missing key '${name}'`);
}

const BUFFER = object({ kind: oneOf(["image", "map", "vector", "bits"]), shape: list(int) });

const STEPS = {
  beta: optional(int),
  mul: optional(tensor),
  add: optional(tensor),
  shortcut: optional(object({ buffer: int, duplicate: bool, avg_pool: bool })),
  prelu: optional(object({ bias_in: optional(tensor), slope: tensor, bias_out: optional(tensor) })),
  map: optional(int),
  bits: list(object({ buffer: int, bias: optional(tensor), alpha: optional(int) })),
};

function epilogue(value, out, context) {
  if (context.version > 1) return object({ gain: optional(int), ...STEPS })(value, out, context);
  out.push(0); // format 1 has no gain
  object(STEPS)(value, out, context);
}

const POOL = { input: int, output: int, kernel: pair, stride: pair, padding: pair, ceil: bool };
const COPY = { input: int, output: int };

const OPS = {
  conv2d: {
    input: int, weight: tensor, bias: optional(tensor), stride: pair, padding: pair, groups: int, epilogue,
  },
  binary_conv2d: {
    input: int,
    branches: list(object({ weight: tensor, scale: tensor, shift: oneOf(["none", "short", "long"]) })),
    stride: pair, padding: pair, epilogue,
  },
  elementwise: { input: int, epilogue },
  unpack: COPY,
  avg_pool: { ...POOL, count_include_pad: bool },
  max_pool: POOL,
  global_avg_pool: COPY,
  linear: { input: int, output: int, weight: tensor, bias: optional(tensor) },
  concat: { inputs: list(int), output: int },
  transpose: COPY,
  reshape: COPY,
};
const TYPES = Object.keys(OPS);

function op(value, out, context) {
  check(value instanceof Map, "expected an object");
  const type = value.get("type"), name = value.get("name");
  check(TYPES.includes(type), `unknown op type ${JSON.stringify(type)}`);
  checkName(name);
  check(!context.names.has(name), `another op is called ${JSON.stringify(name)}`);
  context.names.add(name);
  const bytes = new TextEncoder().encode(name);
  out.push(TYPES.indexOf(type), bytes.length, ...bytes);
  const ignored = () => {};
  within(JSON.stringify(name), () => {
    checkKeys(value, ["type", "name", ...Object.keys(OPS[type])]);
    object({ type: ignored, name: ignored, ...OPS[type] })(value, out, context);
  });
}

// ---- What only people read

function isText(value, most) {
  return typeof value === "string" && [...value].length <= most && !/\p{Cc}|\p{Cs}/u.test(value);
}

function checkName(value) {
  check(isText(value, 256) && value !== "", "a name must have 1 to 256 characters, none of them a control character");
}

function number(value) {
  const plain = value instanceof Float ? value.value : value;
  check(typeof plain === "number", "expected a number");
  return plain;
}

function readPreprocess(value, shape) {
  if (value === null) return null;
  checkKeys(value, ["input_size", "mean", "std", "interpolation", "crop_pct"]);
  const size = value.get("input_size");
  check(Array.isArray(size) && size.length === 3 && size.every((n, i) => n === shape[i]), "input_size: not the input's");
  const numbers = (key) => {
    const items = value.get(key);
    check(Array.isArray(items) && items.length === shape[0], `${key}: expected ${shape[0]} numbers`);
    return items.map(number);
  };
  const [mean, std] = [numbers("mean"), numbers("std")];
  check(std.every((x) => Math.fround(Math.min(x, 1e30)) > 0), "std: every value must be positive");
  const computed = std.flatMap((x, i) => [1 / (255 * x), -mean[i] / x]);
  check(computed.every((x) => Math.abs(x) <= MAX_FLOAT32), "mean and std: beyond the range of float32");
  const interpolation = value.get("interpolation");
  check(["nearest", "bilinear", "bicubic", "lanczos"].includes(interpolation), "interpolation: unknown");
  const cropPct = number(value.get("crop_pct"));
  check(cropPct >= 0.1 && cropPct <= 1, "crop_pct: must be in [0.1, 1]");
  return { inputSize: size, mean, std, interpolation, cropPct };
}

/** Free JSON at most `depth` levels deep, as plain values. */
function free(value, depth) {
  check(depth >= 0, "more than 8 levels deep");
  if (value instanceof Float) return value.value;
  check(typeof value !== "string" || !/\p{Cs}/u.test(value), "half of a surrogate pair, which no text can hold");
  if (Array.isArray(value)) return value.map((item) => free(item, depth - 1));
  if (!(value instanceof Map)) return value;
  return Object.fromEntries([...value].map(([key, item]) => [free(key, depth - 1), free(item, depth - 1)]));
}

const PORT = ["name", "buffer"];

function readPorts(value, most) {
  check(Array.isArray(value) && value.length >= 1 && value.length <= most, `expected 1 to ${most}`);
  return value.map((port) => {
    checkKeys(port, PORT);
    checkName(port.get("name"));
    return { name: port.get("name"), buffer: port.get("buffer") };
  });
}

function checkDistinct(values, what) {
  check(new Set(values).size === values.length, `two have the same ${what}`);
}

/** Buffers that an op of the program writes; the core checks that none is written twice. */
function writtenBuffers(ops) {
  return ops.flatMap((item) => {
    const epilogue = item.get("epilogue");
    if (epilogue === undefined) return [item.get("output")];
    return [epilogue.get("map"), ...epilogue.get("bits").map((bits) => bits.get("buffer"))];
  });
}

function checkTensors(tensors, used) {
  for (const [name, { words, bytes }] of tensors) {
    check(used.has(name), `tensor '${name}': no op uses it`);
    checkName(name);
    if (words) continue;
    // An exponent of all ones is an infinity or no number.
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 2; at < view.byteLength; at += 4) {
      const high = view.getUint16(at, true);
      check((high & 0x7f80) !== 0x7f80, `tensor '${name}': holds a NaN or an infinity`);
    }
  }
}

/**
 * Reads a file. Returns {stream, tensors: [{words, shape, bytes}], input: {name, shape}, outputs: [{name, channels}],
 * labels, preprocess, provenance}; `stream` is for the core, which checks what it says. Throws FormatError.
 */
export function readFile(buffer) {
  const { text, tensors } = readContainer(buffer);
  check(new TextEncoder().encode(text).length <= MAX_JSON_BYTES, "the program is too long");
  const program = within("the program", () => parseJson(text));
  check(program instanceof Map, "the program is not a JSON object");
  const version = program.get("format");
  check(Number.isInteger(version) && version >= 1, "format: expected a positive integer");
  check(version <= FORMAT, `the file has format ${version}, newer than this page reads (${FORMAT})`);
  checkKeys(program, ["format", "buffers", "ops", "inputs", "outputs", "labels", "preprocess", "provenance"]);

  const index = new Map([...tensors.keys()].map((name, i) => [name, i]));
  const context = { version, tensors, index, used: new Set(), names: new Set() };
  const stream = [];
  const [buffers, ops] = [program.get("buffers"), program.get("ops")];
  within("buffers", () => list(BUFFER)(buffers, stream, context));
  within("ops", () => list(op)(ops, stream, context));
  const [input] = within("inputs", () => readPorts(program.get("inputs"), 1));
  within("inputs", () => int(input.buffer, stream));
  const outputs = within("outputs", () => readPorts(program.get("outputs"), 16));
  within("outputs", () => list((port) => int(port.buffer, stream))(outputs, stream));
  within("outputs", () => PORT.forEach((key) => checkDistinct(outputs.map((port) => port[key]), key)));

  const written = new Set([input.buffer, ...writtenBuffers(ops)]);
  buffers.forEach((_, i) => check(written.has(i), `buffer ${i}: no op writes it`));
  for (const port of [input, ...outputs]) check(port.buffer >= 0 && port.buffer < buffers.length, "a port has no buffer");
  const shapeOf = (port) => buffers[port.buffer].get("shape");
  const labels = program.get("labels");
  check(Array.isArray(labels) && labels.every((label) => isText(label, 1024)), "labels: expected a list of lines");
  check(labels.length === 0 || labels.length === shapeOf(outputs[0])[0], "labels: not one per class");
  const preprocess = within("preprocess", () => readPreprocess(program.get("preprocess"), shapeOf(input)));
  check(program.get("provenance") instanceof Map, "provenance: expected an object");
  const provenance = within("provenance", () => free(program.get("provenance"), 8));
  checkTensors(tensors, context.used);
  return {
    stream: Int32Array.from(stream),
    tensors: [...tensors.values()],
    input: { name: input.name, shape: shapeOf(input) },
    outputs: outputs.map((port) => ({ name: port.name, channels: shapeOf(port)[0] })),
    labels,
    preprocess,
    provenance,
  };
}
