"""`bcdnet export-web`: a folder that runs a packed model in the browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bcdnet.cli.model import packed_file
from bcdnet.errors import BcdnetError

ASSETS = Path(__file__).parents[1] / "web_assets"
MODEL = "model.bcdn"
# Not part of the page: it says what bcdnet.wasm was made from.
LEFT_OUT = ("build.json",)


def run(
    model: Annotated[str, typer.Argument(help="A packed file, a shipped model's name, a model file or a run folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; files of ours in it are replaced.")],
) -> None:
    """Write a static web page that classifies images and camera pictures in the visitor's browser, without a server.

    The folder can be put on any web server; browsers do not run it from a file:// address. It needs a browser with
    WebAssembly SIMD (Chrome 95, Firefox 114, Safari 16.4 or newer) and gives the same logits as this package.
    """
    with packed_file(model) as packed:
        page, weights = write_site(packed, output)
    typer.echo(
        f"{output}: page {page / 1e3:.0f} kB, model {weights / 1e6:.2f} MB. "
        f"To try it: python -m http.server --directory {output} --bind 127.0.0.1"
    )


def write_site(packed: Path, output: Path) -> tuple[int, int]:
    """The page around one packed file; bytes of the page and of the model.

    Raises ProgramError for an invalid file, BcdnetError for a folder that cannot be written.
    """
    from bcdnet.program.file import read_program

    if read_program(packed).preprocess is None:
        raise BcdnetError(
            f"{packed}: says nothing of preprocessing, so that a page cannot feed it; export it with some"
        )
    assets = [path for path in sorted(ASSETS.iterdir()) if path.is_file() and path.name not in LEFT_OUT]
    contents = {path.name: path.read_bytes() for path in assets} | {MODEL: packed.read_bytes()}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            beside = output / f".{name}.{os.getpid()}.tmp"
            try:
                beside.write_bytes(content)
                os.replace(beside, output / name)
            finally:
                beside.unlink(missing_ok=True)
    except OSError as error:
        raise BcdnetError(f"{output}: cannot be written ({error})") from None
    return sum(len(content) for name, content in contents.items() if name != MODEL), len(contents[MODEL])
