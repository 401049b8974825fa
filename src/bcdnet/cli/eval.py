"""`bcdnet eval`: how good a trained model is on a dataset."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bcdnet.training.evaluate import Evaluation


def run(
    checkpoint: Annotated[Path, typer.Argument(help="A model file (.safetensors) or a run folder.")],
    data: Annotated[str, typer.Option(help="The dataset: a folder, hf://NAME, wds://… or digits.")],
    split: Annotated[str, typer.Option(help="Which part of it.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for confusion.png and eval.json; by default the run folder, if it is one."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Top-1, top-5, accuracy by class, calibration error (15 bins) and images per second, in float32.

    JSON: top1, top5 and per_class in percent, ece in [0, 1], images, images_per_second, loss.
    """
    from bcdnet.training.assess import assess, pick_device
    from bcdnet.training.confusion import draw_confusion
    from bcdnet.training.run_folder import write_text

    result = assess(checkpoint, data, split, batch_size, pick_device(device))
    text = json.dumps(result.to_json(), indent=2)
    folder = out or (checkpoint if checkpoint.is_dir() else None)
    if folder is not None:
        title = f"{checkpoint.name} on {split}: {result.top1:.2f} % of {result.images:,}"
        draw_confusion(result.confusion, list(result.per_class), folder / "confusion.png", title)
        write_text(folder / "eval.json", text + "\n")
    if as_json:
        typer.echo(text)
    else:
        show(result, f"{checkpoint} on {data} ({split})")
        if folder is not None:
            typer.echo(f"wrote {folder / 'confusion.png'} and {folder / 'eval.json'}")


def show(result: "Evaluation", title: str) -> None:
    """Two tables: the figures, and the accuracy of each class."""
    from rich.console import Console
    from rich.table import Table

    figures = Table(title=title, show_header=False)
    for name, value in (
        ("top-1", f"{result.top1:.2f} %"),
        ("top-5", f"{result.top5:.2f} %"),
        ("calibration error", f"{100 * result.ece:.2f} %"),
        ("cross-entropy", f"{result.loss:.4f}"),
        ("images", f"{result.images:,}"),
        ("images per second", f"{result.images_per_second:,.0f}"),
    ):
        figures.add_row(name, value)
    classes = Table(title="top-1 by class")
    classes.add_column("class")
    classes.add_column("images", justify="right")
    classes.add_column("top-1", justify="right")
    for (name, top1), count in zip(result.per_class.items(), result.confusion.sum(1).tolist(), strict=True):
        classes.add_row(name, f"{count:,}", "–" if top1 is None else f"{top1:.2f} %")
    console = Console()
    console.print(figures)
    console.print(classes)
