"""From logits to named classes.  N images, K classes."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bcdnet.errors import DataError
from bcdnet.evaluation import check_logits


@dataclass(frozen=True)
class Prediction:
    """One class for one image: its name, its softmax probability in [0, 1] and its index."""

    label: str
    probability: float
    index: int


def check_topk(topk: int) -> None:
    """Raise DataError for a number of classes below 1."""
    if topk < 1:
        raise DataError(f"topk: must be at least 1, got {topk}")


def rank(logits: npt.NDArray[np.float32], labels: Sequence[str], topk: int) -> list[list[Prediction]]:
    """For each row of float32 [N, K] the `topk` most probable classes, best first; an index stands in for no label.

    Raises DataError for logits that are not finite.
    """
    check_topk(topk)
    check_logits(logits)
    scores = logits.astype(np.float64)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    # By the logits: small probabilities are all 0 in the end.
    best = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
    names = labels or [str(index) for index in range(logits.shape[1])]
    return [
        [Prediction(names[index], float(row[index]), int(index)) for index in order]
        for row, order in zip(probabilities, best, strict=True)
    ]


def find_label(label: int | str, labels: Sequence[str], classes: int) -> int:
    """Index of a class given by name or index (also as digits). Raises DataError naming the nearest known name."""
    if not isinstance(label, str):
        label = operator.index(label)  # numpy's integers too, such as logits.argmax() gives
    elif label in labels:
        return labels.index(label)
    if isinstance(label, int) or (label.isdecimal() and len(label) < 10):
        if 0 <= int(label) < classes:
            return int(label)
        raise DataError(f"label {label}: the classes are 0 to {classes - 1}")
    near = difflib.get_close_matches(label, labels, n=1)
    names = ", ".join(map(repr, labels[:5])) + (", …" if len(labels) > 5 else "")
    hint = f"; did you mean {near[0]!r}?" if near else f": they are {names}" if labels else ""
    raise DataError(f"no class is called {label!r}{hint}")
