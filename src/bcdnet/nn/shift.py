"""Channel shifts that let a 1 x 1 binary layer mix tokens (paper, section on the long-short range binary MLP).

N images, C channels in four quarters, H x W positions. Shifts are circular: what leaves one side enters at the other.
"""

import torch
from torch import Tensor, nn


def shift_quarters(x: Tensor, rows: int, columns: int) -> Tensor:
    """Roll the four channel quarters down by `rows`, up by `rows`, right by `columns`, left by `columns`.

    x: [N, C, H, W], C a multiple of 4 -> the same shape.
    """
    down, up, right, left = x.chunk(4, dim=1)
    # Tuples: of a plain number torch.jit.trace makes a constant, and would shift every map by half of its own.
    return torch.cat(
        (
            torch.roll(down, (rows,), (2,)),
            torch.roll(up, (-rows,), (2,)),
            torch.roll(right, (columns,), (3,)),
            torch.roll(left, (-columns,), (3,)),
        ),
        dim=1,
    )


class ShortRangeShift(nn.Module):
    """Shift the channel quarters by one position."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W], C a multiple of 4 -> the same shape."""
        return shift_quarters(x, 1, 1)


class LongRangeShift(nn.Module):
    """Shift the channel quarters by half the map, rounded down: whatever the map's size, its far side comes near."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W], C a multiple of 4 -> the same shape."""
        return shift_quarters(x, x.shape[2] // 2, x.shape[3] // 2)
