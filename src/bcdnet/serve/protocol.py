"""HTTP/1.1 as uvicorn speaks it, with limits on what clients that neither send nor read may hold."""

from __future__ import annotations

import asyncio
from typing import ClassVar, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class PromptProtocol(H11Protocol):
    """Ends a connection on which no whole head arrives, or no answer leaves, in `seconds`; uvicorn would keep it.

    Of more than `most` connections the one ends on which a request's bytes have not come for the longest time.
    """

    seconds: ClassVar[float]
    most: ClassVar[int]
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self.transport.set_write_buffer_limits(0)  # so that writing counts as paused while anything is left unread
        self._heard = self.loop.time()
        if len(self.connections) > self.most:
            self._make_room()
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._stop_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_unread()
        super().resume_writing()

    def _make_room(self) -> None:
        """At the worst this new connection ends: it, too, waits for its client."""
        waiting = [
            each
            for each in cast("set[PromptProtocol]", self.connections)
            if each.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not each.transport.is_closing()
        ]
        min(waiting, key=lambda each: each._heard).transport.abort()

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch(self) -> None:
        """The time runs from the first byte of a head, or from the connection, to the head's last byte."""
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self.transport.close)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
