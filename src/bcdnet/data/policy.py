"""Colour jitter, RandAugment and TrivialAugment on whole batches: each image gets its own operations and strengths.

The pixel operations are kornia's, with one factor per image. For a policy the batch is divided by operation, and each
operation runs once on the images that drew it.

Legend: B batch, n images of it that drew an operation, C channels, H and W height and width. Images are float32 in
[0, 1].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import kornia.color
import kornia.enhance
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

LEVELS = 30  # strengths are 0..30


@dataclass(frozen=True)
class Operation:
    """`apply(images [n, C, H, W], values [n])`; a value goes from `neutral` at level 0 to the policy's limit at 30.

    Signed ones go to either side of `neutral`.
    """

    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    neutral: float = 0.0
    randaugment: float = 0.0
    trivialaugment: float = 0.0
    signed: bool = False


def color_jitter(images: torch.Tensor, strengths: tuple[float, ...], generator: np.random.Generator) -> torch.Tensor:
    """Brightness, contrast, saturation (factors in 1 ± strength) and hue (± strength of a turn), in random order.

    Factors are drawn per image, the order per batch. Of grey images only brightness and contrast change.
    """
    factors = [1 + generator.uniform(-strength, strength, len(images)) for strength in strengths[:3]]
    factors += [2 * math.pi * generator.uniform(-strength, strength, len(images)) for strength in strengths[3:]]
    changes = (_brightness, _contrast, _saturation, _hue)
    for number in generator.permutation(len(factors)):
        if strengths[number] and (number < 2 or images.shape[1] == 3):
            images = changes[number](images, _values(factors[number], images.device))
    return images


def apply_policy(
    images: torch.Tensor,
    policy: Literal["randaugment", "trivialaugment"],
    rounds: int,
    level: int | None,
    generator: np.random.Generator,
) -> torch.Tensor:
    """Apply `rounds` random operations to each image: float32 [B, C, H, W].

    RandAugment (Cubuk et al., 2020) uses one `level` in 0..30 for all; TrivialAugment (Müller and Hutter, 2021) one
    operation with a random level (`level` None) and its wide ranges, but translation by at most half the image, where
    the paper's 32 pixels would move all of a small one out.
    """
    count = len(images)
    for _ in range(rounds):
        drawn = generator.integers(0, len(OPERATIONS), count)
        levels = generator.integers(0, LEVELS + 1, count) if level is None else np.full(count, level)
        signs = generator.choice([-1.0, 1.0], count)
        changed = images.clone()
        for number, operation in enumerate(OPERATIONS.values()):
            rows = np.flatnonzero(drawn == number)
            if len(rows) and operation is not None:
                limit = operation.randaugment if policy == "randaugment" else operation.trivialaugment
                offset = (limit - operation.neutral) * levels[rows] / LEVELS
                values = operation.neutral + offset * (signs[rows] if operation.signed else 1)
                picked = torch.from_numpy(rows).to(images.device, non_blocking=True)
                changed[picked] = operation.apply(images[picked], _values(values, images.device))
        images = changed
    return images


def _brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return kornia.enhance.adjust_brightness_accumulative(images, factor)


def _contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    # Not kornia's, which before 0.9 took the mean of a whole batch of grey images.
    grey = kornia.color.rgb_to_grayscale(images) if images.shape[1] == 3 else images
    factor = factor.view(-1, 1, 1, 1)
    return (images * factor + grey.mean((1, 2, 3), keepdim=True) * (1 - factor)).clamp(0, 1)


def _saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return kornia.enhance.adjust_saturation_with_gray_subtraction(images, factor)


def _hue(images: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    return kornia.enhance.adjust_hue(images, angle)


def _posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    return kornia.enhance.posterize(images, bits.round().int())


def _auto_contrast(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    # Each channel is stretched to [0, 1]; a constant one stays.
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp_min(1e-6), images)


def _equalize(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return kornia.enhance.equalize(images)


def _shear_x(images: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    return _affine(images, {(0, 1): value * height / width})


def _shear_y(images: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    return _affine(images, {(1, 0): value * width / height})


def _translate_x(images: torch.Tensor, fraction: torch.Tensor) -> torch.Tensor:
    return _affine(images, {(0, 2): 2 * fraction})


def _translate_y(images: torch.Tensor, fraction: torch.Tensor) -> torch.Tensor:
    return _affine(images, {(1, 2): 2 * fraction})


def _rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    cos, sin = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    entries = {(0, 0): cos, (1, 1): cos, (0, 1): -sin * height / width, (1, 0): sin * width / height}
    return _affine(images, entries)


def _affine(images: torch.Tensor, entries: dict[tuple[int, int], torch.Tensor]) -> torch.Tensor:
    # The identity with `entries` [n] replaced, from output to input in coordinates of [-1, 1]; zeros come in.
    matrix = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    for (row, column), value in entries.items():
        matrix[:, row, column] = value
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _values(values: NDArray[np.float64], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device, non_blocking=True)


# The operations and ranges of both papers, as torchvision has them (its "wide" TrivialAugment). Translation is a
# fraction of the image.
OPERATIONS: dict[str, Operation | None] = {
    "identity": None,
    "shear_x": Operation(_shear_x, 0, 0.3, 0.99, signed=True),
    "shear_y": Operation(_shear_y, 0, 0.3, 0.99, signed=True),
    "translate_x": Operation(_translate_x, 0, 150 / 331, 0.5, signed=True),
    "translate_y": Operation(_translate_y, 0, 150 / 331, 0.5, signed=True),
    "rotate": Operation(_rotate, 0, 30, 135, signed=True),
    "brightness": Operation(_brightness, 1, 1.9, 1.99, signed=True),
    "color": Operation(_saturation, 1, 1.9, 1.99, signed=True),
    "contrast": Operation(_contrast, 1, 1.9, 1.99, signed=True),
    "sharpness": Operation(kornia.enhance.sharpness, 1, 1.9, 1.99, signed=True),
    "posterize": Operation(_posterize, 8, 4, 2),
    "solarize": Operation(kornia.enhance.solarize, 1, 0, 0),
    "auto_contrast": Operation(_auto_contrast),
    "equalize": Operation(_equalize),
}
