"""`bcdnet card`: pack a finished run under a name, check it, and write its model card from what was measured."""

from __future__ import annotations

import platform
import statistics
import timeit
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bcdnet.errors import BcdnetError
from bcdnet.files import whole_file
from bcdnet.machine import available_threads, processor

if TYPE_CHECKING:
    from bcdnet.analysis import Counts
    from bcdnet.cli.model import Found
    from bcdnet.evaluation import Evaluation
    from bcdnet.runtime import InferenceSession
    from bcdnet.training.recipe import Recipe

WARMUP, TIMED = 50, 300


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
    from bcdnet.pretrained import FOLDER, SUFFIX

    if not name.isidentifier():
        raise BcdnetError(f"{name!r} is no name: letters, digits and underscores, as in bcdnet_b_r18_cifar10")
    packed, page = ((out or FOLDER) / f"{name}{suffix}" for suffix in (SUFFIX, ".md"))
    with whole_file(page) as beside_page, whole_file(packed) as beside:
        card = measure(Path(model), name, data, split, beside)
        text = render(card, name if out is None else packed.name, data_title or card.dataset, data_licence)
        beside_page.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {packed} ({packed.stat().st_size:,} bytes) and {page}")


@dataclass(frozen=True)
class Speed:
    """Median time of one image in milliseconds, by number of threads."""

    target: str
    milliseconds: dict[int, float]


@dataclass(frozen=True)
class Card:
    """Everything that a card says."""

    name: str
    dataset: str
    split: str
    found: Found
    recipe: Recipe
    figures: dict[str, Any]
    torch: Evaluation
    packed: Evaluation
    agreement: dict[str, Any]
    counts: Counts
    bytes: int
    speed: Speed


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
    figures = RunFolder(run).results([step.name for step in recipe.steps])
    if not own_data(run, data):
        raise BcdnetError(f"{run} was trained on {recipe.data.path}, not on {data}: a card is about its own data")
    found = find_model(str(run))
    provenance = portable(found.provenance, recipe) | {"data": dataset_name(data)}
    found = replace(found, provenance=provenance)
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
        figures=figures,
        torch=assess(run, data, split, 256, torch.device("cpu")),
        packed=evaluate_packed(str(output), data, split, 256),
        agreement=report.to_json(),
        counts=count(found.module, found.input_size),
        bytes=output.stat().st_size,
        speed=time_one_image(output),
    )


def time_one_image(packed: Path) -> Speed:
    """Median of `TIMED` runs on one thread and on all, after `WARMUP` runs."""
    import numpy as np

    from bcdnet.runtime import InferenceSession

    def median(session: InferenceSession) -> float:
        port = session.get_inputs()[0]
        image = np.zeros((1, *(int(size) for size in port.shape[1:])), np.float32)
        times = timeit.repeat(lambda: session.run(None, {port.name: image}), number=1, repeat=WARMUP + TIMED)
        return 1e3 * statistics.median(times[WARMUP:])

    sessions = [InferenceSession(packed, threads=threads) for threads in sorted({1, available_threads()})]
    return Speed(sessions[0].target, {session.threads: median(session) for session in sessions})


def header(card: Card, data_title: str) -> dict[str, Any]:
    """The YAML header that model hubs read; the figures under `model-index` are the card's own."""
    metrics = [
        {"type": "accuracy", "name": "top-1, packed", "value": round(card.packed.top1, 4)},
        {"type": "accuracy", "name": "top-1, PyTorch", "value": round(card.torch.top1, 4)},
    ]
    dataset = {"name": data_title, "type": card.dataset, "split": card.split}
    result = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": metrics}
    return {
        "license": "apache-2.0",
        "library_name": "bcdnet",
        "pipeline_tag": "image-classification",
        "tags": (["binary-neural-network", "1-bit"] if card.counts.binary_params else []) + ["bcdnet"],
        "model-index": [{"name": card.name, "results": [result]}],
    }


def render(card: Card, called: str, data_title: str, data_licence: str) -> str:
    """The card as Markdown with its YAML header. `called`: the name or file by which the packed model is found."""
    import yaml

    counts, ours, theirs, agreement = card.counts, card.packed, card.torch, card.agreement
    provenance = card.found.provenance
    git = provenance.get("git") or {}
    commit = git.get("commit", "unknown")[:12] + (" with changed files" if git.get("dirty") else "")
    shape = "x".join(map(str, card.found.input_size))
    kind = "weights and activations of one bit" if counts.binary_params else "real-valued weights and activations"
    rows = [
        ("top-1", f"{ours.top1:.2f} %", f"{theirs.top1:.2f} %"),
        ("top-5", f"{ours.top5:.2f} %", f"{theirs.top5:.2f} %"),
        ("cross-entropy", f"{ours.loss:.4f}", f"{theirs.loss:.4f}"),
        ("calibration error (15 bins)", f"{100 * ours.ece:.2f} %", f"{100 * theirs.ece:.2f} %"),
    ]
    speed = ", ".join(
        f"{milliseconds:.3g} ms on {threads} thread{'s' * (threads > 1)}"
        for threads, milliseconds in card.speed.milliseconds.items()
    )
    return f"""---
{yaml.safe_dump(header(card, data_title), sort_keys=False, allow_unicode=True)}---

# {card.name}

`{card.recipe.model}`, trained on {data_title}: {len(card.found.labels)} classes, images of {shape},
{kind}.{_origin(provenance)} The file has {card.bytes:,} bytes and runs without PyTorch.

```python
from bcdnet.runtime import InferenceSession

for best in InferenceSession("{called}").predict(["image.png"], topk=3)[0]:
    print(f"{{best.label}}: {{best.probability:.1%}}")
```

## Accuracy

| {card.split} split, {ours.images:,} images | packed | PyTorch |
| --- | --- | --- |
{_lines(rows)}

Packed and PyTorch name the same class for {agreement["top1_agreement"]:.4g} % of the images; the largest difference of
a logit is {agreement["max_logit_difference"]:.2g}, and {agreement["differing_bits"]:,} of {agreement["bits"]:,} binary
activations differ. To measure it again: `bcdnet eval {called} --data DIR`.

## Cost

| | |
| --- | --- |
| parameters | {counts.params:,}, {100 * counts.binary_params / counts.params:.1f} % of them binary |
| BOPs, FLOPs | {counts.bops / 1e6:.2f} M, {counts.flops / 1e6:.2f} M (convolutions and linear layers) |
| OPs = FLOPs + BOPs / 64 | {counts.ops / 1e6:.2f} M |
| file | {card.bytes:,} bytes |
| one image | {speed} |

Time: median of {TIMED} runs after {WARMUP} others, {card.speed.target} instructions, on
{processor()} ({platform.system()}, Python {platform.python_version()}), without preprocessing.

## Training

Recipe `{card.recipe.name}`, seed {card.recipe.seed}, commit {commit}:

```bash
{provenance["command"].replace(" --resume", "")}
```

| step | weights | epochs | batch | optimiser, rate | top-1 after it |
| --- | --- | --- | --- | --- | --- |
{_lines(_steps(card))}

{_teacher(card)} Augmentation: {_augmentation(card.recipe)}.

## Data and licence

Images: {data_title}. Licence of the data: {data_licence}. The weights come under Apache-2.0 as the project does, as far
as the data's terms allow.

Classes: {", ".join(card.found.labels)}.

The figures hold for images like those of the test split; nothing was measured on others.
"""


def _lines(rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _origin(provenance: dict[str, Any]) -> str:
    whose, before = [], provenance.get("began_with")
    while isinstance(before, dict):
        teacher = before.get("taught_by")
        taught = f" (taught by {teacher.get('model', 'a network')})" if isinstance(teacher, dict) else ""
        whose.append(f"{before.get('model', 'a network')}, trained on {before.get('data', 'other data')}{taught}")
        before = before.get("began_with")
    return f" It began with the weights of {', which began with those of '.join(whose)}." if whose else ""


def _steps(card: Card) -> list[tuple[str, ...]]:
    return [
        (
            step.name,
            "1 bit" if step.weight_bits == 1 else "real-valued",
            str(card.figures[step.name]["epochs"]),
            str(step.batch_size),
            f"{step.optimizer}, {step.lr:g}, {step.schedule}",
            f"{card.figures[step.name]['top1']:.2f} %",
        )
        for step in card.recipe.steps
    ]


def _teacher(card: Card) -> str:
    teacher = card.recipe.teacher
    if teacher is None:
        return "No teacher."
    known = card.found.provenance.get("taught_by", {})
    results = card.figures.get("teacher") or known.get("results")
    top1 = results.get("top1") if isinstance(results, dict) else None  # of a foreign file these may be anything
    reached = f", {top1:.2f} % itself" if isinstance(top1, (int, float)) else ""
    seen = f", which sees images of {teacher.image_size} pixels" if teacher.image_size else ""
    return f"Teacher: {teacher.model or known.get('model', 'a checkpoint')}{reached}{seen}."


def _augmentation(recipe: Recipe) -> str:
    from bcdnet.data.config import AugmentConfig

    plain = asdict(AugmentConfig())
    said = [
        ", ".join(f"{key} {value}" for key, value in asdict(step.augment).items() if value != plain[key]) or "none"
        for step in recipe.steps
    ]
    if len(set(said)) == 1:
        return said[0]
    return "; ".join(f"{step.name}: {own}" for step, own in zip(recipe.steps, said, strict=True))
