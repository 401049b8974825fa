"""Which files are images, and which of them a folder holds. A leaf that needs nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")


def is_image(file: str) -> bool:
    """Whether the name has the suffix of an image format, and is not a hidden one."""
    return file.lower().endswith(SUFFIXES) and not file.startswith(".")


def walk_images(folder: Path) -> Iterator[Path]:
    """The images of a folder, at any depth, folder by folder in sorted order; hidden files and folders are passed over.

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
        yield from (Path(place, file) for file in sorted(files) if is_image(file))
