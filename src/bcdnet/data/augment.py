"""Augmentation of a whole training batch on its own device, as a function of the batch and one number.

Legend: B batch, C channels, H and W stored height and width, S = image_size, K classes.
"""

import numpy as np
import torch

from bcdnet.data.config import AugmentConfig
from bcdnet.data.crop import box_mask, flipped, random_boxes, resized_crop, shifted
from bcdnet.data.mix import cutmix, mixup
from bcdnet.data.resize import normalise
from bcdnet.errors import DataError

# Area and aspect ratio of what is erased (Zhong et al., 2020).
ERASED_SCALE = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 1 / 0.3)


class Augment:
    """`augment(images, labels, num_classes, seed=…)`: uint8 [B, C, H, W] to float32 [B, C, S, S] and targets.

    In order: crop, flip, colour jitter, policy, normalisation, erasing, mixup or cutmix. Targets are the int64 [B]
    labels, or float32 [B, K] where `config` mixes.

    All randomness comes from `seed`, drawn on the CPU: the same batch and seed give the same draws on every device, and
    torch's, numpy's and Python's global generators are not touched. That is what makes a resumed run exact.
    """

    def __init__(self, config: AugmentConfig, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.config = config
        self.image_size = image_size
        self.mean = mean
        self.std = std

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, num_classes: int, *, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment one batch. Raises DataError for images of another size, unless they are cropped at random."""
        config = self.config
        generator = np.random.default_rng(seed % (1 << 64))
        inputs, scale = self._geometry(images, generator).float(), 255
        if config.color_jitter or config.policy != "none":
            inputs, scale = self._colours(inputs.mul_(1 / 255), generator), 1
        inputs = normalise(inputs, self.mean, self.std, scale)
        if config.erase:
            inputs = self._erase(inputs, generator)
        return self._mix(inputs, labels, num_classes, generator)

    def _geometry(self, images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        config, count, size = self.config, len(images), self.image_size
        height, width = images.shape[-2:]
        flips = generator.random(count) < (0.5 if config.flip else 0)
        if config.crop == "random_resized":
            boxes = random_boxes(height, width, config.scale, config.ratio, generator, count)
            return resized_crop(images, boxes, flips, size)
        if (height, width) != (size, size):
            raise DataError(f"images of {height}x{width} pixels where image_size is {size}")
        if config.crop == "pad":
            offsets = generator.integers(0, 2 * config.padding + 1, (count, 2))
            return shifted(images, offsets, flips, config.padding)
        return flipped(images, flips) if config.flip else images

    def _colours(self, images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        # kornia takes a moment to import, and most runs on small images need none of it.
        from bcdnet.data.policy import apply_policy, color_jitter

        config = self.config
        if config.color_jitter:
            images = color_jitter(images, config.color_jitter, generator)
        if config.policy == "randaugment":
            images = apply_policy(images, "randaugment", config.policy_ops, config.policy_magnitude, generator)
        elif config.policy == "trivialaugment":
            images = apply_policy(images, "trivialaugment", 1, None, generator)
        return images

    def _erase(self, images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        size = self.image_size
        boxes = random_boxes(size, size, ERASED_SCALE, ERASED_RATIO, generator, len(images))
        boxes[generator.random(len(images)) >= self.config.erase, 2:] = 0
        return images.masked_fill_(box_mask(boxes, size, images.device), 0)

    def _mix(
        self, images: torch.Tensor, labels: torch.Tensor, num_classes: int, generator: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        use_cutmix = config.cutmix > 0 and (config.mixup == 0 or generator.random() < 0.5)
        if use_cutmix:
            return cutmix(images, labels, num_classes, config.cutmix, generator)
        if config.mixup > 0:
            return mixup(images, labels, num_classes, config.mixup, generator)
        return images, labels
