"""One training step of ours against the same network composed naively: images per second and peak memory.

    python benchmarks/training.py                    # a GPU if there is one
    python benchmarks/training.py --device cpu --out benchmarks/results/2026-01-31-training

A step is zero_grad, forward with both heads (their mean, no teacher), cross-entropy, backward, AdamW; the images lie
on the device. Ours runs as the recipes do there: channels_last, torch.compile, their optimiser, and on a GPU bfloat16
autocast and CUDA graphs. The naive network (naive.py) runs in float32 (on a GPU with torch's default, TF32 in
convolutions), NCHW, uncompiled, with torch's default AdamW. Each measurement has a process of its own, and the two take
turns. Memory is what torch's allocator takes from the GPU for these steps (replayed graphs allocate nothing, so what it
hands out would not show them), or the process's peak resident set, compilation included. Each network's figures are
written as soon as there are both; with what compilation takes, a round on a GPU is longer than five minutes.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from naive import naive
from race.machine import describe
from race.out import results_folder

from bcdnet.models import build, configure
from bcdnet.training.optim import build_optimizer
from bcdnet.training.recipe import StepConfig

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ("ours", "naive")


@dataclass(frozen=True)
class Entry:
    """One network and its batch; the step is timed `steps` times."""

    model: str
    image_size: int
    batch_size: int
    width: float = 1.0
    classes: int = 1000
    steps: int = 30
    compile_mode: str = "default"

    @property
    def name(self) -> str:
        return f"{self.model}, width {self.width:g}, {self.image_size} px, batch {self.batch_size}"


ENTRIES = {
    "cuda": [
        Entry("bcdnet_a", 224, 64, compile_mode="reduce-overhead"),
        Entry("bcdnet_a_r18_small", 32, 256, classes=10, compile_mode="reduce-overhead"),
    ],
    "cpu": [
        Entry("bcdnet_a", 112, 8, width=0.5, steps=10),
        Entry("bcdnet_a_r18_small", 32, 64, width=0.5, classes=10, steps=10),
    ],
}


def measure(entry: Entry, variant: str, device: str) -> dict[str, Any]:
    """Median seconds of a step, and peak bytes, in this process."""
    torch.manual_seed(0)
    ours = variant == "ours"
    gpu = device == "cuda"
    torch.backends.cudnn.benchmark = True
    model = build(configure(entry.model, width=entry.width, num_classes=entry.classes))
    model = model.to(device) if ours else naive(model).to(device)
    images = torch.randn(entry.batch_size, 3, entry.image_size, entry.image_size, device=device)
    labels = torch.randint(0, entry.classes, (entry.batch_size,), device=device)
    call: Any = model
    if ours:
        model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        call = torch.compile(model, mode=entry.compile_mode)
    plain = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.0)
    optimizer = build_optimizer(model, StepConfig("step2", 5e-4, weight_bits=1, iterations=1)) if ours else plain

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=ours and gpu):
            logits = call(images)
        F.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
        optimizer.step()

    def wait() -> None:
        if gpu:
            torch.cuda.synchronize()

    started = time.perf_counter()
    for _ in range(3):
        step()
    wait()
    warmup = time.perf_counter() - started
    if gpu:
        torch.cuda.empty_cache()  # of what only compilation and the choice of kernels needed
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(entry.steps):
        started = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_reserved() if gpu else peak_memory()
    return {"seconds": statistics.median(times), "least": min(times), "peak_bytes": peak, "warmup_seconds": warmup}


def peak_memory() -> int:
    """Of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_apart(entry: Entry, variant: str, device: str) -> dict[str, Any]:
    """`measure` in a process of its own."""
    job = json.dumps({"entry": asdict(entry), "variant": variant, "device": device})
    done = subprocess.run([sys.executable, __file__, "--worker", job], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    rate, peak, warmup = entry.batch_size / found["seconds"], found["peak_bytes"] / 1e6, found["warmup_seconds"]
    print(
        f"{entry.name}, {variant}: {rate:,.1f} images/s, {peak:,.0f} MB; first steps in {warmup:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return found


def compare(entry: Entry, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Of each variant the fastest round."""
    best = {variant: min(runs, key=lambda run: run["seconds"]) for variant, runs in found.items()}
    rates = {variant: entry.batch_size / run["seconds"] for variant, run in best.items()}
    return {
        "name": entry.name,
        **asdict(entry),
        "images_per_second": rates,
        "speed_ratio": rates["ours"] / rates["naive"],
        "peak_bytes": {variant: run["peak_bytes"] for variant, run in best.items()},
        "memory_ratio": best["ours"]["peak_bytes"] / best["naive"]["peak_bytes"],
        "rounds": found,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| network | images/s, ours | naive | ratio | peak memory, ours (MB) | naive | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        rates, peaks = row["images_per_second"], row["peak_bytes"]
        lines.append(
            f"| {row['name']} | {rates['ours']:,.1f} | {rates['naive']:,.1f} | **{row['speed_ratio']:.2f}** "
            f"| {peaks['ours'] / 1e6:,.0f} | {peaks['naive'] / 1e6:,.0f} | **{row['memory_ratio']:.2f}** |"
        )
    return "\n".join(lines)


def page(document: dict[str, Any]) -> str:
    machine = document["machine"]
    return (
        f"# One training step against the same network composed naively\n\n{table(document['results'])}\n\n"
        f"On {document['device_name']} ({machine['processor']}, {machine['cpus']} CPUs, {document['threads']} threads)"
        f", torch {document['torch']}; commit {machine['commit'][:12]}. Median of the timed steps, the fastest of "
        f"{document['rounds']} rounds.\n\n```bash\n{document['command']}\n```\n"
    )


def write(document: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(document, indent=2) + "\n")
    (out / "README.md").write_text(page(document), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="+", help="entries by number, from 0")
    parser.add_argument("--out", type=results_folder, help="write results.json and README.md there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        job = json.loads(arguments.worker)
        print(json.dumps(measure(Entry(**job["entry"]), job["variant"], job["device"])))
        return
    entries = ENTRIES[arguments.device]
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    if arguments.rounds < 1:
        parser.error(f"--rounds: at least 1, got {arguments.rounds}")
    if not all(0 <= number < len(entries) for number in arguments.only or ()):
        parser.error(f"--only: there are entries 0 to {len(entries) - 1} for {arguments.device}")
    chosen = [entries[number] for number in arguments.only] if arguments.only else entries
    document: dict[str, Any] = {
        "command": f"python benchmarks/training.py {' '.join(sys.argv[1:])}",
        "machine": describe(ROOT),
        "device_name": torch.cuda.get_device_name() if arguments.device == "cuda" else "the CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": 0,
        "results": [],
    }
    found: dict[Entry, dict[str, list[dict[str, Any]]]] = {}
    for number in range(arguments.rounds):  # all networks once before any twice
        document["rounds"] = number + 1
        for entry in chosen:
            runs = found.setdefault(entry, {variant: [] for variant in VARIANTS})
            for variant in VARIANTS:
                runs[variant].append(measure_apart(entry, variant, arguments.device))
            document["results"] = [compare(*pair) for pair in found.items()]
            if arguments.out:
                write(document, arguments.out)
    print(table(document["results"]))


if __name__ == "__main__":
    main()
