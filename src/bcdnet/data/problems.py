"""Many problems, one error: all offenders are named, up to a bound."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np

from bcdnet.data.dataset import Dataset
from bcdnet.data.progress import track
from bcdnet.errors import DataError
from bcdnet.machine import available_threads

SHOWN = 20
CHUNK = 64  # calls in a thread's task: a million tasks of one would take gigabytes


def raise_for(problems: Sequence[str]) -> None:
    """Raise one DataError that lists the problems, the first 20 by name; nothing if there are none."""
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError("; ".join(problems[:SHOWN]) + more)


def label_problems(dataset: Dataset, name: str) -> list[str]:
    """What is wrong with a set's labels: none at all, or each one that no class has."""
    if not len(dataset):
        return [f"split {name!r}: empty"]
    if (dataset.labels == -1).all():  # as the hub has those that a contest keeps to itself
        another = "name another: --split, or in a recipe data.train_split and data.test_split"
        return [f"split {name!r}: has no labels, all are -1; {another}"]
    classes = len(dataset.class_names)
    wrong = np.flatnonzero((dataset.labels < 0) | (dataset.labels >= classes))
    return [f"{dataset.where(int(row))}: label {dataset.labels[row]} is not one of {classes} classes" for row in wrong]


def problems_of(function: Callable[[int], object], count: int, description: str, threads: bool = True) -> list[str]:
    """Call `function` with every index below `count`, beside a progress bar; what its DataErrors say, in order."""

    def call(start: int) -> list[str]:
        found = []
        for index in range(start, min(start + CHUNK, count)):
            try:
                function(index)
            except DataError as error:
                found.append(str(error))
        return found

    starts = range(0, count, CHUNK)
    with ThreadPoolExecutor(available_threads()) if threads else nullcontext() as pool:
        done = pool.map(call, starts) if pool else map(call, starts)
        return [problem for found in track(done, description, total=len(starts)) for problem in found]
