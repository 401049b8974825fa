"""Binarising and non-linear activations.  N images, C channels, H x W positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn, zeros

from bcdnet.nn.sign import make_estimator


def _check_map(x: Tensor, name: str) -> None:
    # [N, C] would broadcast to something else without a word. Unlike an `if`, this is nothing that torch.fx stops at.
    torch._assert(x.dim() == 4, f"{name} takes maps [N, C, H, W]: give features [N, C] as [N, C, 1, 1]")


class Sign(nn.Module):
    """Binarise at zero: x -> sign(x), ±1 (Bi-Real Net).  `estimator` names the gradient, see `ESTIMATORS`."""

    def __init__(self, estimator: str = "polynomial") -> None:
        super().__init__()
        self.estimator = make_estimator(estimator)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, ...] -> the same shape and dtype, ±1."""
        out: Tensor = self.estimator(x)
        return out


class RSign(nn.Module):
    """Binarise at a learnable threshold per channel: sign(x + bias), and per image: sign(x + bias - alpha).

    `bias` is ReActNet's RSign (Liu et al., ECCV 2020, eq. 4); `alpha` is BCDNet's contextual threshold. Keeping the
    static term beside the dynamic one is this project's choice: with alpha = 0 the block is exactly ReActNet's.
    """

    def __init__(self, channels: int, estimator: str = "polynomial") -> None:
        super().__init__()
        self.bias = nn.Parameter(zeros(channels))
        self.estimator = make_estimator(estimator)

    def forward(self, x: Tensor, alpha: Tensor | None = None) -> Tensor:
        """x: [N, C, H, W], alpha: [N, C, 1, 1] or None -> [N, C, H, W], ±1. AssertionError for another shape of x."""
        _check_map(x, "RSign")
        x = x + self.bias.view(1, -1, 1, 1)
        if alpha is not None:
            x = x - alpha
        out: Tensor = self.estimator(x)
        return out


class RPReLU(nn.Module):
    """prelu(x + bias_in) + bias_out, every parameter per channel (ReActNet, ECCV 2020, eq. 5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias_in = nn.Parameter(zeros(channels))
        self.weight = nn.Parameter(zeros(channels) + 0.25)
        self.bias_out = nn.Parameter(zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> the same shape. AssertionError for another shape of x."""
        _check_map(x, "RPReLU")
        x = x + self.bias_in.view(1, -1, 1, 1)
        return F.prelu(x, self.weight) + self.bias_out.view(1, -1, 1, 1)
