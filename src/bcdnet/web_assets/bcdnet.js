// Packed networks in browsers, Node, Deno and Bun: `const session = await Session.load("model.bcdn")`, then
// `session.predict(image, 5)`.
import { FormatError } from "./container.js";
import { readFile } from "./format.js";
import { toInput } from "./preprocess.js";

export { FormatError };

const WASM = new URL("bcdnet.wasm", import.meta.url);
const STRIP = 2 ** 23; // pixels, a frame of 4K video whole: phones draw nothing, and say nothing, on a canvas of some 2^24
const disk = globalThis.process?.getBuiltinModule?.("node:fs/promises"); // none in a browser
let compiled = null;

/** Content of an address, fetched with `options`, or, outside of browsers, of a file. */
async function fetchBytes(url, options) {
  const isFile = /^file:/i.test(url);
  const elsewhere = /^[a-z][\w+.-]+:/i.test(url); // one letter alone is a drive
  if (disk && (isFile || !elsewhere)) {
    return new Uint8Array(await disk.readFile(isFile ? new URL(url) : url)).buffer;
  }
  const response = await fetch(url, options);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

async function compile(bytes) {
  try {
    return await WebAssembly.compile(bytes);
  } catch (error) {
    throw new Error(`the core needs WebAssembly with SIMD and exceptions, and a policy that allows it (${error.message})`);
  }
}

/** One instance of the core: its memory, and calls with plain values. */
class Core {
  static async start() {
    compiled ??= fetchBytes(WASM)
      .then(compile)
      .catch((error) => {
        compiled = null; // the next may have more luck
        throw error;
      });
    const core = new Core();
    const instance = await WebAssembly.instantiate(await compiled, {
      env: { emscripten_notify_memory_growth: () => {} },
      wasi_snapshot_preview1: {
        proc_exit: (code) => {
          throw new Error(`the core stopped with code ${code}`);
        },
        clock_time_get: () => 52, // ENOSYS: only loops that measure the machine ask for the time
      },
    });
    core.exports = instance.exports;
    core.exports._initialize();
    return core;
  }

  /** A typed array over the memory; valid until the memory grows. */
  view(Type, address, length) {
    return new Type(this.exports.memory.buffer, address, length);
  }

  allocate(bytes) {
    // A longer one would reach malloc modulo 2^32.
    const address = bytes < 2 ** 32 ? this.exports.malloc(Math.max(bytes, 1)) >>> 0 : 0;
    if (address === 0) throw new Error("out of memory");
    return address;
  }

  /** Address of a copy of a typed array. */
  copy(array) {
    const address = this.allocate(array.byteLength);
    this.view(Uint8Array, address, array.byteLength).set(
      new Uint8Array(array.buffer, array.byteOffset, array.byteLength),
    );
    return address;
  }

  text(address) {
    const bytes = this.view(Uint8Array, address >>> 0);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }

  /** What the core says went wrong, if `done` is false: of a file, unless there is no memory for it. */
  check(done) {
    if (done) return;
    const message = this.text(this.exports.bcdnet_error());
    throw message === "out of memory" ? new Error(message) : new FormatError(message);
  }
}

const isBytes = (data) => data instanceof Uint8ClampedArray || data instanceof Uint8Array;

/** RGBA bytes of what a canvas can draw. */
function pixels(image, width, height) {
  if (!globalThis.OffscreenCanvas) throw new Error("there is no canvas here: expected RGBA bytes as {data, width, height}");
  const data = new Uint8ClampedArray(4 * width * height);
  const rows = Math.min(height, Math.ceil(STRIP / width));
  const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = "copy"; // transparent pixels, too, replace those of the strip before
  for (let y = 0; y < height; y += rows) {
    context.drawImage(image, 0, -y);
    data.set(context.getImageData(0, 0, width, Math.min(rows, height - y)).data, 4 * width * y);
  }
  return data;
}

/** A network ready to run, with the same logits as bcdnet's InferenceSession, bit for bit. */
export class Session {
  /**
   * Loads a .bcdn file from a URL (outside of browsers, a path too), bytes (copied) or a Blob. Throws FormatError where
   * the file breaks a rule of the format, Error where it cannot be fetched or there is no WebAssembly SIMD.
   */
  static async load(source) {
    let buffer;
    if (source instanceof ArrayBuffer) buffer = source.slice(); // which the caller may change while the core starts
    else if (ArrayBuffer.isView(source)) buffer = new Uint8Array(source.buffer, source.byteOffset, source.byteLength).slice().buffer;
    else if (source instanceof Blob) buffer = await source.arrayBuffer();
    else if (typeof source === "string" || source instanceof URL) {
      buffer = await fetchBytes(source, { cache: "no-cache" }); // which asks whether a stored one is still the newest
    } else throw new Error("expected a URL, bytes (an ArrayBuffer or a view of one) or a Blob");
    const file = readFile(buffer);
    return new Session(file, await Core.start(), buffer.byteLength);
  }

  constructor(file, core, bytes) {
    this.labels = file.labels;
    this.preprocess = file.preprocess;
    this.provenance = file.provenance;
    this.input = file.input;
    this.outputs = file.outputs;
    this.bytes = bytes;
    this._core = core;
    const copies = file.tensors.map((tensor) => core.copy(tensor.bytes));
    const table = new Int32Array(7 * copies.length);
    file.tensors.forEach(({ words, shape }, i) => table.set([words, copies[i], shape.length, ...shape], 7 * i));
    copies.push(core.copy(table), core.copy(file.stream));
    const [tableAt, streamAt] = copies.slice(-2);
    core.check(core.exports.bcdnet_load(streamAt, file.stream.length, tableAt, file.tensors.length));
    copies.forEach((address) => core.exports.free(address));
    this._size = file.input.shape.reduce((a, b) => a * b, 1);
    this._outputSize = file.outputs.reduce((sum, { channels }) => sum + channels, 0);
  }

  /** Instruction set in use. */
  get target() {
    return this._core.text(this._core.exports.bcdnet_target());
  }

  /** Float32Array [N, C, H, W], already normalised -> Float32Array [N, K]: the first output. Throws Error. */
  run(images) {
    return this.runAll(images)[0];
  }

  /** The same, and returns every output. */
  runAll(images) {
    if (!(images instanceof Float32Array)) throw new Error("expected a Float32Array");
    const count = images.length / this._size;
    if (!Number.isInteger(count) || count < 1) {
      throw new Error(`expected N x ${this.input.shape.join(" x ")} values, got ${images.length}`);
    }
    if (!images.every(Number.isFinite)) throw new Error("every value of the input must be finite");
    const core = this._core;
    const at = core.copy(images);
    let out = 0; // which may be freed
    try {
      out = core.allocate(4 * count * this._outputSize);
      core.check(core.exports.bcdnet_run(at, count, out));
      let begin = out;
      return this.outputs.map(({ channels }) => {
        const values = core.view(Float32Array, begin, count * channels).slice();
        begin += values.byteLength;
        return values;
      });
    } finally {
      core.exports.free(at);
      core.exports.free(out);
    }
  }

  /**
   * The network's input for an ImageBitmap, image, video or canvas, or for RGBA bytes as {data, width, height} (an
   * ImageData), preprocessed as the file says. Throws Error.
   */
  prepare(image) {
    if (this.preprocess === null) throw new Error("the file says nothing of preprocessing; pass normalised values to run()");
    if (![1, 3].includes(this.input.shape[0])) throw new Error("images have 1 or 3 channels; pass values to run()");
    const width = image?.videoWidth ?? image?.naturalWidth ?? image?.width;
    const height = image?.videoHeight ?? image?.naturalHeight ?? image?.height;
    if (!(width > 0 && height > 0)) {
      throw new Error("expected an ImageData, ImageBitmap, image, video or canvas that is loaded and not empty");
    }
    const data = isBytes(image.data) ? image.data : pixels(image, width, height);
    if (!Number.isInteger(width) || !Number.isInteger(height)) throw new Error(`${width} x ${height} are no whole pixels`);
    if (data.length !== 4 * width * height) throw new Error(`expected ${width} x ${height} x 4 bytes, got ${data.length}`);
    return toInput({ data, width, height }, this.preprocess);
  }

  /** The `topk` most probable classes of an image, best first: [{label, probability, index}]. */
  predict(image, topk = 5) {
    return this.rank(this.run(this.prepare(image)), topk);
  }

  /** The same for the logits of one image. Throws Error. */
  rank(logits, topk = 5) {
    if (!Number.isInteger(topk) || topk < 1) throw new Error(`topk: must be a whole number of at least 1, got ${topk}`);
    if (logits.length !== this.outputs[0].channels) throw new Error("expected the logits of one image");
    if (!logits.every(Number.isFinite)) throw new Error("the logits are not finite: the training diverged, or the file is damaged");
    const most = logits.reduce((a, b) => Math.max(a, b));
    const odds = Array.from(logits, (logit) => Math.exp(logit - most));
    const total = odds.reduce((a, b) => a + b);
    const ranked = odds.map((odd, index) => ({
      label: this.labels[index] ?? String(index),
      probability: odd / total,
      index,
    }));
    // By the logits: small probabilities are all 0 in the end.
    return ranked.sort((a, b) => logits[b.index] - logits[a.index]).slice(0, topk);
  }
}
