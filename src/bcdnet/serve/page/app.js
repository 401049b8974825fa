// One image in, bars and a heat map out. Nothing is loaded from elsewhere and nothing is kept.
const $ = (id) => document.getElementById(id);
const TOPK = 5;
let models = [];
let limits = null;
let token = null;
let current = null; // what is shown: {file, result, cam}
let newest = null; // the request on its way, or else what is shown: an older answer that comes late is dropped

function headers() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function lost() {
  throw new Error("the server cannot be reached");
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } }).catch(lost);
  if (response.status === 401) {
    $("access").hidden = false;
    $("token").focus();
  }
  if (response.ok) return response.json().catch(lost);
  const { error } = await response.json().catch(() => ({}));
  throw new Error(error ?? `the server answered ${response.status}`);
}

function fail(error) {
  $("error").textContent = `${error.message[0].toUpperCase()}${error.message.slice(1).replace(/\.$/, "")}.`;
  $("error").hidden = false;
  $("status").textContent = "";
}

async function start() {
  try {
    ({ models, limits } = await ask("v1/models"));
  } catch (error) {
    fail(error);
    return;
  }
  $("access").hidden = $("error").hidden = true;
  $("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  $("choice").hidden = models.length < 2;
  $("about").hidden = false;
  $("status").textContent = "Ready.";
  showFacts();
}

function chosen() {
  return models[Math.max(0, $("model").selectedIndex)];
}

const scale = (value, units) => {
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(value, 1)) / 3));
  const shown = value / 1000 ** power;
  return `${shown.toLocaleString("en", { maximumSignificantDigits: shown < 1000 ? 3 : 4 })} ${units[power]}`.trim();
};
const counted = (value) => scale(value, ["", "thousand", "million", "billion"]);

function showFacts() {
  const model = chosen();
  const weights = model.binary_weights + model.float_weights;
  const [channels, height, width] = model.input;
  const facts = {
    Model: model.name,
    Input: `${width} × ${height} pixels, ${channels === 1 ? "grey" : "colour"}`,
    Classes: model.labels.length.toLocaleString("en"),
    Weights: `${counted(weights)}, ${((100 * model.binary_weights) / weights).toFixed(1)} % of one bit`,
    Size: `${scale(model.file_bytes, ["B", "kB", "MB", "GB"])}, ${((4 * weights) / model.file_bytes).toFixed(1)} times smaller than float32`,
    Operations: `${counted(model.operations)} an image: ${counted(model.binary_macs)} of one bit (64 count as one) and ${counted(model.float_macs)} of 32 bits`,
    Runs: `${model.target}, ${model.threads} ${model.threads === 1 ? "thread" : "threads"}`,
  };
  $("facts").replaceChildren(
    ...Object.entries(facts).flatMap(([name, text]) => {
      const term = document.createElement("dt");
      const value = document.createElement("dd");
      term.textContent = name;
      value.textContent = text;
      return [term, value];
    }),
  );
}

async function classify(file) {
  if (!file || !models.length) return;
  const request = (newest = { file });
  $("error").hidden = true;
  $("status").textContent = "Classifying…";
  const begin = performance.now();
  try {
    if (file.size > limits.body_bytes) {
      throw new Error(`the image is longer than ${scale(limits.body_bytes, ["B", "kB", "MB", "GB"])}, which is the most this server takes`);
    }
    const model = chosen();
    const query = new URLSearchParams({ topk: TOPK, cam: model.cam, model: model.name });
    const answer = await ask(`v1/predict?${query}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    const total = performance.now() - begin;
    const image = await decoded(file);
    if (request !== newest) return;
    current = { file, result: answer.images[0], cam: model.cam && image !== null };
    showImage(image);
    showBars();
    const { decode, wait, run } = current.result.milliseconds;
    $("latency").textContent = `${total.toFixed(0)} ms: ${decode.toFixed(1)} to decode and resize, ${wait.toFixed(1)} in the queue, ${run.toFixed(1)} in the network, the rest on the way.`;
    $("latency").hidden = $("another").hidden = false;
    const best = current.result.predictions[0];
    $("status").textContent = `${best.label}, ${percent(best.probability)}.${image ? "" : " This browser cannot show the image."}`;
  } catch (error) {
    if (request !== newest) return;
    newest = current;
    fail(error);
  }
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

// An element that is ready to be shown; null if the browser cannot decode what the server could.
async function decoded(file) {
  const image = document.createElement("img");
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(image.src);
  }
  image.id = "image";
  image.alt = `The image that was classified: ${file.name || "pasted"}`;
  image.classList.toggle("small", image.naturalWidth < 200);
  return image;
}

function showImage(image) {
  if (image) $("image").replaceWith(image);
  $("picture").hidden = !image;
  $("invitation").hidden = Boolean(image);
}

function showBars() {
  const rows = current.result.predictions.map((best, index) => {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.disabled = !current.cam;
    for (const [part, text] of [["bar", ""], ["name", best.label], ["share", percent(best.probability)]]) {
      const span = document.createElement("span");
      span.className = part;
      span.textContent = text;
      button.append(span);
    }
    button.firstChild.style.width = percent(best.probability).replace(" ", "");
    button.addEventListener("click", () => showHeat(index));
    row.append(button);
    return row;
  });
  $("bars").replaceChildren(...rows);
  $("overlay").hidden = $("heat").hidden = !current.cam;
  if (current.cam) showHeat(0);
}

// A short form of Google's "turbo": blue for little, green between, red for much.
function colour(t) {
  const channel = (centre) => Math.max(0, Math.min(1, 1.5 - Math.abs(4 * t - centre)));
  return [channel(3), channel(2), channel(1)].map((value) => Math.round(255 * value));
}

function showHeat(index) {
  const best = current.result.predictions[index];
  const cam = best.cam;
  const flat = cam.flat();
  const low = Math.min(...flat);
  const span = Math.max(...flat) - low || 1;
  const canvas = $("heat");
  // Cells this small are smoothed by the browser when it stretches the canvas over the image.
  canvas.width = cam[0].length;
  canvas.height = cam.length;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  flat.forEach((value, place) => pixels.data.set([...colour((value - low) / span), 255], 4 * place));
  context.putImageData(pixels, 0, 0);
  placeHeat();
  $("shown").textContent = best.label;
  [...$("bars").querySelectorAll("button")].forEach((button, row) => button.setAttribute("aria-pressed", row === index));
}

// The map covers the part of the image that the network saw. The image may be letterboxed within its element.
function placeHeat() {
  if (!current?.cam) return;
  const image = $("image");
  const { width, height, crop } = current.result;
  const ratio = Math.min(image.clientWidth / width, image.clientHeight / height);
  const left = image.offsetLeft + (image.clientWidth - ratio * width) / 2;
  const top = image.offsetTop + (image.clientHeight - ratio * height) / 2;
  Object.assign($("heat").style, {
    left: `${left + ratio * width * crop.left}px`,
    top: `${top + ratio * height * crop.top}px`,
    width: `${ratio * width * crop.width}px`,
    height: `${ratio * height * crop.height}px`,
    opacity: $("opacity").value / 100,
  });
}

const firstImage = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? transfer?.files?.[0];

$("drop").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  classify($("file").files[0]);
  $("file").value = ""; // so that the same file can be chosen again
});
addEventListener("paste", (event) => classify(firstImage(event.clipboardData)));
for (const kind of ["dragover", "drop", "dragleave"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind !== "drop") return;
    const file = firstImage(event.dataTransfer);
    if (file) classify(file);
    else fail(new Error("there is no file in this; drop an image's file"));
  });
}
$("opacity").addEventListener("input", placeHeat);
$("model").addEventListener("change", () => {
  showFacts();
  if (newest) classify(newest.file);
});
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  start();
});
new ResizeObserver(placeHeat).observe($("picture"));
start();
