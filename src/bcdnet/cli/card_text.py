"""The text of a model card, from what was measured."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bcdnet.analysis import Counts
    from bcdnet.cli.model import Found
    from bcdnet.evaluation import Evaluation
    from bcdnet.training.recipe import Recipe

WARMUP, TIMED = 50, 300


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
    session_file: Path


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


def render(card: Card, data_title: str, data_licence: str) -> str:
    """The card as Markdown with its YAML header."""
    import yaml

    counts, ours, theirs, agreement = card.counts, card.packed, card.torch, card.agreement
    provenance = card.found.provenance
    commit = (provenance.get("git") or {}).get("commit", "unknown")[:12]
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

for best in InferenceSession("{card.name}").predict(["image.png"], topk=3)[0]:
    print(f"{{best.label}}: {{best.probability:.1%}}")
```

## Accuracy

| {card.split} split, {ours.images:,} images | packed | PyTorch |
| --- | --- | --- |
{_lines(rows)}

Packed and PyTorch name the same class for {agreement["top1_agreement"]:.4g} % of the images; the largest difference of
a logit is {agreement["max_logit_difference"]:.2g}, and {agreement["differing_bits"]:,} of {agreement["bits"]:,} binary
activations differ. To measure it again: `bcdnet eval {card.name} --data DIR`.

## Cost

| | |
| --- | --- |
| parameters | {counts.params:,}, {100 * counts.binary_params / counts.params:.1f} % of them binary |
| BOPs, FLOPs | {counts.bops / 1e6:.2f} M, {counts.flops / 1e6:.2f} M (convolutions and linear layers) |
| OPs = FLOPs + BOPs / 64 | {counts.ops / 1e6:.2f} M |
| file | {card.bytes:,} bytes |
| one image | {speed} |

Time: median of {TIMED} runs after {WARMUP} others, {card.speed.target} instructions, on {_processor()}, without
preprocessing.

## Training

Recipe `{card.recipe.name}`, seed {card.recipe.seed}, commit {commit}:

```bash
{provenance["command"]}
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
        whose.append(f"{before.get('model', 'a network')}, trained on {before.get('data', 'other data')}")
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
    return f"Teacher: {teacher.model or known.get('model', 'a checkpoint')}{reached}."


def _augmentation(recipe: Recipe) -> str:
    from dataclasses import asdict

    from bcdnet.data.config import AugmentConfig

    plain = asdict(AugmentConfig())
    said: dict[str, str] = {}
    for step in recipe.steps:
        own = [f"{key} {value}" for key, value in asdict(step.augment).items() if value != plain[key]]
        said[step.name] = ", ".join(own) or "none"
    if len(set(said.values())) == 1:
        return said[recipe.steps[0].name]
    return "; ".join(f"{name}: {own}" for name, own in said.items())


def _processor() -> str:
    from bcdnet.training.run_folder import processor

    return f"{processor()} ({platform.system()}, Python {platform.python_version()})"
