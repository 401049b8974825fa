"""Time the packed BCDNet-A against ONNX Runtime Web in headless Chromium: WASM SIMD, one thread, 224 px, batch 1.

    npm install --prefix build/web onnxruntime-web      # once
    python benchmarks/web.py

MobileNet-V2 and ResNet-18 are torchvision's with random weights, exported to ONNX. All networks live in one page; in
every round each runs once, in an order drawn for the round, and ratios are taken within a round. Needs Chromium,
playwright and onnx. Writes `benchmarks/results/<date>-web`.
"""

import argparse
import functools
import http.server
import json
import shlex
import shutil
import statistics
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from race import machine
from race.out import results_folder

ROOT = Path(__file__).resolve().parents[1]
OURS = "BCDNet-A, bcdnet"
RIVALS = {"ResNet-18, ONNX Runtime Web": "resnet18", "MobileNet-V2, ONNX Runtime Web": "mobilenet_v2"}

PAGE = """<!doctype html><script type="module">
import * as ort from "./ort/ort.wasm.min.mjs";
import { Session } from "./bcdnet.js";
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./ort/", location.href).href;
const values = Float32Array.from({ length: 3 * 224 * 224 }, (_, i) => Math.sin(i * 0.37));
const runs = {};
const ours = await Session.load("model.bcdn");
runs["OURS"] = async () => ours.run(values);
for (const [name, file] of Object.entries(RIVALS)) {
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  const image = new ort.Tensor("float32", values, [1, 3, 224, 224]);
  runs[name] = () => session.run({ [session.inputNames[0]]: image });
}
globalThis.time = async (name) => {
  const begin = performance.now();
  await runs[name]();
  return performance.now() - begin;
};
globalThis.shuffled = () => Object.keys(runs).map((name) => [Math.random(), name]).sort().map(([, name]) => name);
globalThis.ready = { target: ours.target, isolated: crossOriginIsolated, agent: navigator.userAgent };
</script>"""

ROUND = """async () => {
  const times = {};
  for (const name of shuffled()) times[name] = await time(name);
  return times;
}"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--npm", type=Path, default=ROOT / "build/web", help="where npm installed onnxruntime-web")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    parser.add_argument("--out", type=results_folder, help="results folder (default benchmarks/results/<date>-web)")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds: at least 1, got {arguments.rounds}")
    return arguments


def prepare(folder: Path, package: Path) -> dict[str, int]:
    """The page with everything it loads; bytes of each model."""
    import torch
    import torchvision

    from bcdnet.cli.export_web import write_site
    from bcdnet.cli.model import find_model, pack

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as aside:
        _, size = write_site(pack(find_model("bcdnet_a"), Path(aside) / "a.bcdn"), folder)
    sizes = {OURS: size}
    for name, builder in RIVALS.items():
        path = folder / f"{builder}.onnx"
        model = getattr(torchvision.models, builder)(weights=None).eval()
        torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), path, dynamo=False)
        sizes[name] = path.stat().st_size
    shutil.copytree(package / "dist", folder / "ort", ignore=shutil.ignore_patterns("*.map"))
    files = {name: f"{builder}.onnx" for name, builder in RIVALS.items()}
    page = PAGE.replace('"OURS"', json.dumps(OURS)).replace("RIVALS", json.dumps(files))
    (folder / "race.html").write_text(page, encoding="utf-8")
    return sizes


class Isolated(http.server.SimpleHTTPRequestHandler):
    """Answers so that the page's clock is fine-grained."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


def measure(folder: Path, chromium: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Milliseconds by network, one per round, and what the page says of itself."""
    from playwright.sync_api import sync_playwright

    times: dict[str, list[float]] = {name: [] for name in (OURS, *RIVALS)}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Isolated, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: print(error, file=sys.stderr))
        page.goto(f"http://127.0.0.1:{server.server_port}/race.html")
        page.wait_for_function("globalThis.ready", timeout=300_000)
        facts = {"chromium": browser.version, **page.evaluate("ready")}
        # The first rounds run code that the browser has not optimised yet.
        for number in range(-5, rounds):
            for name, spent in page.evaluate(ROUND).items():
                if number >= 0:
                    times[name].append(spent)
        browser.close()
    server.shutdown()
    return times, facts


def main() -> None:
    arguments = parse()
    package = arguments.npm / "node_modules/onnxruntime-web"
    if not package.is_dir():
        sys.exit(f"error: no {package}; run: npm install --prefix {arguments.npm} onnxruntime-web")
    if arguments.chromium is None:
        sys.exit("error: no Chromium here; name one with --chromium")
    with tempfile.TemporaryDirectory() as folder:
        sizes = prepare(Path(folder), package)
        times, facts = measure(Path(folder), arguments.chromium, arguments.rounds)
    figures = {
        name: {
            "milliseconds": {"fastest": min(spent), "median": statistics.median(spent)},
            "times_ours": {
                "fastest": min(spent) / min(times[OURS]),
                "median": statistics.median(a / b for a, b in zip(spent, times[OURS], strict=True)),
            },
            "model_bytes": sizes[name],
            "rounds": spent,
        }
        for name, spent in times.items()
    }
    date = datetime.now(UTC).date().isoformat()
    document = {
        "date": date,
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine.describe(ROOT),
        "browser": facts,
        "onnxruntime_web": json.loads((package / "package.json").read_text())["version"],
        "networks": figures,
    }
    out = arguments.out or ROOT / f"benchmarks/results/{date}-web"
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / "README.md").write_text(report(document), encoding="utf-8")
    print(report(document))


def report(document: dict[str, Any]) -> str:
    """The results as a page."""
    rows = [
        f"| {name} | {row['milliseconds']['fastest']:.1f} | {row['milliseconds']['median']:.1f} | "
        f"{row['times_ours']['fastest']:.2f} | {row['times_ours']['median']:.2f} | {row['model_bytes'] / 1e6:.1f} MB |"
        for name, row in document["networks"].items()
    ]
    return "\n".join(
        [
            "# In the browser",
            "",
            f"`{document['command']}`, {document['date']}, {document['machine']['processor']}, "
            f"Chromium {document['browser']['chromium']} (headless), ONNX Runtime Web {document['onnxruntime_web']}, "
            "WASM SIMD, one thread, 224 px, batch 1.",
            "",
            "| network | fastest (ms) | median (ms) | times ours, fastest | times ours, median | model |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
