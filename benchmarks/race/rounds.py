"""The race: worker processes take turns, in an order drawn anew for each round, and one of them runs at a time."""

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import sleep
from typing import Any

from race.entries import Entry, Environment, Worker

PAUSE_SECONDS = 0.005  # between two bursts: thread pools spin for a while before they sleep


class WorkerProcess:
    """A running worker; `ask` sends one request and waits for its answer. RuntimeError with the worker's traceback."""

    def __init__(self, name: str, worker: Worker, environment: Environment, log: Path) -> None:
        python: Path = getattr(environment, worker.environment)
        if not python.exists():
            raise FileNotFoundError(f"{name}: no {python}; `make bench` creates it, `--skip {name}` does without")
        self.name = name
        self.log = log.open("w")
        self.process = subprocess.Popen(
            [python, "-m", "race.worker", worker.engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | worker.variables,
        )

    def ask(self, **request: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the worker {self.name} ended; its output is in {self.log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {request}\n{answer['error']}")
        return answer["answer"]

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def race(
    workers: Mapping[str, WorkerProcess],
    entries: Iterable[Entry],
    rounds: int,
    seconds: float,
    seed: int,
    report: Callable[[str], None],
) -> dict[str, list[dict[str, Any]]]:
    """`rounds` bursts of about `seconds` seconds for every entry, by its key; element i of each list is of round i."""
    order = list(entries)
    bursts: dict[str, list[dict[str, Any]]] = {entry.key: [] for entry in order}
    generator = random.Random(seed)
    for number in range(rounds):
        generator.shuffle(order)
        for entry in order:
            sleep(PAUSE_SECONDS)
            bursts[entry.key].append(workers[entry.worker].ask(do="measure", key=entry.key, seconds=seconds))
        report(f"round {number + 1} of {rounds}")
    return bursts
