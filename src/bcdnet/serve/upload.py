"""The images of one request, a raw body or multipart, within the limits; and the bytes that all requests hold."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from bcdnet.serve.refusal import FULL, RefusalError
from bcdnet.serve.settings import Settings

RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
MULTIPART = "multipart/form-data"
PARAMETERS = ("topk", "cam", "model")  # of the address
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


@dataclass(frozen=True)
class Upload:
    """One encoded image and what the client calls it."""

    name: str
    data: bytes


class Intake:
    """Bounds the bytes of all bodies together: what `queue` bodies of the greatest length hold.

    Bytes that came, and not uploads, are counted: one that stalls takes nothing from the others.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held = 0

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Yields what counts the bytes of one body as they come, which are held to the end of the block.

        It raises RefusalError: 413 for the body, 503 for all bodies.
        """
        seen = 0

        def count(size: int) -> None:
            nonlocal seen
            seen += size
            self._held += size
            if seen > self._settings.body_bytes:
                raise _too_long(self._settings)
            if self._held > self._settings.queue * self._settings.body_bytes:
                raise RefusalError(503, FULL, 1)

        try:
            yield count
        finally:
            self._held -= seen


async def read_images(request: Request, settings: Settings, count: Callable[[int], None]) -> list[Upload]:
    """All images of the body, at least one; `count` is told of its bytes.

    Raises RefusalError: 400, 413, 415, 503 or what `count` raises; ClientDisconnect.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > settings.body_bytes:
        raise _too_long(settings)
    limited = Request(request.scope, _counted(request.receive, count))
    if kind == MULTIPART:
        return await _from_form(limited, settings)
    if kind not in RAW_TYPES:
        raise RefusalError(415, f"the body must be {MULTIPART} or one of {', '.join(RAW_TYPES)}")
    data = await limited.body()
    if not data:
        raise RefusalError(400, "the body is empty; send the bytes of an image")
    return [Upload("image", data)]


class _Parser(MultiPartParser):
    """Keeps files in memory, whose bytes `Intake` bounds: a container may have no folder that can be written."""

    spool_max_size = sys.maxsize

    def __init__(self, request: Request, **limits: Any) -> None:
        super().__init__(request.headers, self._whole(request), **limits)
        self.ended = False

    async def _whole(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body; one that was cut off may lack an image."""
        async for chunk in request.stream():
            yield chunk
        if not self.ended:
            raise MultiPartException("It ends before its last boundary.")

    def on_end(self) -> None:
        """Comes with the last boundary."""
        self.ended = True

    def on_part_end(self) -> None:
        """Refuse an image or a parameter that would be passed over."""
        super().on_part_end()
        field, value = self.items[-1]
        if field == "image" and isinstance(value, str):
            raise MultiPartException("A part called image has no file name; send each image as one file.")
        if field in PARAMETERS and isinstance(value, str):
            raise MultiPartException(f"A part is called {field}, which belongs in the address: ?{field}=...")


async def _from_form(request: Request, settings: Settings) -> list[Upload]:
    limits: dict[str, Any] = {"max_files": settings.images, "max_fields": settings.images, "max_part_size": 4096}
    uploads = []
    try:
        for _, file in (await _Parser(request, **limits).parse()).multi_items():
            if isinstance(file, UploadFile):
                uploads.append(Upload(_printable(file.filename or "image"), await file.read()))
                await file.close()  # or its bytes would be held twice
    except (RefusalError, ClientDisconnect, MemoryError):
        raise
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise RefusalError(413, f"a request may hold at most {settings.images} images") from None
        if "maximum size" in error.message:
            raise RefusalError(
                400,
                "the multipart body has a part without a file name, too long for a field; send each image as one file",
            ) from None
        raise RefusalError(400, f"the multipart body is not valid ({error.message.rstrip('.')})") from None
    # Whatever a parser makes of hostile bytes (an exotic charset, a broken header), they are the client's fault.
    except Exception:
        raise RefusalError(400, "the multipart body is not valid") from None
    if not uploads:
        raise RefusalError(400, "the multipart body holds no file; send each image as one file")
    return uploads


def _counted(receive: Receive, count: Callable[[int], None]) -> Receive:
    """Counts the bytes, since a body need not say its length, nor tell the truth about it."""

    async def counted() -> MutableMapping[str, Any]:
        message = await receive()
        count(len(message.get("body", b"")))
        return message

    return counted


def _too_long(settings: Settings) -> RefusalError:
    return RefusalError(413, f"the body is longer than {settings.body_bytes:,} bytes")


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name[:100])
