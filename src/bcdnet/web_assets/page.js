// The page: an image or a camera in, bars out. Nothing leaves the browser.
const MODEL = new URL("model.bcdn", import.meta.url).href;
const TOPK = 5;

const element = (id) => document.getElementById(id);
const status = element("status"), picture = element("picture"), video = element("video");
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0;

worker.addEventListener("message", ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error === undefined) resolve(data.answer);
  else reject(new Error(data.error));
});
worker.addEventListener("error", () => say("This browser cannot run the network: it needs WebAssembly SIMD.", true));

function ask(what, values, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    worker.postMessage({ id: asked, what, ...values }, transfer);
  });
}

function say(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("error", isError);
}

function percent(x) {
  return x.toLocaleString(undefined, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
}

function show({ best, prepare, run }) {
  element("results").replaceChildren(
    ...best.map(({ label, probability }) => {
      const row = document.createElement("li");
      const name = document.createElement("span"), value = document.createElement("span");
      const bar = document.createElement("progress");
      name.textContent = label;
      value.textContent = percent(probability);
      bar.value = probability;
      bar.setAttribute("aria-hidden", "true"); // the figure beside it says the same
      row.append(name, value, bar);
      return row;
    }),
  );
  element("time").textContent = `${run.toFixed(0)} ms for the network, ${prepare.toFixed(0)} ms to resize the image`;
}

async function predict(bitmap) {
  show(await ask("predict", { image: bitmap, topk: TOPK }, [bitmap]));
}

async function open(blob) {
  stopCamera();
  say("Reading the image …");
  let bitmap;
  try {
    // As the packed file's own preprocessing sees it: no colour management, upright.
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    say("This is not an image that the browser can read.", true);
    return;
  }
  picture.width = bitmap.width;
  picture.height = bitmap.height;
  picture.getContext("2d").drawImage(bitmap, 0, 0);
  picture.hidden = false;
  picture.setAttribute("aria-label", blob.name ? `Your image, ${blob.name}` : "Your image");
  try {
    await predict(bitmap);
    say("");
  } catch (error) {
    say(error.message, true);
  }
}

// ---- Camera

let stream = null;

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  video.srcObject = null;
  video.hidden = true;
  element("camera").textContent = "Use the camera";
}

async function startCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    say("There is no camera, or the browser may not use it.", true);
    return;
  }
  const mine = stream;
  picture.hidden = true;
  video.hidden = false;
  video.srcObject = stream;
  element("camera").textContent = "Stop the camera";
  say("");
  try {
    await video.play();
    while (stream === mine) {
      await predict(await createImageBitmap(video));
      await new Promise(requestAnimationFrame); // a hidden page rests
    }
  } catch (error) {
    if (stream !== mine) return; // stopped meanwhile
    stopCamera();
    say(error.message, true);
  }
}

// ---- Ways in

const zone = element("zone"), chooser = element("file");

function openFirst(items) {
  const file = [...items].find((item) => item.type.startsWith("image/"));
  if (file) open(file);
  else say("There is no image in this.", true);
}

chooser.addEventListener("change", () => {
  if (chooser.files.length > 0) openFirst(chooser.files);
  chooser.value = ""; // the same file may be chosen again
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  zone.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) zone.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  if (ready) openFirst(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  if (ready) openFirst(event.clipboardData.files);
});
element("choose").addEventListener("click", () => chooser.click());
element("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera()));

// ---- Start

let ready = false;
try {
  const facts = await ask("load", { model: MODEL });
  const name = facts.provenance.model ?? "the network";
  element("facts").textContent =
    `${name}: ${(facts.bytes / 1e6).toFixed(1)} MB, ${facts.classes} classes, ` +
    `${facts.shape.slice(1).join(" × ")} pixels, ${facts.target}` +
    (facts.provenance.weights === "fresh" ? "; untrained: its answers mean nothing" : "");
  ready = true;
  for (const id of ["choose", "camera"]) element(id).disabled = false;
  say("");
} catch (error) {
  say(`The network could not be loaded: ${error.message}`, true);
}
