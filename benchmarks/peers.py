"""Measure packed BCDNet and ReActNet against the engines that one would use instead, all in turn in one run.

    make bench                      # sets up the environments, then runs
    python benchmarks/peers.py      # runs

At 224 px and batch 1, on 1 and 2 threads: MobileNet-V1/V2/V3-Large and ResNet-18 in OpenVINO and ONNX Runtime,
ReActNet-A in Larq Compute Engine, BCDNet-A in PyTorch, and ours; and seven binary layers against OpenVINO's
BinaryConvolution. Each engine has a process of its own. In every round each network gets one short burst, in an order
drawn for the round; ratios are taken within a round. Writes `benchmarks/results/<date>-peers`.
"""

import argparse
import json
import os
import shlex
import sys
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from race import machine, page, summary
from race.entries import WORKERS, Environment, entries, our_targets, preparation
from race.figure import draw
from race.out import results_folder
from race.rounds import WorkerProcess, race

ROOT = Path(__file__).resolve().parents[1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=0.04, help="length of one burst (default 0.04)")
    parser.add_argument("--seed", type=int, default=0, help="of the order within the rounds")
    parser.add_argument("--only", default="", help="measure only what has this text in its name, for trying out")
    # Without ours there is nothing to compare, and PyTorch's worker packs our files.
    skippable = [name for name in WORKERS if name not in ("bcdnet", "pytorch")]
    parser.add_argument("--skip", action="append", default=[], choices=skippable, help="a worker to do without")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "peers", help="where model files are kept")
    parser.add_argument("--out", type=results_folder, help="results folder (default benchmarks/results/<date>-peers)")
    parser.add_argument("--bench-python", type=Path, default=ROOT / ".venv-bench/bin/python")
    parser.add_argument("--lce-python", type=Path, default=ROOT / ".venv-lce/bin/python")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or not 0 < arguments.seconds < inf:
        parser.error("--rounds: at least 1; --seconds: above 0")
    return arguments


def start(arguments: argparse.Namespace, environment: Environment) -> dict[str, WorkerProcess]:
    """All workers, with the models made."""
    arguments.models.mkdir(parents=True, exist_ok=True)
    names = [name for name in WORKERS if name not in arguments.skip]
    workers = {
        name: WorkerProcess(name, WORKERS[name], environment, arguments.models / f"{name}.log") for name in names
    }
    for name, spec in preparation(environment).items():
        if name in workers:
            print(f"preparing {name}", flush=True)
            workers[name].ask(do="prepare", folder=str(arguments.models), spec=spec)
    return workers


def measure(workers: dict[str, WorkerProcess], arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole of results.json but the command and the machine."""
    versions = {name: worker.ask(do="versions") for name, worker in workers.items()}
    targets = our_targets(versions["bcdnet"]["targets"])
    field = [entry for entry in entries(targets) if entry.worker in workers and arguments.only in entry.key]
    if not field:
        sys.exit(f"error: --only {arguments.only}: nothing that runs has this in its name")
    print(f"loading {len(field)} networks and layers", flush=True)
    folder = str(arguments.models)
    details = {
        entry.key: workers[entry.worker].ask(do="load", folder=folder, key=entry.key, spec=entry.spec)
        for entry in field
    }

    def busy() -> tuple[float, float] | None:
        total = machine.busy_seconds()
        return total and (total, process_time() + sum(worker.ask(do="cpu") for worker in workers.values()))

    before, began = busy(), perf_counter()
    bursts = race(
        workers, field, arguments.rounds, arguments.seconds, arguments.seed, lambda text: print(text, flush=True)
    )
    after, seconds = busy(), perf_counter() - began
    others = (after[0] - before[0] - (after[1] - before[1])) / seconds if before and after else None
    figures = summary.figures(bursts)
    return {
        "rounds": arguments.rounds,
        "burst_seconds": arguments.seconds,
        "seed": arguments.seed,
        "race_seconds": round(seconds, 1),
        "cpus_used_by_other_processes": others and round(max(others, 0.0), 3),
        "load_average_at_end": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "targets": targets,
        "versions": versions,
        "requirements": summary.requirements(bursts, targets),
        "layers": summary.layers(bursts, targets),
        "entries": {
            entry.key: {"network": entry.network, "engine": entry.engine, "threads": entry.threads}
            | figures[entry.key]
            | {"detail": details[entry.key]}
            for entry in field
        },
    }


def main() -> None:
    arguments = parse()
    environment = Environment(bench=arguments.bench_python, lce=arguments.lce_python)
    workers = start(arguments, environment)
    try:
        measured = measure(workers, arguments)
    finally:
        for worker in workers.values():
            worker.close()
    date = datetime.now(UTC).date().isoformat()
    command = shlex.join(["python", *sys.argv])
    results = {"date": date, "command": command, "machine": machine.describe(ROOT)} | measured
    out = arguments.out or ROOT / "benchmarks" / "results" / f"{date}-peers"
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "README.md").write_text(page.render(results), encoding="utf-8")
    draw(results, out / "latency-accuracy.svg")
    print(page.requirements(results))
    print(f"written to {out}")


if __name__ == "__main__":
    main()
