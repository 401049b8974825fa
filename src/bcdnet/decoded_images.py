"""A decoded image as a network wants it, upright and in its colours, in training and prediction alike. A leaf."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bcdnet.errors import ImageTooLargeError

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

# Pixels of a whole resized image, of which the crop is a part: an image one pixel wide would grow without bound.
MAX_RESIZED = 2**26
# The main brands of ISO base media files that hold a picture (ISO/IEC 23008-12, AV1 Image File Format).
KINDS = dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "HEIC") | {b"avif": "AVIF"}
HEAD = 12  # bytes of a file that tell its brand


def unread(head: bytes) -> str:
    """What a file that Pillow does not know is, as its first `HEAD` bytes tell, and the remedy for a phone's."""
    kind = KINDS.get(head[8:HEAD]) if head[4:8] == b"ftyp" else None
    return (
        "not an image, or is damaged" if kind is None else f"{kind}, which this Pillow does not read; save it as JPEG"
    )


def upright(image: Image) -> Image:
    """The image turned and mirrored as its EXIF orientation says; EXIF data that cannot be read say nothing."""
    from PIL import ExifTags, ImageOps

    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:
        return image


def with_channels(image: Image, channels: int) -> Image:
    """Mode L (1 channel) or RGB (3; grey is repeated). Transparency is dropped, 16-bit grey scaled to 8."""
    from PIL import Image

    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        # Mode I, int32, is what Pillow makes of 16 bits and of sums of 8 bits alike; the others are uint16.
        shift = 8 if image.mode != "I" or levels.max() > 255 else 0
        image = Image.fromarray(np.clip(levels >> shift, 0, 255).astype(np.uint8))
    if image.mode == "La":  # alpha multiplied in, which Pillow converts to nothing else
        image = image.convert("LA")
    if image.mode == "LAB":  # which Pillow converts to RGB alone
        image = image.convert("RGB")
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def resized(image: Image, size: tuple[int, int], resampling: Resampling, name: str) -> Image:
    """The whole image at `size` = (width, height). ImageTooLargeError, which opens with `name`, beyond 2^26 pixels."""
    if size[0] * size[1] > MAX_RESIZED:
        found, wanted = (f"{columns} x {rows} pixels" for columns, rows in (image.size, size))
        raise ImageTooLargeError(f"{name}: is too long for its width; {found} would become {wanted}")
    return image.resize(size, resampling)
