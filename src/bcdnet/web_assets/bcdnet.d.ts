/** The file breaks a rule of the format. */
export class FormatError extends Error {}

export interface Prediction {
  label: string;
  probability: number;
  index: number;
}

/** RGBA bytes, row by row; an ImageData is one. */
export interface Pixels {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
}

/** What a browser's canvas can draw: an ImageBitmap, image, video or canvas. */
export interface Drawable {
  width: number;
  height: number;
}

/** A network ready to run. What goes wrong is an Error. */
export class Session {
  private constructor();

  /** From a URL (outside of browsers, a path too), the bytes of a file, or a Blob. */
  static load(source: string | URL | ArrayBuffer | ArrayBufferView | Blob): Promise<Session>;

  readonly labels: string[];
  /** How images are prepared; null where the file does not say. */
  readonly preprocess: {
    inputSize: [channels: number, height: number, width: number];
    mean: number[];
    std: number[];
    interpolation: "nearest" | "bilinear" | "bicubic" | "lanczos";
    cropPct: number;
  } | null;
  readonly provenance: Record<string, unknown>;
  readonly input: { name: string; shape: [channels: number, height: number, width: number] };
  readonly outputs: { name: string; channels: number }[];
  /** Size of the file. */
  readonly bytes: number;
  /** Instruction set in use. */
  readonly target: string;

  /** The `topk` most probable classes, best first; 5 where left out. */
  predict(image: Pixels | Drawable, topk?: number): Prediction[];
  /** An image's normalised values [C, H, W]. */
  prepare(image: Pixels | Drawable): Float32Array;
  /** Normalised values [N, C, H, W] -> the first output [N, K]. */
  run(images: Float32Array): Float32Array;
  /** The same, and every output. */
  runAll(images: Float32Array): Float32Array[];
  /** The most probable classes for the logits of one image. */
  rank(logits: Float32Array, topk?: number): Prediction[];
}
