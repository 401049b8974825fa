"""Batch norm's running statistics: folded away, as packing does, and measured anew."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bcdnet.nn.modes import evaluating


@torch.no_grad()
def drop_statistics(model: nn.Module) -> None:
    """Let every batch norm be weight x + bias in eval mode: mean 0, and the variance that makes 1 with epsilon."""
    for mean, variance, eps in _statistics(model):
        mean.zero_()
        variance.fill_(1 - eps)


def lacks_statistics(model: nn.Module) -> bool:
    """Whether all batch norms, of which there is one at least, are as `drop_statistics` leaves them."""
    found = False
    for mean, variance, eps in _statistics(model):
        folded = torch.full_like(variance, 1 - eps)
        # Nothing is known of what is on torch's meta device, nor in a dtype in which a fresh variance is the same.
        if mean.is_meta or mean.any() or not torch.equal(variance, folded) or (folded == 1).all():
            return False
        found = True
    return found


def _statistics(model: nn.Module) -> Iterator[tuple[Tensor, Tensor, float]]:
    for layer in model.modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
            yield layer.running_mean, layer.running_var, layer.eps


@torch.no_grad()
def restore_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the statistics of its input for these images [N, C, H, W]; the outputs stay, to rounding.

    A network from a packed file has batch norms of mean 0 and variance 1, whose weight and bias do all; in train mode,
    which divides by the batch's own statistics, it computes something else. Here weight and bias take up the
    difference: a x + b = a sqrt(v + eps) (x - m) / sqrt(v + eps) + (b + a m). Raises ValueError where there are no
    images.
    """
    norms = (layer for layer in model.modules() if isinstance(layer, _BatchNorm))
    layers = [layer for layer in norms if layer.affine and layer.track_running_stats]
    sums: dict[nn.Module, Tensor] = {}  # of 1, x and x^2, per channel; on the CPU, since not every device has float64

    def measure(layer: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        variance, mean = (part.cpu().double() for part in torch.var_mean(x, [0, *range(2, x.dim())], correction=0))
        part = x.numel() // len(mean) * torch.stack([torch.ones_like(mean), mean, variance + mean.square()])
        sums[layer] = sums[layer] + part if layer in sums else part

    with evaluating(model), ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(measure))
        for images in batches:
            model(images)
        if not sums:
            raise ValueError("statistics of no images: batches is empty")
        for layer in filter(sums.__contains__, layers):
            count, total, squares = sums[layer]
            mean = total / count
            _move(layer, mean, (squares / count - mean**2).clamp_min(0))


def _move(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert layer.running_mean is not None and layer.running_var is not None
    weight, bias, before, spread = (
        value.cpu().double() for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    )
    slope = weight / (spread + layer.eps).sqrt()
    layer.bias.copy_(bias + slope * (mean - before))
    layer.weight.copy_(slope * (variance + layer.eps).sqrt())
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
