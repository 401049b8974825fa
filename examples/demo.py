"""Train a tiny BCDNet-B in both steps on real images, show what came of it, then run it on real bits.

    python examples/demo.py [RUN_DIR] [key=value ...]

The images are scikit-learn's 1,797 handwritten digits, so that nothing is downloaded; a fifth of them is held out and
never trained on. Words of the form key=value change recipes/digits.yaml, as in `bcdnet train`.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL.Image import Image
from rich.console import Console
from rich.table import Table

from bcdnet.analysis import count
from bcdnet.compiler import export
from bcdnet.data import open_dataset
from bcdnet.models import load_model
from bcdnet.runtime import InferenceSession, Prediction
from bcdnet.runtime.preprocess import to_input
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


def deploy(run: Path, console: Console) -> None:
    """Pack the 1-bit network, compare it with PyTorch on the held-out images, time both, and predict some images."""
    loaded = load_model(run / "model.safetensors")
    size = loaded.preprocess["input_size"]
    file = export(loaded.model, run / "model.bcdn", input_size=size, labels=loaded.labels, preprocess=loaded.preprocess)
    session = InferenceSession(file, threads=1)
    console.print(f"packed: {file}, {file.stat().st_size / 1e3:,.0f} kB; it needs neither torch nor this code to run")

    digits = open_dataset("digits", "test")
    images = [digits.image(index) for index in range(len(digits))]
    inputs = np.stack([to_input(image, session.preprocess) for image in images])
    with torch.inference_mode():
        theirs = loaded.model(torch.from_numpy(inputs)).numpy()
    (ours,) = session.run(None, {"image": inputs})
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())
    difference = float(np.abs(ours - theirs).max())
    console.print(f"verified: the same digit as PyTorch for {same} of {len(images)}, logits within {difference:.0e}")

    packed, pytorch = race(session, loaded.model, inputs[:1])
    console.print(
        f"one image on one thread: {packed * 1e6:,.0f} µs, in PyTorch {pytorch * 1e6:,.0f} µs: "
        f"{pytorch / packed:.0f} times as fast"
    )
    few = range(0, len(images), len(images) // 10)
    predictions = session.predict([images[index] for index in few], topk=1)
    draw(
        [(images[i], loaded.labels[digits.labels[i]], best) for i, (best,) in zip(few, predictions, strict=True)],
        run / "predictions.png",
    )
    console.print(f"predictions: {run / 'predictions.png'}")


def race(
    session: InferenceSession, model: torch.nn.Module, image: np.ndarray, rounds: int = 200
) -> tuple[float, float]:
    """The shortest time in seconds of the packed file and of PyTorch for one image, measured in turn."""
    torch.set_num_threads(1)
    calls = (lambda: session.run(None, {"image": image}), lambda: model(torch.from_numpy(image)))
    times: list[list[float]] = [[], []]
    with torch.inference_mode():
        for _ in range(rounds):
            for call, spent in zip(calls, times, strict=True):
                start = time.perf_counter()
                call()
                spent.append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


def draw(predicted: list[tuple[Image, str, Prediction]], path: Path) -> None:
    """Images under what they were taken for, in red where they are something else."""
    figure = Figure(figsize=(1.1 * len(predicted), 2), dpi=150, layout="constrained")
    figure.suptitle("Held-out digits under the network's answers and their probabilities; wrong ones in red")
    for axes, (image, label, best) in zip(figure.subplots(1, len(predicted)), predicted, strict=True):
        right = best.label == label
        axes.imshow(image, cmap="gray")
        axes.set_title(f"{best.label}\n{best.probability:.0%}", color="black" if right else "red", fontsize=10)
        axes.set_xlabel("" if right else f"is {label}", color="red")
        axes.set(xticks=[], yticks=[])
    figure.savefig(path)


def main() -> None:
    words = sys.argv[1:]
    if any(word.startswith("-") for word in words):
        sys.exit(__doc__)
    run = unused(Path(words.pop(0)) if words and "=" not in words[0] else Path("runs/demo"))
    console = Console(soft_wrap=True)  # lines of a log stay lines
    started = time.perf_counter()
    train(load_recipe(RECIPE, [f"run_dir={run}", *words]), say=console.print)
    report(run, console)
    deploy(run, console)
    console.print(f"{time.perf_counter() - started:.0f} s in all; the model is {run / 'model.safetensors'}")


if __name__ == "__main__":
    main()
