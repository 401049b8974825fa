"""How good a network is on a split: accuracy, calibration, confusion, speed. N images, K classes."""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

from bcdnet.evaluation import CALIBRATION_BINS, Evaluation, accuracy_by_class, check_finite
from bcdnet.nn.modes import evaluating

BELOW_ONE = 1 - 2**-24  # the largest confidence of the last bin; torchmetrics gives that of 1 a bin of its own


def make_metrics(num_classes: int) -> MetricCollection:
    """Everything that one pass accumulates; torchmetrics adds the processes of a distributed run together."""
    return MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro"),
            "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
            "ece": MulticlassCalibrationError(num_classes, n_bins=CALIBRATION_BINS, norm="l1"),
            "confusion": MulticlassConfusionMatrix(num_classes),
        },
        compute_groups=False,
    )


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    transform: Callable[[Tensor], Tensor],
    class_names: list[str],
    device: torch.device,
) -> Evaluation:
    """Run `model` in eval mode (its modes are restored) in float32 over batches of (uint8 [N, C, H, W], int64 [N]).

    In a distributed run every process passes its share and gets the result for all of them. Raises BcdnetError for
    logits that are not finite, of which no figure would mean anything.
    """
    metrics, loss = make_metrics(len(class_names)).to(device), MeanMetric().to(device)
    broken = SumMetric().to(device)
    seconds, images = 0.0, 0
    with evaluating(model), _float32_convolutions():
        for pixels, labels in batches:
            if not len(labels):
                continue  # a process's share of the last batch
            pixels, labels = pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            if not images:
                model(transform(pixels))  # the first pass picks kernels and makes room; it is no measure of speed
            _wait(device)
            started = time.perf_counter()
            logits = model(transform(pixels)).float()
            _wait(device)
            seconds += time.perf_counter() - started
            images += len(labels)
            broken.update((~logits.isfinite().all(1)).sum())
            logits = logits.nan_to_num()
            # Softmax makes equal what differs by little: the order of classes is that of the logits.
            for name, metric in metrics.items():
                metric.update(logits.softmax(1).clamp(max=BELOW_ONE) if name == "ece" else logits, labels)
            loss.update(F.cross_entropy(logits, labels, reduction="sum") / len(labels), weight=len(labels))
    # Of all processes: one that stopped earlier would leave the others waiting.
    check_finite(int(broken.compute()))
    values = metrics.compute()
    confusion = values["confusion"].cpu().numpy().astype(np.int64)
    return Evaluation(
        top1=100 * float(values["top1"]),
        top5=100 * float(values["top5"]),
        loss=float(loss.compute()),
        images=int(confusion.sum()),
        images_per_second=images / max(seconds, 1e-9),
        ece=float(values["ece"]),
        per_class=accuracy_by_class(confusion, class_names),
        confusion=confusion,
    )


def _float32_convolutions() -> AbstractContextManager[None]:
    """On a GPU torch's default for them is TF32, whose ten bits of mantissa turn signs near zero over."""
    cudnn = torch.backends.cudnn
    flags: AbstractContextManager[None] = cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )
    return flags


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
