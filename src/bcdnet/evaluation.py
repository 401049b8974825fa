"""What an evaluation says, whoever ran it: PyTorch or the packed file. A leaf that needs numpy alone.

N images, K classes.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcdnet.errors import DataError

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """`top1`, `top5` in percent (top-5 of fewer than 5 classes is top-K); `loss`: mean cross-entropy; `ece`: expected
    calibration error in [0, 1], 15 bins; `per_class`: top-1 in percent by class name, None for a class without images;
    `confusion`: int64 [K, K], true class by row; `images_per_second`: preprocessing and network, without decoding.
    """

    top1: float
    top5: float
    loss: float
    images: int
    images_per_second: float
    ece: float
    per_class: dict[str, float | None]
    confusion: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """All but the confusion matrix, rounded to what the number of images can tell."""
        return {
            "top1": round(self.top1, 4),
            "top5": round(self.top5, 4),
            "loss": round(self.loss, 6),
            "images": self.images,
            "images_per_second": round(self.images_per_second, 1),
            "ece": round(self.ece, 6),
            "per_class": {name: None if value is None else round(value, 4) for name, value in self.per_class.items()},
        }


def accuracy_by_class(confusion: NDArray[np.int64], class_names: list[str]) -> dict[str, float | None]:
    """Top-1 in percent of each class of a confusion matrix [K, K]; None where the class has no images.

    Of classes that share a name (ImageNet has two "crane") each is called by its index too.
    """
    totals, times = confusion.sum(1), Counter(class_names)
    names = [name if times[name] == 1 else f"{name} ({k})" for k, name in enumerate(class_names)]
    return {name: 100 * float(confusion[k, k]) / int(totals[k]) if totals[k] else None for k, name in enumerate(names)}


def check_finite(broken: int) -> None:
    """Raise DataError if so many images, one or more, have logits that are NaN or infinite."""
    if broken:
        raise DataError(
            f"the logits of {broken:,} images are not finite: the model's training diverged, or it is damaged"
        )


def check_logits(logits: NDArray[np.float32]) -> None:
    """`check_finite` of the images' logits [N, K]."""
    check_finite(int((~np.isfinite(logits).all(1)).sum()))


def evaluate_logits(
    logits: NDArray[np.float32], labels: NDArray[np.int64], class_names: list[str], seconds: float
) -> Evaluation:
    """The figures of logits [N, K] against labels [N], which took `seconds` to compute; see `check_logits`."""
    check_logits(logits)
    images, classes = logits.shape
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    best = logits.argmax(1)
    hits = best == labels
    own = logits[np.arange(images), labels][:, None]
    # Of equal logits the first class counts.
    before = (logits > own) | ((logits == own) & (np.arange(classes) < labels[:, None]))
    confidence = np.exp(logs.max(1))
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=hits - confidence, minlength=CALIBRATION_BINS)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, best), 1)
    return Evaluation(
        top1=100 * float(hits.mean()),
        top5=100 * float((before.sum(1) < 5).mean()),
        loss=-float(logs[np.arange(images), labels].mean()),
        images=images,
        images_per_second=images / max(seconds, 1e-9),
        ece=float(np.abs(gaps).sum() / images),
        per_class=accuracy_by_class(confusion, class_names),
        confusion=confusion,
    )
