"""From an image to a network's input, with Pillow and numpy, exactly as evaluation in training does it.

Legend: C channels, H and W the input's height and width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

import numpy as np
import numpy.typing as npt

from bcdnet.decoded_images import Size, centre, check_levels, covering, open_image, planes, upright, with_channels
from bcdnet.errors import DataError
from bcdnet.program.schema import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike = Union["Image", npt.NDArray[np.uint8], str, os.PathLike[str]]
# (left, top, width, height) as fractions of an image.
Box = tuple[float, float, float, float]


def to_input(image: ImageLike, preprocess: Preprocess, name: str | None = None) -> npt.NDArray[np.float32]:
    """A Pillow image, uint8 [H', W', 3 or 1] (or [H', W']) array or file name -> normalised float32 [C, H, W].

    Turned upright as its EXIF data say, the shorter side resized to round(size / crop_pct), the centre cropped; an
    image that already has H x W pixels is not resampled. Raises DataError for what is no image, ImageTooLargeError for
    one so thin that it would have more than 2^26 pixels before it is cropped; both open with `name`, by default the
    file's.
    """
    name = name or (os.fspath(image) if isinstance(image, (str, os.PathLike)) else "image")
    picture = with_channels(_open(image, name), for_images(preprocess).input_size[0])
    pixels = planes(centre(picture, *_sizes(preprocess), preprocess.interpolation, name))
    # The same two float32 roundings as in training: one multiply, one add.
    factor = np.array([1 / (255 * s) for s in preprocess.std], np.float32)
    offset = np.array([-m / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)], np.float32)
    scaled: npt.NDArray[np.float32] = pixels.astype(np.float32) * factor[:, None, None]
    return np.add(scaled, offset[:, None, None], out=scaled)


def for_images(preprocess: Preprocess | None, name: str = "the model") -> Preprocess:
    """The preprocessing itself; DataError, which opens with `name`, where no image can be given to the network."""
    if preprocess is None:
        raise DataError(f"{name}: says nothing of preprocessing; export it again with some, or pass arrays to run()")
    if (channels := preprocess.input_size[0]) not in (1, 3):
        raise DataError(f"{name}: takes {channels} channels; images have 1 or 3: pass arrays to run()")
    return preprocess


def as_images(images: Sequence[ImageLike] | ImageLike, channels: int) -> Sequence[ImageLike]:
    """A sequence of images as it is; an image alone, in a list. `channels`: what the network takes.

    An array of two axes is one image, and so is one of three whose last axis has 1 to 4 elements (with 2 it is refused
    as such, later); else its first axis counts images. Raises DataError where those of a network of colours would be
    grey, lest [3, H, W] pass for it.
    """
    from PIL import Image

    if isinstance(images, (str, os.PathLike, Image.Image)):
        return [images]
    if isinstance(images, np.ndarray):
        alone = images.ndim in (0, 2) or (images.ndim == 3 and images.shape[2] in (1, 2, 3, 4))
        if images.ndim == 3 and not alone and channels == 3:
            raise DataError(
                f"an array {list(images.shape)} is no image [H, W, 3], and no images [N, H, W, 3]; "
                "grey ones are [N, H, W, 1] here, or a list"
            )
        return [images] if alone else list(images)
    return images


def crop_box(width: int, height: int, preprocess: Preprocess) -> Box:
    """The part of an upright image of `width` x `height` pixels that the network sees."""
    size, least = _sizes(preprocess)
    if (width, height) == size:
        return 0.0, 0.0, 1.0, 1.0
    whole, (left, top) = covering(width, height, size, least)
    return left / whole[0], top / whole[1], size[0] / whole[0], size[1] / whole[1]


def _open(image: ImageLike, name: str) -> Image:
    from PIL import Image

    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise DataError(f"{name}: must not be empty")
        try:
            image.load()  # which Pillow puts off until the pixels are asked for
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(f"{name}: cannot be decoded ({error})") from None
        check_levels(image, name)
        return upright(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))):
            raise DataError(
                f"{name}: an array must be uint8 [H, W, 3], [H, W, 4] (RGBA), [H, W, 1] or [H, W], "
                f"got {image.dtype} {list(image.shape)}"
            )
        if 0 in image.shape:
            raise DataError(f"{name}: must not be empty")
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if not isinstance(image, (str, os.PathLike)):
        raise DataError(f"{name}: expected a Pillow image, a uint8 array or a file name, got {type(image).__name__}")
    return open_image(image, name)


def _sizes(preprocess: Preprocess) -> tuple[Size, Size]:
    """(width, height) of the input, and of what an image is resized to cover before it is cropped."""
    _, height, width = preprocess.input_size
    return (width, height), (round(width / preprocess.crop_pct), round(height / preprocess.crop_pct))
