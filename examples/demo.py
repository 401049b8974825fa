"""Train a tiny BCDNet-B in both steps on real images, then show what came of it.

    python examples/demo.py [RUN_DIR] [key=value ...]

The images are scikit-learn's 1,797 handwritten digits, so that nothing is downloaded; a fifth of them is held out and
never trained on. Words of the form key=value change recipes/digits.yaml, as in `bcdnet train`.
"""

import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bcdnet.analysis import count
from bcdnet.models import load_model
from bcdnet.training.assess import assess
from bcdnet.training.confusion import draw_confusion
from bcdnet.training.recipe_file import load_recipe
from bcdnet.training.run import train

RECIPE = Path(__file__).parents[1] / "recipes" / "digits.yaml"


def unused(folder: Path) -> Path:
    """`folder`, or `folder-2`, `folder-3`, … if it is there already: a demo overwrites nothing."""
    number, candidate = 2, folder
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate


def report(run: Path, console: Console) -> None:
    """Evaluate both steps' models on the held-out images, print the table and draw the confusion matrix."""
    table = Table(title="BCDNet-B on handwritten digits, held-out images")
    for title in ("", "weights", "top-1", "parameters", "size", "operations (OPs)"):
        table.add_column(title, justify="left" if title in ("", "weights") else "right")
    for name, title, weights in (("step1", "step 1", "real-valued"), ("step2", "step 2", "1 bit")):
        path = run / f"{name}.safetensors"
        loaded = load_model(path)
        result = assess(path, "digits", "test", 256, torch.device("cpu"))
        counts = count(loaded.model, tuple(loaded.preprocess["input_size"]))
        table.add_row(
            title,
            weights,
            f"{result.top1:.2f} %",
            f"{counts.params:,}",
            f"{counts.packed_bytes / 1e3:,.0f} kB",
            f"{counts.ops / 1e6:.2f} M",
        )
    title = f"Step 2: {result.top1:.2f} % of {result.images} held-out digits"
    draw_confusion(result.confusion, loaded.labels, run / "confusion.png", title)
    console.print(table)
    console.print(f"training curves: {run / 'curves.png'}\nconfusion matrix: {run / 'confusion.png'}")


def main() -> None:
    words = sys.argv[1:]
    run = unused(Path(words.pop(0)) if words and "=" not in words[0] else Path("runs/demo"))
    console = Console()
    started = time.perf_counter()
    train(load_recipe(RECIPE, [f"run_dir={run}", *words]), say=console.print)
    report(run, console)
    console.print(f"{time.perf_counter() - started:.0f} s in all; the model is {run / 'model.safetensors'}")


if __name__ == "__main__":
    main()
