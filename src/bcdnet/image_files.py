"""Which files are images, and which of them a folder holds. A leaf that needs nothing."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")


def is_image(file: str) -> bool:
    """Whether the name has the suffix of an image format, and is not a hidden one."""
    return file.lower().endswith(SUFFIXES) and not file.startswith(".")


def walk_images(folder: Path) -> Iterator[Path]:
    """The images of a folder, see `walk_files`."""
    yield from walk_files(folder, is_image)


def walk_files(folder: Path, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """The files of a folder with a wanted name, at any depth, folder by folder in sorted order, but what is hidden.

    Links are followed, but none to a folder that was seen: one to a folder above it would lead round without end.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, file) for file in sorted(files) if wanted(file) and not file.startswith("."))
