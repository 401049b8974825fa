"""Batch norm over the batches of all processes, on any device.

torch.nn.SyncBatchNorm refuses CPU tensors, so a run on CPU processes (gloo) would silently have other statistics than
one process with the same global batch, and torch.compile breaks the graph at it. This one needs `all_reduce` alone.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """x -> the sum of the processes' x, and the same of the gradients: what one process does reaches all losses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _summed(grad)


def _summed(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x


class CrossProcessBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the global batch; the same as BatchNorm2d otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> the same shape. Every process must call it with the same C; N may differ."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            local: Tensor = super().forward(x)
            return local
        self._check_input_dim(x)
        count = x.new_full((1,), x.numel() / x.shape[1], dtype=torch.float32)
        wide = x.float()
        # Two rounds (mean, then squares about it), since sum(x^2) - mean^2 cancels in float32.
        count = _summed(count)
        mean = _SumOverProcesses.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        self._track(mean, variance, count)
        out = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        result: Tensor = out.to(x.dtype)
        return result

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = variance * count / (count - 1).clamp_min(1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def share_buffers(model: nn.Module, average: Iterable[Tensor]) -> None:
    """Give every process the first one's buffers, which are exported, and its `average`, in place.

    Without synchronised batch norm they differ after each iteration, and so would the network that each evaluates.
    """
    if dist.is_initialized():
        for value in (*model.buffers(), *average):
            dist.broadcast(value, 0)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Make every BatchNorm2d, in place and under the same parameter names, one that spans the processes."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            # The class alone differs: parameters, buffers, hooks and names stay what they are.
            module.__class__ = CrossProcessBatchNorm2d
