"""Random boxes, resized crops, shifts and flips: where they lie, and how a whole batch is cut at once.

Legend: B batch, C channels, H and W height and width, S the size of the crop. A box is (top, left, height, width).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

ATTEMPTS = 10


def random_boxes(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: np.random.Generator,
    count: int,
) -> NDArray[np.int64]:
    """`count` random boxes, int64 [count, 4], within an image of `height` x `width` pixels.

    Area (as a fraction) uniform in `scale`, aspect ratio (width / height) log-uniform in `ratio`, as in torchvision's
    RandomResizedCrop: the first of ten attempts that fits, else the largest centred box with an allowed ratio.
    """
    shape = (count, ATTEMPTS)
    area = height * width * generator.uniform(*scale, shape)
    aspect = np.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1]), shape))
    widths, heights = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = fits.argmax(axis=1)
    rows = np.arange(count)
    least, most = ratio
    fallback_width = max(1, min(width, round(height * most)))
    fallback_height = max(1, min(height, round(width / least)))
    found = fits[rows, first]
    box_width = np.where(found, widths[rows, first], fallback_width).astype(np.int64)
    box_height = np.where(found, heights[rows, first], fallback_height).astype(np.int64)
    top = np.where(found, generator.integers(0, height - box_height + 1), (height - box_height) // 2)
    left = np.where(found, generator.integers(0, width - box_width + 1), (width - box_width) // 2)
    return np.stack([top, left, box_height, box_width], axis=1)


def resized_crop(images: torch.Tensor, boxes: NDArray[np.int64], flips: NDArray[np.bool_], size: int) -> torch.Tensor:
    """Cut box b out of image b, mirror it where `flips[b]`, resize it to `size`: float32 [B, C, S, S].

    Bilinear, one pass. Not antialiased: the boxes of a set in memory are at most a little larger than S.
    """
    height, width = images.shape[-2:]
    top, left, box_height, box_width = boxes.T.astype(np.float32)
    matrix = np.zeros((len(boxes), 2, 3), dtype=np.float32)
    matrix[:, 0, 0] = np.where(flips, -1, 1) * box_width / width
    matrix[:, 0, 2] = (2 * left + box_width) / width - 1
    matrix[:, 1, 1] = box_height / height
    matrix[:, 1, 2] = (2 * top + box_height) / height - 1
    theta = torch.from_numpy(matrix).to(images.device, non_blocking=True)
    grid = F.affine_grid(theta, [len(boxes), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def shifted(images: torch.Tensor, offsets: NDArray[np.int64], flips: NDArray[np.bool_], padding: int) -> torch.Tensor:
    """Pad with zeros on all sides, cut [H, W] at `offsets[b]` = (top, left) in 0..2 * padding, mirror where `flips[b]`.

    The dtype stays. One gather: it is as quick as two copies on a CPU, and the same code on a GPU.
    """
    count, channels, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    draws = torch.from_numpy(np.column_stack([offsets, flips])).to(images.device, non_blocking=True)
    top, left, flip = draws.T.unsqueeze(-1)
    column = torch.arange(width, device=images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.where(flip > 0, width - 1 - column, column)
    index = (rows * (width + 2 * padding))[:, :, None] + columns[:, None, :]  # [B, H, W], into a flattened plane
    return padded.flatten(2).gather(2, index.view(count, 1, -1).expand(-1, channels, -1)).view_as(images)


def flipped(images: torch.Tensor, flips: NDArray[np.bool_]) -> torch.Tensor:
    """Mirror image b where `flips[b]`; the dtype stays."""
    rows = torch.from_numpy(np.flatnonzero(flips)).to(images.device, non_blocking=True)
    return images.index_copy(0, rows, images.index_select(0, rows).flip(-1))


def box_mask(boxes: NDArray[np.int64], size: int, device: torch.device) -> torch.Tensor:
    """Where box b is: bool [B, 1, S, S]."""
    top, left, height, width = torch.from_numpy(boxes.T.copy()).to(device, non_blocking=True).unsqueeze(-1)
    pixel = torch.arange(size, device=device)
    rows = (pixel >= top) & (pixel < top + height)
    columns = (pixel >= left) & (pixel < left + width)
    return torch.logical_and(rows[:, None, :, None], columns[:, None, None, :])
