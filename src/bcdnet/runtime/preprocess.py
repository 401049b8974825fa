"""From an image to a network's input, with Pillow and numpy, exactly as evaluation in training does it.

Legend: C channels, H and W the input's height and width.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Union

import numpy as np
import numpy.typing as npt

from bcdnet.errors import DataError
from bcdnet.program.schema import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike = Union["Image", npt.NDArray[np.uint8], str, os.PathLike[str]]


def to_input(image: ImageLike, preprocess: Preprocess) -> npt.NDArray[np.float32]:
    """A Pillow image, uint8 [H', W', 3 or 1] (or [H', W']) array or file name -> normalised float32 [C, H, W].

    The shorter side is resized to round(size / crop_pct) and the centre cropped; an image that already has H x W pixels
    is not resampled. Raises DataError for what is no image.
    """
    channels = preprocess.input_size[0]
    pixels = np.asarray(_crop(_with_channels(_open(image), channels), preprocess))
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    # The same two float32 roundings as in training: one multiply, one add.
    factor = np.array([1 / (255 * s) for s in preprocess.std], np.float32)
    offset = np.array([-m / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)], np.float32)
    scaled: npt.NDArray[np.float32] = planes.astype(np.float32) * factor[:, None, None]
    return np.add(scaled, offset[:, None, None], out=scaled)


def _open(image: ImageLike) -> Image:
    from PIL import Image, UnidentifiedImageError

    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))):
            raise DataError(
                f"an image array must be uint8 [H, W, 3], [H, W, 1] or [H, W], got {image.dtype} {list(image.shape)}"
            )
        if 0 in image.shape:
            raise DataError("an image array must not be empty")
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if not isinstance(image, (str, os.PathLike)):
        raise DataError(f"expected a Pillow image, a uint8 array or a file name, got {type(image).__name__}")
    try:
        opened = Image.open(image)
        opened.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{image}: cannot be read as an image ({error})") from None
    return opened


def _with_channels(image: Image, channels: int) -> Image:
    """Mode L (1 channel) or RGB (3; grey is repeated). Transparency is dropped, 16-bit grey scaled to 8."""
    from PIL import Image

    if channels not in (1, 3):
        raise DataError(f"the model takes {channels} channels; images have 1 or 3: pass arrays to run()")
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _crop(image: Image, preprocess: Preprocess) -> Image:
    from PIL import Image

    _, height, width = preprocess.input_size
    if image.size == (width, height):
        return image
    # The longer side is cut to a whole number, as torchvision's Resize does.
    rows, columns = round(height / preprocess.crop_pct), round(width / preprocess.crop_pct)
    if image.width * rows <= image.height * columns:
        size = (columns, int(columns * image.height / image.width))
    else:
        size = (int(rows * image.width / image.height), rows)
    image = image.resize(size, Image.Resampling[preprocess.interpolation.upper()])
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return image.crop((left, top, left + width, top + height))
