"""What a client did wrong, or must wait for: a status and one sentence."""

from __future__ import annotations

FULL = "the server has more images waiting than it takes in; try again in a second"


class RefusalError(Exception):
    """Becomes `{"error": sentence}` with this status; 503 says when to come again."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
