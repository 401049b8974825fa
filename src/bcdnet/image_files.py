"""Which files are images, and which of them a folder holds. A leaf that needs the errors alone."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Never

from bcdnet.errors import DataError

# Those too that Pillow may lack, as it does HEIC without pillow-heif: what cannot be read is named, not left out.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".webp", ".avif", ".heic", ".heif", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".tif", ".tiff"),
)


def is_image(file: str) -> bool:
    """Whether the name has the suffix of an image format, and is not a hidden one."""
    return file.lower().endswith(SUFFIXES) and not file.startswith(".")


def walk_images(folder: Path) -> Iterator[Path]:
    """The images of a folder, see `walk_files`."""
    yield from walk_files(folder, is_image)


def walk_files(folder: Path, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """The files of a folder with a wanted name, at any depth, folder by folder in sorted order.

    Left out are hidden ones, and pipes, into which nobody may ever write. Links are followed, but none to a folder that
    was seen: one to a folder above it would lead round without end. Raises DataError for a folder that cannot be read.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if wanted(file) and not file.startswith(".") and not is_pipe(path := Path(place, file)):
                yield path


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether a path, its links followed, leads to a pipe, a socket or a device: neither to a file nor to a folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # which is named when its turn comes
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _refuse(error: OSError) -> Never:
    raise DataError(f"{error.filename}: cannot read this folder: {error.strerror}") from None
