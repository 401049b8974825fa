"""The limits of a server."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from bcdnet.errors import BcdnetError


@dataclass(frozen=True)
class Settings:
    """Frozen; a value out of range raises BcdnetError that names it.

    `body_bytes`, `pixels` (of one image) and `images` limit a request, `seconds` is how long its head may take, and
    then its body until it is answered. A model holds at most `queue` images that are not answered yet, and all requests
    together the bytes of at most `queue` of the longest bodies. `batch` images run at once; an image waits at most
    `wait_seconds` for others that are on their way. `workers` batches of a model run at the same time. `token`: what
    clients must send as `Authorization: Bearer ...`, if anything.
    """

    body_bytes: int = 16_000_000  # as --max-body-mb
    pixels: int = 25_000_000
    images: int = 16
    seconds: float = 30.0
    queue: int = 128
    batch: int = 16
    wait_seconds: float = 0.004
    workers: int = 1
    token: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("token", "wait_seconds") and not 0 < value < math.inf:
                raise BcdnetError(f"{field.name}: must be above 0 and finite, got {value}")
        if not 0 <= self.wait_seconds <= 1:
            raise BcdnetError(f"wait_seconds: must be 0 to 1, got {self.wait_seconds}")
        if self.images > self.queue:
            raise BcdnetError(
                f"images: {self.images} in one request never fit in a queue of {self.queue}; "
                "choose fewer (--max-images) or a longer queue (--queue)"
            )
        if self.token is not None and (
            not self.token.isascii() or not self.token.isprintable() or len(self.token) < 16
        ):
            raise BcdnetError("token: must be at least 16 printable ASCII characters")
