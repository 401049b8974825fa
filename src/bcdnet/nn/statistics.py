"""Batch norm's running statistics, measured anew."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def restore_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the statistics of its input for these images [N, C, H, W]; the outputs stay, to rounding.

    A network from a packed file has batch norms of mean 0 and variance 1, whose weight and bias do all; in train mode,
    which divides by the batch's own statistics, it would compute something else. Here weight and bias take up the
    difference: a x + b = a sqrt(v + eps) (x - m) / sqrt(v + eps) + (b + a m). Raises ValueError where there are no
    images.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.affine]
    # Of 1, x and x^2, per channel.
    sums: dict[nn.Module, Tensor] = {layer: torch.zeros(3, layer.num_features, dtype=torch.float64) for layer in layers}

    def measure(layer: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        variance, mean = (part.double() for part in torch.var_mean(x, [0, *range(2, x.dim())], correction=0))
        sums[layer] += x.numel() // len(mean) * torch.stack([torch.ones_like(mean), mean, variance + mean.square()])

    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    training = model.training
    try:
        model.eval()
        for images in batches:
            model(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    for layer in layers:
        count, total, squares = sums[layer]
        if not count.all():
            raise ValueError("statistics of no images: batches is empty")
        mean = total / count
        _move(layer, mean, (squares / count - mean**2).clamp_min(0))


def _move(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert layer.running_mean is not None and layer.running_var is not None
    slope = layer.weight.double() / (layer.running_var.double() + layer.eps).sqrt()
    layer.bias.add_(slope * (mean - layer.running_mean))
    layer.weight.copy_(slope * (variance + layer.eps).sqrt())
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
