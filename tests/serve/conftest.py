"""A served model: in this process for most tests, as a process of its own where that matters."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

pytest.importorskip("fastapi", reason="needs the extra serve")

from fastapi.testclient import TestClient

from bcdnet.serve import Settings, create_app, load


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """The function that encodes a random image: (width, height, kind="PNG", seed=0, orientation=1)."""

    def encode(width: int = 24, height: int = 20, kind: str = "PNG", seed: int = 0, orientation: int = 1) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind, exif=exif)
        return stream.getvalue()

    return encode


@pytest.fixture
def serving(packed_file: Path) -> Iterator[Callable[..., TestClient]]:
    """The function that starts a client of a server with given settings."""
    clients: list[TestClient] = []

    def start(names: tuple[str, ...] = ("small",), **settings: object) -> TestClient:
        models = [load(packed_file, name, threads=1) for name in names]
        client = TestClient(create_app(models, Settings(**settings)))  # type: ignore[arg-type]
        clients.append(client)
        return client.__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


Served = Callable[..., AbstractContextManager[tuple[str, "subprocess.Popen[str]"]]]


@pytest.fixture(scope="session")
def served() -> Served:
    """The function that runs `bcdnet serve ARGUMENTS` as a process, at a free port: (address, process).

    It may open at most `files`.
    """

    @contextmanager
    def run(*arguments: object, files: int | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
        limited = [] if files is None else ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"]
        # What runs in the background may have been told to ignore Ctrl-C.
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        code += "from bcdnet.cli.main import main; main()"
        command = [*limited, sys.executable, "-c", code, "serve", *map(str, arguments)]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                assert process.stdout is not None and process.stderr is not None
                line = process.stdout.readline()
                address = re.search(r"http://\S+", line)
                assert address, line + process.stderr.read()
                yield address[0], process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                process.communicate(timeout=30)

    return run
