"""`bcdnet serve`: packed models behind HTTP, with a page."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcdnet.cli.model import ANY_MODEL, MOST_PIXELS, packed_file
from bcdnet.errors import BcdnetError
from bcdnet.machine import available_threads

if TYPE_CHECKING:
    from bcdnet.serve import Loaded

TOKEN = "BCDNET_SERVE_TOKEN"


def run(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help=f"One or more. {ANY_MODEL}")],
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Batches of a model that run at the same time.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads of one batch; others at the same time have one each. By default all CPUs are used.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most images in one batch.")] = 16,
    wait_ms: Annotated[float, typer.Option(min=0, max=1000, help="Longest wait for others to fill a batch.")] = 4.0,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait; more are answered with 503.")] = 128,
    max_body_mb: Annotated[float, typer.Option(min=0.001, max=1e5, help="Longest body, in MB.")] = 16.0,
    max_pixels: Annotated[int, typer.Option(min=1, max=MOST_PIXELS, help="Most pixels in one image.")] = 25_000_000,
    max_images: Annotated[
        int | None, typer.Option(min=1, help="Most images in one request, by default 16 or the queue's.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds that one request may take.")] = 30.0,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with a token that clients must send; or set {TOKEN}.")
    ] = None,
) -> None:
    """Serve models: POST /v1/predict, GET /v1/models, /healthz, /readyz, /metrics, /docs, and a page at /.

    Ctrl-C or SIGTERM ends it after what was taken in is answered, a second Ctrl-C at once.
    """
    import warnings

    from bcdnet.serve import Settings, load
    from bcdnet.serve.run import is_loopback
    from bcdnet.serve.run import run as serve

    if not host:
        raise BcdnetError("host: must not be empty; 0.0.0.0 lets other machines in")
    # Pillow's remarks on odd uploads, and on many pixels, of which --max-pixels decides.
    warnings.filterwarnings("ignore", module="PIL")
    settings = Settings(
        body_bytes=round(1e6 * max_body_mb),
        pixels=max_pixels,
        images=max_images or min(16, queue),
        seconds=timeout,
        queue=queue,
        batch=batch,
        wait_seconds=wait_ms / 1e3,
        workers=workers,
        token=_token(token_file),
    )
    loaded = []
    for model in models:
        with packed_file(model) as path:
            # A batch that finds the session's threads taken runs on its worker's own.
            count = threads or max(1, available_threads() - (workers - 1))
            loaded.append(load(path, name=served_name(model), threads=count))
    if not is_loopback(host) and settings.token is None:
        typer.echo(f"warning: {host} may be reached by other machines, and there is no token", err=True)
    serve(
        loaded, settings, host, port, lambda bound: typer.echo(f"serving {_names(loaded)} at {_address(host, bound)}")
    )


def served_name(model: str) -> str:
    """What clients call it: a file's name without its suffix, else the last part, whose dots (w0.25) are its own."""
    return re.sub(r"\.(bcdn|safetensors)$", "", Path(model).name or Path(model).resolve().name)


def _token(file: Path | None) -> str | None:
    """From the file or the environment: an argument would show in the list of processes."""
    if file is None:
        return os.environ.get(TOKEN)
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BcdnetError(f"{file}: cannot be read ({error})") from None


def _names(models: list[Loaded]) -> str:
    return ", ".join(model.name for model in models)


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
