"""From what a user names (files, folders, globs, addresses, standard input, a webcam) to images, one by one."""

from __future__ import annotations

import glob
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from bcdnet.decoded_images import open_image
from bcdnet.errors import BcdnetError, DataError
from bcdnet.image_files import SUFFIXES, is_pipe, walk_images

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 178_956_970  # where Pillow draws the line itself
ADDRESSES = ("http://", "https://")
MAX_DOWNLOAD = 64 * 2**20
DOWNLOAD_SECONDS = 120.0
DOWNLOAD_SILENCE_SECONDS = 20.0
UNESCAPED = "/?:@!$&'()*+,;=%[]"  # in an address, beside letters and digits


@dataclass(frozen=True)
class Source:
    """One image that is not read yet. `name` is for people, `relative` is where a copy of it belongs in a folder.

    `open` gives the image, upright; it raises DataError that opens with the name.
    """

    name: str
    relative: Path
    open: Callable[[], Image]


def find_images(names: Sequence[str], *, allow_urls: bool = False, max_pixels: int = MAX_PIXELS) -> list[Source]:
    """Every image that `names` mean, folders and globs in sorted order; only standard input is read yet.

    A name is a file, a folder (searched at any depth; hidden files and pipes are passed over), a glob (of which each
    file is taken once), `-` for standard input, an address (http, https; with NAME:PASSWORD@ where the server asks for
    them) if `allow_urls`, or a webcam's number.
    Raises DataError for a name that means nothing.
    """
    return [source for name in names for source in _find(name, allow_urls, max_pixels)]


def _find(name: str, allow_urls: bool, max_pixels: int) -> Iterator[Source]:
    path = Path(name)
    if not name:
        raise DataError("an empty name means no image")
    if name == "-":
        # At once: a thread that waits for it could not be interrupted.
        data = _read_stdin()
        yield Source("standard input", Path("stdin"), lambda: open_image(data, "standard input", max_pixels=max_pixels))
    elif name.lower().startswith(ADDRESSES):
        if not allow_urls:
            raise DataError(f"{name}: is not fetched unless you say --allow-urls")
        try:
            parts = urlsplit(name)
        except ValueError as error:
            raise DataError(f"{name}: is no address ({error})") from None
        # A password is for the server alone, and not for a log.
        shown = name.replace(f":{parts.password}@", ":***@", 1) if parts.password else name
        relative = Path(PurePosixPath(parts.path).name or "download")
        yield Source(shown, relative, lambda: open_image(_download(parts, shown), shown, max_pixels=max_pixels))
    elif path.is_dir():
        files = list(_files(path, max_pixels))
        if not files:
            raise DataError(f"{name}: no images in this folder, no name that ends in {', '.join(SUFFIXES)}")
        yield from files
    elif path.exists():
        yield from _files(path, max_pixels)
    elif matches := sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []:
        # As in a folder: one without images is passed over, and what cannot be read is skipped when its turn comes.
        found: dict[str, Source] = {}
        for match in matches:
            for source in () if is_pipe(match) else _files(Path(match), max_pixels):
                found.setdefault(source.name, source)  # ** matches a folder, those in it and their files
        if not found:
            raise DataError(f"{name}: no images in the folders that match it")
        yield from found.values()
    elif name.isdecimal() and len(name) < 10:  # larger numbers are no camera's
        yield Source(f"webcam {name}", Path(f"webcam-{name}"), lambda: _webcam(int(name)))
    else:
        raise DataError(
            f"{name}: no such file, and nothing matches it" if glob.has_magic(name) else f"{name}: no such file"
        )


def _files(path: Path, max_pixels: int) -> Iterator[Source]:
    """The images of a folder, or one file."""
    top = path if path.is_dir() else path.parent
    for file in walk_images(path) if path.is_dir() else [path]:
        yield Source(str(file), file.relative_to(top), partial(open_image, file, max_pixels=max_pixels))


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise DataError("standard input: is closed")
    return sys.stdin.buffer.read()


def _download(parts: SplitResult, shown: str) -> bytes:
    from base64 import b64encode
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.parse import quote, unquote_to_bytes, urlunsplit
    from urllib.request import Request, urlopen

    from bcdnet import __version__

    end = time.monotonic() + DOWNLOAD_SECONDS
    try:
        # As browsers do, what an address cannot hold is escaped; what is escaped already stays so.
        login, at, host = parts.netloc.rpartition("@")
        host, (path, query) = host.encode("idna").decode(), (quote(part, UNESCAPED) for part in parts[2:4])
        # The scheme was checked, and urllib follows redirections to http, https and ftp only.
        request = Request(
            urlunsplit((parts.scheme, host, path, query, "")), headers={"User-Agent": f"bcdnet/{__version__}"}
        )
        if at:  # NAME:PASSWORD, as cameras ask for; not for a server that this one may send us on to
            secret = b64encode(unquote_to_bytes(login if ":" in login else f"{login}:")).decode()
            request.add_unredirected_header("Authorization", f"Basic {secret}")
        with urlopen(request, timeout=DOWNLOAD_SILENCE_SECONDS) as answer:
            body = bytearray()
            while len(body) <= MAX_DOWNLOAD and (block := answer.read1(2**16)):
                body += block
                if time.monotonic() > end:
                    raise TimeoutError(f"not all there after {DOWNLOAD_SECONDS:g} seconds")
            if len(body) <= MAX_DOWNLOAD and (missing := getattr(answer, "length", None)):
                raise ConnectionError(f"it ended {missing} bytes early")
    except HTTPError as error:
        error.close()
        raise DataError(f"{shown}: the server answers {error.code} {error.reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"{shown}: cannot be fetched ({error})") from None
    if len(body) > MAX_DOWNLOAD:
        raise DataError(f"{shown}: is longer than {MAX_DOWNLOAD // 2**20} MiB")
    return bytes(body)


def _webcam(index: int) -> Image:
    from PIL import Image

    try:
        import cv2
    except ImportError:
        raise BcdnetError("a webcam needs OpenCV: pip install opencv-python-headless") from None
    camera = cv2.VideoCapture(index)
    try:
        arrived, frame = camera.read()
    finally:
        camera.release()
    if not arrived:
        raise DataError(f"webcam {index}: gives no picture; is it there, and not in use?")
    return Image.fromarray(frame[..., ::-1])
