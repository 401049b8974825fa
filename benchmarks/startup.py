"""How long a fresh process takes to its first prediction: `python benchmarks/startup.py FILE.bcdn [--json FILE]`.

Each run is a process of its own that imports `bcdnet.runtime`, loads the file and predicts one image file; shown is the
fastest of `--runs`, which other processes disturb least, and the median. Give `--python` the interpreter of an
environment with an installed wheel: an editable installation adds its own import hook to every start.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import json, sys, time
times = [time.perf_counter()]
from bcdnet.runtime import InferenceSession
times.append(time.perf_counter())
session = InferenceSession(sys.argv[1])
times.append(time.perf_counter())
session.predict([sys.argv[2]])
times.append(time.perf_counter())
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
steps = [1000 * (end - begin) for begin, end in zip(times, times[1:])]
print(json.dumps(dict(zip(("import_ms", "load_ms", "predict_ms"), steps)) | {"peak_resident_mb": peak / 1e6}))
"""


def run(python: str, model: Path, image: Path) -> dict[str, float]:
    """Milliseconds and megabytes of one process."""
    done = subprocess.run([python, "-c", CHILD, model, image], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {done.stderr.strip().splitlines()[-1]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures | {"import_and_load_ms": figures["import_ms"] + figures["load_ms"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a packed file for colour images")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is measured")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error(f"--runs: at least 1, got {args.runs}")
    if shutil.which(args.python) is None:
        parser.error(f"--python: {args.python} is no program")
    if args.json is not None and not args.json.parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "noise.ppm"
        image.write_bytes(b"P6 500 375 255\n" + random.Random(0).randbytes(500 * 375 * 3))
        run(args.python, args.model, image)  # the first one reads the files from the disk
        runs = [run(args.python, args.model, image) for _ in range(args.runs)]
    table = {
        name: {"min": round(min(values), 1), "median": round(statistics.median(values), 1)}
        for name in runs[0]
        if (values := [figures[name] for figures in runs])
    }
    print(f"{'':20} {'min':>8} {'median':>8}")
    for name, figures in table.items():
        print(f"{name:20} {figures['min']:8} {figures['median']:8}")
    if args.json is not None:
        document = {"runs": args.runs, "python": platform.python_version(), "system": platform.platform()} | table
        args.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
