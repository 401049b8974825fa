"""Mutate packed files and read them: `python tests/program/fuzz_reader.py --files 10000 [--seed S] [--keep FOLDER]`.

Every mutated file must give a valid program or one ProgramError, quickly and without much memory. Anything else is
kept and makes the exit code 1. Half of the mutations are of the JSON (which bytes at random would only make
unparsable), a quarter of the bytes, a quarter of the file's length.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors.numpy import save

sys.path.insert(0, str(Path(__file__).parent))

from conftest import build

from bcdnet.errors import ProgramError
from bcdnet.program import read_program

VALUES: list[Any] = [
    None, True, False, 0, 1, 2, -1, 3.5, 1e300, 65536, 65537, 2**31, 2**63, 10**30, "", "x", "none", "\ud800", [], {},
    [1], [0, 0], [255, 255], {"a": 1},
]  # fmt: skip
SLOW_SECONDS = 1.0


def mutate_json(document: Any, rng: random.Random) -> None:
    """Replace, remove, repeat or add one thing somewhere in the document."""
    target = document
    while True:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        key = rng.choice(keys)
        inner = target[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.85:
            target = inner
            continue
        action = rng.randrange(4)
        if action == 0 and isinstance(target, list):
            target.insert(key, copy.deepcopy(inner))
        elif action == 1:
            del target[key]
        elif action == 2 and isinstance(inner, int):
            target[key] = inner + rng.choice([-1, 1, 2, 32])
        else:
            target[key] = copy.deepcopy(rng.choice(VALUES))
        return


def mutated(rng: random.Random) -> bytes:
    """One mutated file."""
    document, tensors = build(rng.choice([4, 8, 36]), seed=rng.randrange(4))
    kind = rng.randrange(4)
    for _ in range(rng.randint(1, 3) if kind < 2 else 0):
        mutate_json(document, rng)
    content = bytearray(save(tensors, metadata={"bcdnet_program": json.dumps(document)}))
    if kind == 2:
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == 3:
        place = rng.randrange(len(content))
        content[place : place + rng.choice([0, 1, 4, 1000])] = rng.randbytes(rng.choice([0, 1, 4]))
    return bytes(content)


def main() -> int:
    """Run, report the rate and the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    args = parser.parse_args()
    outcomes: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        file = Path(folder) / "x.bcdn"
        for index in range(args.files):
            if time.perf_counter() - begin > args.seconds:
                break
            content = mutated(random.Random(f"{args.seed}/{index}"))
            file.write_bytes(content)
            start = time.process_time()
            try:
                read_program(file)
                outcome = "valid"
            except ProgramError:
                outcome = "rejected"
            except BaseException as error:
                outcome = f"FAILED {type(error).__name__}: {error}"[:100]
            if time.process_time() - start > SLOW_SECONDS:
                outcome = "FAILED slow"
            outcomes[outcome] += 1
            if outcome.startswith("FAILED"):
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{args.seed}-{index}.bcdn").write_bytes(content)
    seconds = time.perf_counter() - begin
    count = sum(outcomes.values())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{count} files in {seconds:.0f} s, {count / seconds:.0f} a second; peak memory grew by {grown:.1f} MB")
    for outcome, number in outcomes.most_common():
        print(f"{number:>9} {outcome}")
    return int(any(outcome.startswith("FAILED") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
