"""`bcdnet eval`: how good a trained model, packed or not, is on a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcdnet.cli.model import Model, check_trained
from bcdnet.cli.table import print_table
from bcdnet.errors import BcdnetError
from bcdnet.files import write_text

if TYPE_CHECKING:
    from bcdnet.evaluation import Evaluation


def run(
    model: Model,
    data: Annotated[str, typer.Option(help="The dataset: a folder, hf://NAME, wds://… or digits.")],
    split: Annotated[str, typer.Option(help="Which part of it.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for confusion.png and eval.json; by default the run folder, for its own test split."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps; packed files run on the CPU.")] = "auto",
) -> None:
    """Top-1, top-5, accuracy by class, calibration error (15 bins) and images per second, in float32.

    JSON: top1, top5 and per_class in percent, ece in [0, 1], images, images_per_second, loss; the same for a packed
    file, which runs without torch.
    """
    from bcdnet.hub import MODEL_FILE, PACKED_FILE, download, is_hub_name
    from bcdnet.pretrained import is_packed

    name = model
    if is_hub_name(model):
        model = str(download(model, [MODEL_FILE, PACKED_FILE]))
    if is_packed(model):
        if device not in ("auto", "cpu"):
            raise BcdnetError(f"device: packed files run on the CPU, not on {device!r}; leave --device out")
        result = evaluate_packed(model, data, split, batch_size)
        folder = out
    else:
        check_trained(model)
        from bcdnet.training.assess import assess, pick_device

        result = assess(Path(model), data, split, batch_size, pick_device(device))
        folder = out or _run_folder(Path(model), data, split)
    text = json.dumps(result.to_json(), indent=2)
    # Shown first, whatever becomes of the files; and kept, whoever stops reading, as `head` does.
    try:
        if as_json:
            typer.echo(text)
        else:
            show(result, f"{name} on {data} ({split})")
    finally:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "eval.json", text + "\n")
            from bcdnet.training.confusion import draw_confusion

            title = f"{Path(name).name} on {split}: {result.top1:.2f} % of {result.images:,}"
            draw_confusion(result.confusion, list(result.per_class), folder / "confusion.png", title)
    if folder is not None and not as_json:
        typer.echo(f"wrote {folder / 'confusion.png'} and {folder / 'eval.json'}")


def _run_folder(model: Path, data: str, split: str) -> Path | None:
    """The run folder, if that is what the model is and the dataset is its own; says so where it is another."""
    from bcdnet.training.assess import own_data, recipe_of

    if not model.is_dir():
        return None
    recipe = recipe_of(model)
    if recipe is None or (own_data(model, data) and split == recipe.data.test_split):
        return model
    typer.echo(
        f"{model} was trained on {recipe.data.path} ({recipe.data.test_split}), so that its files stay as they are; "
        "--out FOLDER keeps this result",
        err=True,
    )
    return None


def evaluate_packed(model: str, data: str, split: str, batch_size: int) -> Evaluation:
    """Evaluate a packed file, or a shipped model, on a split of the dataset at `data`, preprocessed as the file says.

    Needs what the dataset's format needs (pyarrow for Parquet), but not torch. Raises ProgramError and DataError: the
    file or the data cannot be read, or their classes or channels differ.
    """
    from time import perf_counter

    import numpy as np

    from bcdnet.data.match import check_channels, dataset_name, open_for
    from bcdnet.evaluation import evaluate_logits
    from bcdnet.runtime import InferenceSession
    from bcdnet.runtime.preprocess import for_images, to_input

    session = InferenceSession(model)
    preprocess, port = for_images(session.preprocess, model), session.get_inputs()[0]
    names = list(session.labels) or [str(k) for k in range(int(session.get_outputs()[0].shape[1]))]
    dataset = open_for(names, model, data, split)
    if session.provenance.get("data") != dataset_name(data):
        check_channels(preprocess.input_size[0], dataset, model, data)
    logits, seconds = [], 0.0
    for begin in range(0, len(dataset), batch_size):
        indices = range(begin, min(begin + batch_size, len(dataset)))
        images = [(dataset.image(index), dataset.where(index)) for index in indices]
        started = perf_counter()
        x = np.stack([to_input(image, preprocess, where) for image, where in images])
        logits.append(session.run(None, {port.name: x})[0])
        seconds += perf_counter() - started
    return evaluate_logits(np.concatenate(logits), dataset.labels, names, seconds)


def show(result: Evaluation, title: str) -> None:
    """Two tables: the figures, and the accuracy of each class."""
    from rich.table import Table
    from rich.text import Text

    figures = Table(show_header=False)
    for _ in range(2):
        figures.add_column(no_wrap=True)
    of_five = [("top-5", f"{result.top5:.2f} %")] if len(result.per_class) > 5 else []
    for name, value in (
        ("top-1", f"{result.top1:.2f} %"),
        *of_five,
        ("calibration error", f"{100 * result.ece:.2f} %"),
        ("cross-entropy", f"{result.loss:.4f}"),
        ("images", f"{result.images:,}"),
        ("images per second", f"{result.images_per_second:,.0f}"),
    ):
        figures.add_row(name, value)
    classes = Table()
    classes.add_column("class", no_wrap=True)
    classes.add_column("images", justify="right", no_wrap=True)
    classes.add_column("top-1", justify="right", no_wrap=True)
    for (name, top1), count in zip(result.per_class.items(), result.confusion.sum(1).tolist(), strict=True):
        # A class's name may hold what rich would take for markup.
        classes.add_row(Text(name), f"{count:,}", "–" if top1 is None else f"{top1:.2f} %")
    print_table(figures, title)
    print_table(classes, "top-1 by class")
