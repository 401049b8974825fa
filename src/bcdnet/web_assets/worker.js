// The network off the page's own thread, so that the page stays quick while it computes.
import { Session } from "./bcdnet.js";

let session = null;

const answers = {
  async load({ model }) {
    session = await Session.load(model);
    const { outputs, provenance, bytes, target } = session;
    return { classes: outputs[0].channels, provenance, bytes, target, shape: session.input.shape };
  },
  predict({ image, topk }) {
    const begin = performance.now();
    try {
      const input = session.prepare(image);
      const prepared = performance.now();
      const best = session.rank(session.run(input), topk);
      return { best, prepare: prepared - begin, run: performance.now() - prepared };
    } finally {
      image.close();
    }
  },
};

addEventListener("message", async ({ data }) => {
  try {
    postMessage({ id: data.id, answer: await answers[data.what](data) });
  } catch (error) {
    postMessage({ id: data.id, error: error.message });
  }
});
