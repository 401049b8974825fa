"""`bcdnet export-web`: a folder that runs a packed model in the browser."""

from __future__ import annotations

import math
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcdnet.cli.model import Model, packed_file
from bcdnet.errors import BcdnetError
from bcdnet.files import whole_file

if TYPE_CHECKING:
    from bcdnet.program import Program

ASSETS = Path(__file__).parents[1] / "web_assets"
MODEL = "model.bcdn"
CORE = "bcdnet.wasm"  # a folder without it holds no page of ours
# Not part of the page: it says what bcdnet.wasm was made from.
LEFT_OUT = ("build.json",)
# In bytes, as in web/core.cc; channels and branches as in core/kernels/kernels.h.
MOST_WEIGHTS, MOST_MAPS, MOST_INDICES = 2**26, 2**28, 2**29
CHANNEL_PAD, MOST_BRANCHES = 32, 3


def run(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; files of ours in it are replaced.")],
) -> None:
    """Write a static web page that classifies images and camera pictures in the visitor's browser, without a server.

    The folder can be put on any web server; browsers do not run it from a file:// address. It needs a browser with
    WebAssembly SIMD (Chrome 97, Firefox 114, Safari 16.4 or newer) and gives the same logits as this package.
    """
    with packed_file(model) as packed:
        page, weights = write_site(packed, output)
    typer.echo(
        f"{output}: page {page / 1e3:.0f} kB, model {weights / 1e6:.2f} MB. "
        f"To try it: python -m http.server --directory={shlex.quote(str(output))} --bind 127.0.0.1"
    )


def write_site(packed: Path, output: Path) -> tuple[int, int]:
    """The page around one packed file; bytes of the page and of the model.

    Raises ProgramError for an invalid file, BcdnetError for one that is too large for a browser and for a folder that
    cannot be written or whose files are not ours to replace.
    """
    from bcdnet.program.file import read_program
    from bcdnet.runtime.preprocess import for_images

    program = read_program(packed)
    for_images(program.preprocess, str(packed))
    if (problem := _too_large(program)) is not None:
        raise BcdnetError(f"{packed}: {problem}")
    assets = [path for path in sorted(ASSETS.iterdir()) if path.is_file() and path.name not in LEFT_OUT]
    contents = {path.name: path.read_bytes() for path in assets} | {MODEL: packed.read_bytes()}
    others = [name for name in contents if (output / name).exists()]
    if others and not (output / CORE).exists():
        raise BcdnetError(f"{output}: holds {', '.join(others)} of another page; choose another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            # All of them or none. The core, entered last, is the first to get its name: beside it the files are ours.
            for name in sorted(contents, key=CORE.__eq__):
                files.enter_context(whole_file(output / name)).write_bytes(contents[name])
    except OSError as error:
        raise BcdnetError(f"{error.filename or output}: cannot be written ({error.strerror or error})") from None
    return sum(len(content) for name, content in contents.items() if name != MODEL), len(contents[MODEL])


def _too_large(program: Program) -> str | None:
    """What of a program does not fit into a browser's 32-bit memory, as web/core.cc has it; None if all does."""
    from bcdnet.program.schema import BinaryConv2d, words

    weights = sum(array.nbytes for array in program.tensors.values())
    if weights > MOST_WEIGHTS:
        return f"its weights are {weights:,} bytes; a browser takes {MOST_WEIGHTS:,}"
    shapes = [b.shape[1:] + b.shape[:1] if b.kind == "image" else b.shape for b in program.buffers]
    maps = sum(4 * math.prod(shape[:-1]) * -(-shape[-1] // CHANNEL_PAD) * CHANNEL_PAD for shape in shapes)
    if maps > MOST_MAPS:
        return f"the maps of one image are {maps:,} bytes; a browser takes {MOST_MAPS:,}: use smaller images"
    for op in program.ops:
        if isinstance(op, BinaryConv2d):
            height, width, channels = program.buffers[op.input].shape
            pixels = (height + 2 * op.padding[0]) * (width + 2 * op.padding[1])
            if pixels > MOST_INDICES // (8 * words(channels) * MOST_BRANCHES):
                return f"op {op.name!r}: its padded map is too large for a browser: use smaller images"
    return None
