"""The outermost layer: security headers, metrics, failures, and the rest of a body that nobody wants to read."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from time import perf_counter
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from bcdnet.serve.metrics import Metrics

# Everything the page needs comes from here; nothing inline, nothing from elsewhere, no frames around it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Browsers may keep what they have, but ask whether it is still the newest: after an upgrade it is not.
    (b"cache-control", b"no-cache"),
]
BROKEN = "something went wrong inside the server"
DRAIN_SECONDS = 2.0


class Shell:
    """ASGI middleware. `paths` are those that metrics tell apart; `drain_bytes` bounds what is read in vain."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str], drain_bytes: int) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = paths
        self.drain_bytes = drain_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = perf_counter()
        # With what a proxy took away before it (uvicorn --root-path), or where it is mounted in another application.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        path = path if path in self.paths else "other"
        body = _Body(receive, any(name == b"expect" for name, _ in scope["headers"]))
        status: int | None = None

        async def wrapped(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
                if status >= 400:
                    await body.drain(self.drain_bytes)
            await send(message)

        try:
            # HEAD is GET without the answer's body, which the server below leaves out.
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            await self.app({**scope, "method": method}, body.receive, wrapped)
        except Exception:
            if status is None:
                await JSONResponse({"error": BROKEN}, 500, {"Connection": "close"})(scope, body.receive, wrapped)
            raise  # for the log; the connection ends with it
        finally:
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self.metrics.requests.labels(path, method, str(status or 500)).inc()
            self.metrics.seconds.labels(path).observe(perf_counter() - begin)


class _Body:
    """Knows whether the request was read to its end.

    Closing a connection on which bytes are still arriving resets it, and the client may lose the answer that says why.
    """

    def __init__(self, receive: Receive, expects: bool) -> None:
        self._receive = receive
        self._untouched = expects
        self._complete = False

    async def receive(self) -> MutableMapping[str, Any]:
        self._untouched = False
        message = await self._receive()
        self._complete = not message.get("more_body", False)
        return message

    async def drain(self, limit: int) -> None:
        # A client that asked first (Expect: 100-continue) sends nothing if nobody reads.
        if self._untouched:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._complete and limit > 0:
                    limit -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
