"""Mixup and CutMix: pairs of images of a batch, with targets in the same proportion.

Legend: B batch, C channels, S size, K classes; a weight is the share of an image in its own mixture.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bcdnet.data.crop import box_mask


def mixup(
    images: torch.Tensor, labels: torch.Tensor, num_classes: int, alpha: float, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend each image with another of the batch (Zhang et al., 2018): float32 [B, C, S, S], targets [B, K].

    The weight, Beta(alpha, alpha), is drawn per image.
    """
    weights = generator.beta(alpha, alpha, len(images))
    partners = _partners(images, generator)
    share = torch.from_numpy(weights.astype(np.float32)).to(images.device, non_blocking=True).view(-1, 1, 1, 1)
    return torch.lerp(images[partners], images, share), _soft(labels, partners, weights, num_classes)


def cutmix(
    images: torch.Tensor, labels: torch.Tensor, num_classes: int, alpha: float, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace a square of each image by the same square of another (Yun et al., 2019): [B, C, S, S], targets [B, K].

    The square's share of the image is 1 - Beta(alpha, alpha) and its centre uniform; what the border cuts off counts
    for neither, so that the targets are exact shares of area.
    """
    size = images.shape[-1]
    side = size * np.sqrt(1 - generator.beta(alpha, alpha, len(images)))
    centre = generator.uniform(0, size, (2, len(images)))
    low = np.rint(centre - side / 2).clip(0, size).astype(np.int64)
    extent = np.rint(centre + side / 2).clip(0, size).astype(np.int64) - low
    boxes = np.concatenate([low, extent]).T
    partners = _partners(images, generator)
    weights = 1 - boxes[:, 2] * boxes[:, 3] / size**2
    mixed = torch.where(box_mask(boxes, size, images.device), images[partners], images)
    return mixed, _soft(labels, partners, weights, num_classes)


def _partners(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(generator.permutation(len(images))).to(images.device, non_blocking=True)


def _soft(labels: torch.Tensor, partners: torch.Tensor, weights: NDArray[np.float64], num_classes: int) -> torch.Tensor:
    own = F.one_hot(labels, num_classes).float()
    share = torch.from_numpy(weights.astype(np.float32)).to(labels.device, non_blocking=True).view(-1, 1)
    return torch.lerp(own[partners], own, share)
