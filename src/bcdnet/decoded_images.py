"""Images from files to what a network wants, upright and in its colours, in training and prediction alike. A leaf."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from bcdnet.errors import DataError, ImageTooLargeError

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]  # width and height
# Pixels of a whole resized image, of which the crop is a part: an image one pixel wide would grow without bound.
MAX_RESIZED = 2**26
# The main brands of ISO base media files that hold a picture (ISO/IEC 23008-12, AV1 Image File Format).
KINDS = dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "HEIC") | {b"avif": "AVIF"}
HEAD = 12  # bytes of a file that tell its brand


def _unread(head: bytes) -> str:
    """What a file that Pillow does not know is, as its first `HEAD` bytes tell, and the remedy for a phone's."""
    kind = KINDS.get(head[8:HEAD]) if head[4:8] == b"ftyp" else None
    return (
        "not an image, or is damaged" if kind is None else f"{kind}, which this Pillow does not read; save it as JPEG"
    )


def open_image(
    source: bytes | BinaryIO | str | os.PathLike[str],
    name: str | None = None,
    *,
    max_pixels: int | None = None,
    formats: tuple[str, ...] | None = None,
) -> Image:
    """Decode an encoded image or a file and turn it upright as its EXIF data say.

    `max_pixels` is held against the size in the header, before anything is decoded. `formats`: Pillow's names, by
    default all it reads. Raises DataError that opens with `name` (by default the file's), MemoryError.
    """
    from PIL import Image, UnidentifiedImageError

    name = name or (os.fspath(source) if isinstance(source, (str, os.PathLike)) else "image")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                size = f"{image.width} x {image.height}"
                raise ImageTooLargeError(f"{name}: has {size} pixels; at most {max_pixels:,} are allowed")
            image.load()
            picture = upright(image)
    except (ImageTooLargeError, MemoryError):
        raise
    except UnidentifiedImageError:
        if formats is not None:
            raise DataError(
                f"{name}: is not a {', '.join(formats[:-1])} or {formats[-1]} image, or is damaged"
            ) from None
        raise DataError(f"{name}: is {_unread(_head(source))}") from None
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{name}: is a folder, not an image") from None
    except Image.DecompressionBombError:
        raise ImageTooLargeError(f"{name}: has more pixels than Pillow will decode") from None
    # Pillow's decoders raise what they like on damaged data; an error with a number is the system's own.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{name}: cannot be read ({error.strerror})") from None
        raise DataError(f"{name}: cannot be decoded ({error})") from None
    check_levels(picture, name)
    return picture


def _head(source: bytes | BinaryIO | str | os.PathLike[str]) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD]
    if isinstance(source, (str, os.PathLike)):
        if not os.path.isfile(source):  # of a pipe the beginning is gone
            return b""
        with open(source, "rb") as file:
            return file.read(HEAD)
    source.seek(0)
    return source.read(HEAD)


def check_levels(image: Image, name: str) -> None:
    """Raise DataError, which opens with `name`, for levels whose range nobody knows."""
    if image.mode == "F":
        raise DataError(f"{name}: holds floating-point numbers, whose range nobody knows; save it with 8 or 16 bits")


def upright(image: Image) -> Image:
    """The image turned and mirrored as its EXIF orientation says; EXIF data that cannot be read say nothing."""
    from PIL import ExifTags, ImageOps

    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except MemoryError:
        raise
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


def covering(width: int, height: int, size: Size, least: Size) -> tuple[Size, Size]:
    """(width, height) at which such an image just covers `least`, and (left, top) of the centre `size` of that."""
    columns, rows = least
    # The longer side is cut to a whole number, as torchvision's Resize does.
    if width * rows <= height * columns:
        whole = (columns, int(columns * height / width))
    else:
        whole = (int(rows * width / height), rows)
    return whole, (round((whole[0] - size[0]) / 2), round((whole[1] - size[1]) / 2))


def centre(image: Image, size: Size, least: Size, interpolation: str, name: str) -> Image:
    """The centre `size` of the image resized to cover `least`; one of that size already stays as it is.

    Raises ImageTooLargeError, which opens with `name`, where the whole would have more than 2^26 pixels.
    """
    from PIL import Image

    if image.size == size:
        return image
    whole, (left, top) = covering(*image.size, size, least)
    if whole[0] * whole[1] > MAX_RESIZED:
        found, wanted = (f"{columns} x {rows} pixels" for columns, rows in (image.size, whole))
        raise ImageTooLargeError(f"{name}: is too long for its width; {found} would become {wanted}")
    image = image.resize(whole, Image.Resampling[interpolation.upper()])
    return image.crop((left, top, left + size[0], top + size[1]))


def planes(image: Image) -> npt.NDArray[np.uint8]:
    """The pixels of an image of mode L or RGB as uint8 [C, H, W]."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
