"""The worker process of one engine: it measures when it is told to, and sleeps otherwise.

    python -m race.worker ENGINE

Engines differ in their Python packages, thread pools and environment variables, so each has a process of its own. One
JSON request per line of standard input, one JSON answer per line of standard output. This file runs in every
environment and needs the standard library only.
"""

import gc
import importlib
import json
import os
import statistics
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

SLOW_SECONDS = 0.1  # a run this long is measured once, after one warm-up
WARM_UPS = 2  # runs that bring the weights back into the caches, which the engine before has filled
LEAST_RUNS = 3


@dataclass(frozen=True)
class Runner:
    """A loaded network: `run` once; `inside`, of a single layer, runs and returns the seconds that its kernel took."""

    run: Callable[[], object]
    inside: Callable[[], float] | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def _time(function: Callable[[], object]) -> float:
    begin = perf_counter()
    function()
    return perf_counter() - begin


def measure(runner: Runner, seconds: float, slow: bool) -> dict[str, Any]:
    """One burst: median and least time of a run in seconds, the number of runs, the cores kept busy on average.

    `slow`: measure one run, after one warm-up. `inside`: the median of the kernel's own time, from further runs; None
    where the runner has none.
    """
    for _ in range(1 if slow else WARM_UPS):
        runner.run()
    times: list[float] = []
    busy, begin = process_time(), perf_counter()
    while not times or not (slow or (len(times) >= LEAST_RUNS and sum(times) >= seconds)):
        times.append(_time(runner.run))
    wall = perf_counter() - begin
    answer = {
        "median": statistics.median(times),
        "least": min(times),
        "runs": len(times),
        "cores": (process_time() - busy) / wall,
        "inside": None,
    }
    if runner.inside is not None:
        runner.inside()
        spent: list[float] = []
        begin = perf_counter()
        while len(spent) < LEAST_RUNS or perf_counter() - begin < seconds / 2:
            spent.append(runner.inside())
        answer["inside"] = statistics.median(spent)
    return answer


def _answer(engine: Any, runners: dict[str, tuple[Runner, bool]], request: dict[str, Any]) -> Any:
    match request["do"]:
        case "versions":
            return engine.versions()
        case "prepare":
            return engine.prepare(Path(request["folder"]), request["spec"])
        case "load":
            runner = engine.load(Path(request["folder"]), request["spec"])
            runner.run()
            slow = min(_time(runner.run) for _ in range(2)) >= SLOW_SECONDS
            runners[request["key"]] = runner, slow
            return runner.detail
        case "measure":
            runner, slow = runners[request["key"]]
            return measure(runner, request["seconds"], slow)
        case "cpu":
            return process_time()
        case _:
            raise ValueError(f"unknown request {request['do']!r}")


def main() -> None:
    # Engines and their logs may print: only answers may reach the orchestrator.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = importlib.import_module(f"race.engines.{sys.argv[1]}")
    runners: dict[str, tuple[Runner, bool]] = {}
    gc.disable()
    for line in sys.stdin:
        try:
            answer = {"answer": _answer(engine, runners, json.loads(line))}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=channel, flush=True)


if __name__ == "__main__":
    main()
