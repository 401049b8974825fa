"""Encoded images whose few bytes would keep a decoder busy for hours."""

from __future__ import annotations

import io
import re
from threading import Event

from bcdnet.errors import DataError

# Encoders make about ten. Each is decoded over the whole image, and may be as short as 40 bytes.
MOST_SCANS = 32
# Pillow reads each part of a file by itself, and fill bytes one by one; a PNG of 16 MB in parts of 256 takes so many.
MOST_READS = 2**18
_SCAN, _END = 0xDA, 0xD9
# The markers that are followed by the length of what they say, and the end of the image.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")


class Reader(io.BytesIO):
    """Bytes to decode for as long as somebody waits for it, unless they are in too many small parts."""

    def __init__(self, data: bytes, over: Event) -> None:
        super().__init__(data)
        self._over = over
        self._left = MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises DataError once nobody waits any more, or it has been asked too often."""
        self._left -= 1
        if self._left < 0:
            raise DataError("it is in too many small parts")
        if self._over.is_set():
            raise DataError("the request is over")
        return super().read(size)


def check_scans(data: bytes, name: str) -> None:
    """Raise DataError, which opens with `name`, for a JPEG image of more than 32 scans."""
    # Most images are let through by the quick count, which sees too many: thumbnails, and what comes after the image.
    if data.startswith(b"\xff\xd8\xff") and data.count(bytes([0xFF, _SCAN])) > MOST_SCANS and _scans(data) > MOST_SCANS:
        raise DataError(f"{name}: is a JPEG image of more than {MOST_SCANS} scans; save it anew")


def _scans(jpeg: bytes) -> int:
    scans, at = 0, 2
    while scans <= MOST_SCANS and (marker := _MARKER.search(jpeg, at)) is not None:
        kind, at = jpeg[marker.start() + 1], marker.end()
        if kind == _END:
            break
        scans += kind == _SCAN
        at += int.from_bytes(jpeg[at : at + 2], "big")
    return scans
