"""Size and colour of images: from a decoded image to uint8 pixels, and from uint8 batches to a network's input.

Legend: B batch, C channels, H and W height and width, S = config.image_size, R = config.resize_size.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from bcdnet.data.config import DataConfig
from bcdnet.decoded_images import centre, covering, planes, with_channels


def to_pixels(image: Image.Image, config: DataConfig, size: int, where: str) -> NDArray[np.uint8]:
    """The centre `size` x `size` (S, or R for one that is cropped later) of `image`, resized as evaluation does.

    Returns uint8 [C, size, size]. An image of S x S pixels is not resampled, whatever R is, if `size` is S. Raises
    ImageTooLargeError, which opens with `where`, for one so thin that it would have more than 2^26 pixels when resized.
    """
    least = (config.resize_size, config.resize_size)
    image = with_channels(image, config.channels)
    return planes(centre(image, (size, size), least, config.interpolation, where))


def evaluate_transform(images: torch.Tensor, config: DataConfig) -> torch.Tensor:
    """uint8 [B, C, H, W] to normalised float32 [B, C, S, S]: resize the shorter side to R, crop the centre, normalise.

    Images of S x S are only normalised. Resampling is antialiased, as Pillow's is.
    """
    size = config.image_size
    height, width = images.shape[-2:]
    if (height, width) != (size, size):
        least = (config.resize_size, config.resize_size)
        (width, height), (left, top) = covering(width, height, (size, size), least)
        if images.shape[-2:] != (height, width):
            images = _interpolate(images, height, width, config.interpolation)
        images = images[..., top : top + size, left : left + size]
    return normalise(images.float(), config.mean, config.std, scale=255)


def normalise(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...], scale: float) -> torch.Tensor:
    """(images / scale - mean) / std per channel, in place on float32 [B, C, H, W]."""
    factor = torch.tensor([1 / (scale * s) for s in std]).view(-1, 1, 1)
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)
    # A copy that blocks would wait for all that the GPU has to do before it.
    factor, offset = (values.to(images.device, non_blocking=True) for values in (factor, offset))
    return images.mul_(factor).add_(offset)


def _interpolate(images: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    if interpolation == "nearest":
        return F.interpolate(images, (height, width), mode="nearest-exact")
    resized = F.interpolate(images.float(), (height, width), mode=interpolation, align_corners=False, antialias=True)
    return resized.round_().clamp_(0, 255)
