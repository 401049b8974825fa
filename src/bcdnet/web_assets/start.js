// Starts the page. A browser may keep a file for days without asking whether it is still the newest, and after an upgrade
// would run new ones with old ones: so it is made to ask for each. This file may be an old one, and does nothing else.
const FILES = [
  ...[location.href, "page.css", "page.js", "worker.js"],
  ...["bcdnet.js", "bcdnet.wasm", "container.js", "format.js", "json.js", "preprocess.js"],
];

async function renew(file) {
  const answer = await fetch(new URL(file, import.meta.url), { cache: "no-cache" });
  await answer.arrayBuffer(); // what is not read to its end is not kept
}

await Promise.allSettled(FILES.map(renew)); // without a network, what is there will do
await import("./page.js");
