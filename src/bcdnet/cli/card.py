"""`bcdnet card`: pack a finished run under a name, check it, measure what its model card says."""

from __future__ import annotations

import json
import statistics
import timeit
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcdnet.cli.card_text import TIMED, WARMUP, Card, Speed, render
from bcdnet.errors import BcdnetError
from bcdnet.files import write_text

if TYPE_CHECKING:
    from bcdnet.runtime import InferenceSession


def run(
    model: Annotated[str, typer.Argument(metavar="RUN", help="The run folder of a finished training.")],
    name: Annotated[str, typer.Argument(help="What the packed model shall be called.")],
    data: Annotated[str, typer.Option(help="The dataset it was trained on: a folder, hf://NAME, wds://… or digits.")],
    data_licence: Annotated[str, typer.Option(help="Under which terms the images are given out, and by whom.")],
    data_title: Annotated[
        str | None, typer.Option(help="What the dataset is called; its folder's name where left out.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of it tells the accuracy.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder of NAME.bcdn and NAME.md; the package's own where left out.")
    ] = None,
) -> None:
    """Pack a run as NAME.bcdn and write NAME.md beside it, the model card.

    Both are written only if the packed file gives PyTorch's class for every image of the split. Accuracy, agreement,
    operations, size and speed are measured here and now; the recipe is the run's own.
    """
    from bcdnet.pretrained import FOLDER

    if not name.isidentifier():
        raise BcdnetError(f"{name!r} is no name: letters, digits and underscores, as in bcdnet_b_r18_cifar10")
    folder = out or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    packed, page = folder / f"{name}.bcdn", folder / f"{name}.md"
    card = measure(Path(model), name, data, split, folder / f".{name}.partial")
    card.session_file.replace(packed)
    text = render(card, data_title or card.dataset, data_licence)
    write_text(page, text)
    typer.echo(f"wrote {packed} ({packed.stat().st_size:,} bytes) and {page}")


def measure(run: Path, name: str, data: str, split: str, output: Path) -> Card:
    """Pack a run to `output` and measure all that its card says. BcdnetError where packed and PyTorch differ."""
    import torch

    from bcdnet.analysis import count
    from bcdnet.cli.eval import evaluate_packed
    from bcdnet.cli.model import find_model, pack
    from bcdnet.cli.verify import compare
    from bcdnet.data.match import dataset_name
    from bcdnet.training.assess import assess, own_data, recipe_of
    from bcdnet.training.run_folder import RunFolder, portable

    recipe = recipe_of(run)
    if recipe is None or not RunFolder(run).metrics.is_file():
        raise BcdnetError(f"{run}: not the folder of a finished run; a card tells of its recipe")
    if not own_data(run, data):
        raise BcdnetError(f"{run} was trained on {recipe.data.path}, not on {data}: a card is about its own data")
    found = find_model(str(run))
    provenance = portable(found.provenance, recipe) | {"data": dataset_name(data)}
    found = replace(found, provenance=provenance)
    try:
        pack(found, output)
        report = compare(str(run), output, data, split, None, 100, None)
        if not report.agrees:
            raise BcdnetError(
                f"{run}: packed and PyTorch differ: the same class for {report.same_top1:,} of {report.images:,} images"
            )
        return Card(
            name=name,
            dataset=dataset_name(data),
            split=split,
            found=found,
            recipe=replace(recipe, model=replace(recipe.model, checkpoint=None)),  # of which the provenance tells
            figures=json.loads(RunFolder(run).metrics.read_text(encoding="utf-8")),
            torch=assess(run, data, split, 256, torch.device("cpu")),
            packed=evaluate_packed(str(output), data, split, 256),
            agreement=report.to_json(),
            counts=count(found.module, found.input_size),
            bytes=output.stat().st_size,
            speed=time_one_image(output),
            session_file=output,
        )
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def time_one_image(packed: Path) -> Speed:
    """Median of `TIMED` runs on one thread and on all, after `WARMUP` runs."""
    import numpy as np

    from bcdnet.runtime import InferenceSession
    from bcdnet.runtime.native import available_threads

    def median(session: InferenceSession) -> float:
        port = session.get_inputs()[0]
        image = np.zeros((1, *(int(size) for size in port.shape[1:])), np.float32)
        times = timeit.repeat(lambda: session.run(None, {port.name: image}), number=1, repeat=WARMUP + TIMED)
        return 1e3 * statistics.median(times[WARMUP:])

    sessions = [InferenceSession(packed, threads=threads) for threads in sorted({1, available_threads()})]
    return Speed(sessions[0].target, {session.threads: median(session) for session in sessions})
