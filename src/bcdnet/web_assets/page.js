// The page: an image or a camera in, bars out. Nothing leaves the browser.
const MODEL = new URL("model.bcdn", import.meta.url).href;
const TOPK = 5;
const MOST_SHOWN = 2048; // pixels a side: a phone shows nothing on a canvas as large as its photos

const element = (id) => document.getElementById(id);
const status = element("status"), picture = element("picture"), video = element("video");
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0;
let newest = 0; // number of what was shown last, an image or the camera: what comes late for an older one is dropped

worker.addEventListener("message", ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error === undefined) resolve(data.answer);
  else reject(new Error(data.error));
});
worker.addEventListener("error", () =>
  say("The network cannot run: a file of this page is missing, or this browser has no WebAssembly SIMD.", true),
);

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

/** Shows what the network sees, if `mine` is still the newest; the best class and its probability as text, or null. */
async function predict(bitmap, mine) {
  const answer = await ask("predict", { image: bitmap, topk: TOPK }, [bitmap]);
  if (mine !== newest) return null;
  show(answer);
  return `${answer.best[0].label}, ${percent(answer.best[0].probability)}`;
}

function clear() {
  element("results").replaceChildren();
  element("time").textContent = "";
}

async function open(blob) {
  stopCamera();
  const mine = ++newest;
  say("Reading the image …");
  let bitmap;
  try {
    // As the packed file's own preprocessing sees it: no colour management, upright.
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    if (mine === newest) say("This is not an image that the browser can read.", true);
    return;
  }
  if (mine !== newest) return bitmap.close();
  const shrink = Math.min(1, MOST_SHOWN / Math.max(bitmap.width, bitmap.height));
  picture.width = Math.ceil(shrink * bitmap.width);
  picture.height = Math.ceil(shrink * bitmap.height);
  picture.getContext("2d").drawImage(bitmap, 0, 0, picture.width, picture.height);
  picture.hidden = false;
  clear(); // of the image before
  picture.setAttribute("aria-label", blob.name ? `Your image, ${blob.name}` : "Your image");
  try {
    const best = await predict(bitmap, mine);
    if (best !== null) say(best); // which is announced to who does not see the bars
  } catch (error) {
    if (mine === newest) say(error.message, true);
  }
}

// ---- Camera

let stream = null;

function stopCamera() {
  ++newest;
  if (stream !== null) clear(); // of a picture that is no longer shown
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  video.srcObject = null;
  video.hidden = true;
  element("camera").textContent = "Use the camera";
}

async function startCamera() {
  const mine = ++newest;
  let allowed;
  try {
    allowed = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    if (mine === newest) say("There is no camera, or the browser may not use it.", true);
    return;
  }
  if (mine !== newest) return allowed.getTracks().forEach((track) => track.stop());
  stream = allowed;
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    stopCamera(); // the track ends by itself only where the camera is gone: what shows is frozen
    say("The camera has stopped.", true);
  });
  picture.hidden = true;
  video.hidden = false;
  video.srcObject = stream;
  element("camera").textContent = "Stop the camera";
  say("");
  try {
    await video.play();
    while (stream === allowed) {
      await predict(await createImageBitmap(video), mine);
      await new Promise(requestAnimationFrame); // a hidden page rests
    }
  } catch (error) {
    if (stream !== allowed) return; // stopped meanwhile
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
