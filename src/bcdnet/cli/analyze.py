"""`bcdnet analyze`: what binarisation costs, what training does to the weights, what context does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bcdnet.cli.model import ANY_MODEL
from bcdnet.errors import BcdnetError, DataError, printable
from bcdnet.files import write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from bcdnet.models import Loaded

BATCH = 50
SPLIT, IMAGES, DEVICE = "test", 500, "auto"
Kind = Literal["error", "flips", "thresholds", "field"]


def run(
    kind: Annotated[Kind, typer.Argument(help="Which analysis.")],
    model: Annotated[str, typer.Argument(help=f"{ANY_MODEL} Flips want a run folder.")],
    data: Annotated[
        str | None, typer.Option(help="Real images (not for flips): a folder, hf://NAME, wds://… or digits.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of them.")] = SPLIT,
    images: Annotated[int, typer.Option(min=1, help="How many, spread evenly over the split.")] = IMAGES,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; `analysis` in the run folder, or here.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = DEVICE,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is written as JSON.")] = False,
) -> None:
    """Write KIND.json and a figure of it.

    error: the binarisation error of the three branches of every MLP block, over real images. flips: how many weights
    change their sign in each epoch, and in each layer between the models of the first and the last step. thresholds:
    the dynamic alpha, beta and gain over images and classes. field: which pixels the middle of the last map depends on,
    with and without the long range.
    """
    folder = out or (Path(model) if Path(model).is_dir() else Path()) / "analysis"
    title = printable(Path(model).resolve().name)
    figure = folder / f"{kind}.{'png' if kind == 'field' else 'svg'}"
    if kind == "flips":
        if (data, split, images, device) != (None, SPLIT, IMAGES, DEVICE):
            raise BcdnetError(
                "analyze flips: reads the run's log and weights, and no images; leave --data, --split, --images and "
                "--device out"
            )
        document = _flips(Path(model), figure, title)
    elif data is None:
        raise BcdnetError(f"analyze {kind}: looks at real images; say which with --data DIR")
    else:
        document = _with_images(kind, model, data, split, images, device, figure, title)
    text = json.dumps({"model": title, "analysis": kind, **document}, indent=2, ensure_ascii=False, allow_nan=False)
    target = folder / f"{kind}.json"
    write_text(target, text + "\n")
    typer.echo(text if as_json else f"wrote {target} and {figure}")


def _flips(folder: Path, figure: Path, title: str) -> dict[str, Any]:
    from bcdnet.analysis import flips
    from bcdnet.models import load_model
    from bcdnet.training.assess import recipe_of
    from bcdnet.training.log import read_rows
    from bcdnet.training.run_folder import RunFolder

    recipe = recipe_of(folder) if folder.is_dir() else None
    if recipe is None:
        raise BcdnetError(f"{folder}: not a run folder, whose log and steps tell of flips")
    run_folder = RunFolder(folder)
    steps = [step.name for step in recipe.steps if run_folder.weights(step.name).is_file()]
    layers, before, after = [], "", ""
    if len(steps) > 1:
        before, after = steps[0], steps[-1]
        layers = flips.flips_between(*(load_model(run_folder.weights(name)).model for name in (before, after)))
    try:
        epochs = flips.epochs_of(read_rows(run_folder.rows))
    except ValueError as error:
        raise DataError(f"{run_folder.rows}: damaged, {error}; without it the steps alone are compared") from None
    found = flips.Flips(epochs, layers, before, after)
    if not found.epochs and not found.layers:
        raise BcdnetError(f"{folder}: neither flip rates in metrics.csv nor two finished steps to compare")
    flips.draw(found, figure, f"weight flips of {title}")
    return flips.to_json(found)


def _with_images(
    kind: Kind, model: str, data: str, split: str, count: int, device: str, figure: Path, title: str
) -> dict[str, Any]:
    from bcdnet.analysis import binarisation, field, thresholds
    from bcdnet.cli.model import find_trained
    from bcdnet.data.match import dataset_name
    from bcdnet.models import Loaded
    from bcdnet.training.assess import pick_device

    found = find_trained(model)
    where = pick_device(device)
    network: Any = found.module.to(where)
    loaded = Loaded(network, found.labels, found.preprocess, found.provenance)
    number, batches = _batches(loaded, model, data, split, count)
    pairs = ((x.to(where), y) for x, y in batches)
    origin = {"data": printable(dataset_name(data)), "split": split, "images": number}
    shown = f"{title}, {number} images"
    if kind == "error":
        errors = binarisation.branch_errors(network, (x for x, _ in pairs))
        binarisation.draw(errors, figure, f"binarisation error of the branches: {shown}")
        return origin | binarisation.to_json(errors)
    if kind == "thresholds":
        spread = thresholds.thresholds(network, pairs, len(loaded.class_names))
        thresholds.draw(spread, loaded.class_names, figure, f"dynamic thresholds: {shown}")
        return origin | thresholds.to_json(spread)
    fields = field.receptive_fields(network, (x for x, _ in pairs))
    field.draw(fields, figure, f"effective receptive field: {shown}")
    return origin | field.to_json(fields)


def _batches(
    loaded: Loaded, model: str, data: str, split: str, count: int
) -> tuple[int, Iterator[tuple[Tensor, Tensor]]]:
    """How many images, and these, normalised [N, C, H, W], with labels [N], as the model wants them."""
    import numpy as np
    import torch

    from bcdnet.data import evaluate_transform
    from bcdnet.data.dataset import spread
    from bcdnet.data.match import check_channels, dataset_name, open_for
    from bcdnet.data.resize import to_pixels
    from bcdnet.training.assess import data_config

    config = data_config(loaded, data, split)
    dataset = open_for(loaded.class_names, model, data, split)
    if loaded.provenance.get("data") != dataset_name(data):
        check_channels(config.channels, dataset, model, data)
    chosen = spread(len(dataset), count)

    def read(indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        pixels = [to_pixels(dataset.image(n), config, config.image_size, dataset.where(n)) for n in map(int, indices)]
        images = evaluate_transform(torch.from_numpy(np.stack(pixels)), config)
        return images, torch.from_numpy(dataset.labels[indices])

    return len(chosen), map(read, np.array_split(chosen, -(-len(chosen) // BATCH)))
