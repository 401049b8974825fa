"""Encoded images whose few bytes would keep a decoder busy for hours."""

from __future__ import annotations

import io
import re
from threading import Event

from bcdnet.errors import DataError

# Encoders make about ten. Each is decoded over the whole image, and may be as short as 40 bytes.
MOST_SCANS = 32
# A PNG of 16 MB in parts of 256 bytes has so many. Pillow reads each of them four times, and fill bytes one by one.
MOST_PARTS = 2**16
MOST_READS = 4 * MOST_PARTS
_SCAN, _END = 0xDA, 0xD9
_PNG, _PROFILE = b"\x89PNG\r\n\x1a\n", b"iCCP"
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
    if not data.startswith(b"\xff\xd8\xff") or data.count(bytes([0xFF, _SCAN])) <= MOST_SCANS:
        return
    scans, at = 0, 2
    for _ in range(MOST_PARTS):
        marker = _MARKER.search(data, at)
        if marker is None or data[marker.end() - 1] == _END:
            return
        scans += data[marker.end() - 1] == _SCAN
        if scans > MOST_SCANS:
            raise DataError(f"{name}: is a JPEG image of more than {MOST_SCANS} scans; save it anew")
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    raise DataError(f"{name}: is in too many small parts")


def check_profiles(data: bytes, name: str) -> None:
    """Raise DataError, which opens with `name`, for a PNG image of more than one colour profile, as the format wants.

    Each of a kilobyte may unpack to a megabyte.
    """
    # Most images are let through by the quick count, which sees the letters in pixels too.
    if not data.startswith(_PNG) or data.count(_PROFILE) <= 1:
        return
    profiles, at = 0, len(_PNG)
    for _ in range(MOST_PARTS):
        if at >= len(data):
            return
        profiles += data[at + 4 : at + 8] == _PROFILE
        if profiles > 1:
            raise DataError(f"{name}: is a PNG image of more than one colour profile; save it anew")
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise DataError(f"{name}: is in too many small parts")
