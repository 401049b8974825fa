"""Mutate packed files, read them, and run those that are still valid.

    python tests/program/fuzz_reader.py --files 10000 [--seed S] [--keep FOLDER] [--json FILE]

Every file must give either one ProgramError of one printable line or a valid program. Whatever the reader accepts, the
native core must accept and run, on any instruction set, and now and then give what the plain numpy executor gives.
Anything else is a failure: another exception, a crash, a hang, more than a second of CPU time, more than 64 MB of
address space for a file of some kB, or for every 64th file more Python memory than 1 MB and 100 times its size. What
failed is kept and the exit code is 1. File number I of seed S is always the same bytes.

The files that are mutated: the one of `every_op.py` with every type of op, in three widths, and two that the compiler
made from networks. They are read in a child process, so that a crash or a hang is found and costs one file only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import resource
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from every_op import packed
from mutations import MUTATIONS, Seed, mutate

from bcdnet.errors import ProgramError
from bcdnet.program import Program, execute, read_program
from bcdnet.program.schema import buffer_bytes
from bcdnet.runtime import InferenceSession, available_targets

SLOW_SECONDS = 1.0
HANG_SECONDS = 120
SPARE_BYTES = 64 * 2**20
TRACE_EVERY = 64
COMPARE_EVERY = 8
KINDS = [mutation.__name__ for mutation in MUTATIONS]
OUTCOMES = ["rejected", "valid, run", "valid, run, equal to the numpy executor", "valid, too large to run", "FAILED"]
RUN_BYTES = 16 * 2**20
# The heap of a process that runs a hundred thousand different networks frays by some MB, which must not be held against
# the next file.
PER_WORKER = 50_000
NOISE = np.random.default_rng(0).normal(size=2**22).astype(np.float32)


class FailedError(Exception):
    """What must not happen."""


def export_networks(folder: Path) -> None:
    """Compile two small networks: one of the paper's blocks alone, and a narrow one of the zoo."""
    import timm
    import torch
    from torch import nn

    from bcdnet import nn as bnn
    from bcdnet.compiler import export

    torch.manual_seed(0)
    blocks = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), bnn.ContextualConvBlock(8, 16, 3, 2), bnn.BinaryMLPBlock(16),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    export(blocks.eval(), folder / "blocks.bcdn", input_size=(3, 9, 10), labels=["a", "b", "c", "d"])
    zoo = timm.create_model("bcdnet_b_small", width=0.125, num_classes=4, in_chans=1)
    export(zoo.eval(), folder / "zoo.bcdn", input_size=(1, 16, 16))


def load_seeds(folder: Path) -> list[tuple[Seed, float]]:
    """Seeds and how often each is taken: the program of the zoo is the longest by far."""
    files = [packed(channels) for channels in (4, 8, 36)]
    exported = [(folder / name).read_bytes() for name in ("blocks.bcdn", "zoo.bcdn")]
    return list(zip(map(Seed.parse, files + exported), [25, 25, 20, 26, 4], strict=True))


@dataclass
class Reader:
    """Judges one file at a time, all of them written to one place."""

    file: Path
    targets: list[str] = field(default_factory=available_targets)

    def judge(self, content: bytes, rng: random.Random, traced: bool) -> str:
        """The outcome, or FailedError."""
        self.file.write_bytes(content)
        start = time.process_time()
        if traced:
            tracemalloc.start()
        try:
            program = read_program(self.file)
        except ProgramError as error:
            message = str(error)
            if not message.startswith(f"{self.file}: ") or not message.isprintable():
                raise FailedError(f"message {message!a}") from None
            return "rejected"
        finally:
            spent, peak = time.process_time() - start, 0
            if traced:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            if spent > SLOW_SECONDS:
                raise FailedError(f"read in {spent:.1f} s")
            if peak > 2**20 + 100 * len(content):
                raise FailedError(f"{peak} bytes of Python memory for {len(content)} bytes of file")
        return self._run(program, rng)

    def _run(self, program: Program, rng: random.Random) -> str:
        if sum(map(buffer_bytes, program.buffers)) > RUN_BYTES:
            return "valid, too large to run"
        start = time.process_time()
        threads = 2 if rng.random() < 1 / 16 else 1
        session = InferenceSession(self.file, threads=threads, target=rng.choice(self.targets))
        port = session.get_inputs()[0]
        shape = (1, *port.shape[1:])
        images = NOISE[: int(np.prod(shape))].reshape(shape)
        outputs = session.run(None, {port.name: images})
        if (spent := time.process_time() - start) > SLOW_SECONDS * threads:
            raise FailedError(f"ran in {spent:.1f} s")
        if rng.randrange(COMPARE_EVERY):
            return "valid, run"
        expected = execute(program, images)
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(outputs, expected, strict=True)):
            raise FailedError(f"{session.target} and the numpy executor differ")
        return "valid, run, equal to the numpy executor"


def work(marks: Any, pipe: Connection, args: argparse.Namespace, folder: Path, done: int) -> None:
    """Judge PER_WORKER files, the first of them after `done` others, and mark each; in a process of its own.

    Sends (index, text) of every failure, and at the end the peak of resident memory in kB.
    """
    seeds, weights = zip(*load_seeds(folder), strict=True)
    reader = Reader(folder / "x.bcdn")
    limit_memory()
    for place in range(done, min(args.files, done + PER_WORKER)):
        index = args.first + place
        rng = random.Random(f"{args.seed}/{index}")
        kind, content = mutate(rng.choices(seeds, weights)[0], rng)
        # A loop without end, even one in C++, is then ended by the kernel.
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 10, resource.RLIM_INFINITY))
        try:
            outcome = reader.judge(content, rng, traced=index % TRACE_EVERY == 0)
        except BaseException as error:
            outcome = "FAILED"
            pipe.send((index, f"{type(error).__name__}: {error}"[:300]))
        marks[place] = mark(kind, outcome)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def limit_memory() -> None:
    """From here on the process may grow by SPARE_BYTES; Linux only, elsewhere there is no limit."""
    status = Path("/proc/self/statm")
    if status.exists():
        size = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + SPARE_BYTES, resource.RLIM_INFINITY))


def mark(kind: str, outcome: str) -> int:
    """One byte for a judged file, not 0."""
    return 1 + KINDS.index(kind) * len(OUTCOMES) + OUTCOMES.index(outcome)


def fuzz(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Counter[str]], dict[int, str], int]:
    """Outcomes by kind of mutation, text of the failures by index, peak kB; a worker that dies is replaced."""
    context = multiprocessing.get_context("spawn")
    marks = context.RawArray("B", args.files)
    failures: dict[int, str] = {}
    peak = done = 0
    while done < args.files:
        pipe, far = context.Pipe(duplex=False)
        worker = context.Process(target=work, args=(marks, far, args, folder, done))
        worker.start()
        far.close()
        moved = time.monotonic()
        while worker.is_alive() or pipe.poll():
            before = done
            done = _first_zero(marks, done)
            if done > before:
                moved = time.monotonic()
            elif time.monotonic() - moved > HANG_SECONDS:
                worker.kill()
            try:
                message = pipe.recv() if pipe.poll(1.0) else None
            except EOFError:
                break
            if isinstance(message, int):
                peak = max(peak, message)
            elif message:
                failures[message[0]] = message[1]
        worker.join()
        done = _first_zero(marks, done)
        if worker.exitcode:
            failures[args.first + done] = f"the process ended with {worker.exitcode}"
            kind, _ = remake(args.seed, args.first + done, folder)
            marks[done] = mark(kind, "FAILED")
            done += 1
    table: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for value in marks:
        table[KINDS[(value - 1) // len(OUTCOMES)]][OUTCOMES[(value - 1) % len(OUTCOMES)]] += 1
    return table, failures, peak


def _first_zero(marks: Any, start: int) -> int:
    while start < len(marks) and marks[start]:
        start += 1
    return start


def remake(seed: int, index: int, folder: Path) -> tuple[str, bytes]:
    """Kind and content of one file of a run."""
    seeds, weights = zip(*load_seeds(folder), strict=True)
    rng = random.Random(f"{seed}/{index}")
    return mutate(rng.choices(seeds, weights)[0], rng)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file, to repeat a part of a run")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for the files that failed")
    parser.add_argument("--json", type=Path, help="write the counts here")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        exporter = context.Process(target=export_networks, args=(folder,))
        exporter.start()
        exporter.join()
        table, failures, peak = fuzz(args, folder)
        for index, text in sorted(failures.items()):
            args.keep.mkdir(parents=True, exist_ok=True)
            (args.keep / f"{args.seed}-{index}.bcdn").write_bytes(remake(args.seed, index, folder)[1])
            print(f"file {index}: {text}")
    total = sum(table.values(), Counter())
    result = {
        "files": sum(total.values()), "seed": args.seed, "first": args.first, "failures": len(failures),
        "outcomes": dict(total),
        "by_mutation": {kind: dict(counts) for kind, counts in table.items()},
        "seconds": round(time.perf_counter() - begin), "peak_resident_mb": round(peak / 1024),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("bcdnet", "numpy", "safetensors")},
        },
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
