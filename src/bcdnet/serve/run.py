"""Run the application on uvicorn until it is told to stop."""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from bcdnet.errors import BcdnetError
from bcdnet.serve.app import create_app
from bcdnet.serve.loaded import Loaded
from bcdnet.serve.settings import Settings
from bcdnet.serve.shell import DRAIN_SECONDS

MOST_CONNECTIONS = 1024
# Longer than the minute of a proxy in front: what ends here while a request is on its way is that client's 502.
KEEP_ALIVE_SECONDS = 75


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run(models: Sequence[Loaded], settings: Settings, host: str, port: int, announce: Callable[[int], None]) -> None:
    """Serve until SIGINT or SIGTERM; what was taken in by then is answered first. A second SIGINT ends it at once.

    `announce` is told the port once connections are accepted. Raises BcdnetError where the address cannot be listened
    at.
    """
    import uvicorn

    from bcdnet.serve.protocol import PromptProtocol

    logging.getLogger("python_multipart").setLevel(logging.ERROR)

    class Protocol(PromptProtocol):
        seconds = settings.seconds
        most = most_connections()

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit and sig == signal.SIGINT:
                os._exit(128 + sig)  # uvicorn would print a traceback for each request that it gives up
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        create_app(models, settings),
        http=Protocol,
        host=host,
        port=port,
        ws="none",
        log_level="error",  # what clients do wrong is theirs to hear, in an answer
        server_header=False,
        backlog=min(128, Protocol.most // 4),  # they are accepted at once, before any can be closed
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.seconds + DRAIN_SECONDS) + 1,
    )
    # Bound here, so that a port in use is one clear error and not a line in a log.
    listener = listen(host, port)
    announce(listener.getsockname()[1])
    Server(config).run(sockets=[listener])


def most_connections() -> int:
    """As many as half the files that the process may open: without a free one, no connection can even be refused."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, files // 2)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 picks a free one. Raises BcdnetError where the address cannot be listened at."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol said outright: asyncio turns Nagle's delay (40 ms an answer) off only for sockets that name theirs.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # on Windows it would let two servers have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise BcdnetError(f"cannot listen at {host} port {port}: {error.strerror or error}") from None
    return listener
