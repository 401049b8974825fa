"""`bcdnet export`: a model becomes one packed file that runs without torch."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bcdnet.errors import CompileError

if TYPE_CHECKING:
    from torch import nn


def run(
    model: Annotated[str, typer.Argument(help="A model file, a run folder, or the name of a timm model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Packed file to write, .bcdn.")],
    input_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Channels, height and width; the model's own where left out.", show_default=False),
    ] = None,
) -> None:
    """Pack a model: one-bit weights, fused operations, preprocessing, labels and origin in one file.

    A named model has fresh weights: good for timing, not for predictions.
    """
    from bcdnet.compiler import export

    module, labels, preprocess, provenance = _load(model, input_size)
    path = export(
        module,
        output,
        input_size=preprocess["input_size"],
        labels=labels,
        preprocess=preprocess,
        provenance=provenance,
    )
    parameters = sum(parameter.numel() for parameter in module.parameters())
    size = path.stat().st_size
    shape = "x".join(map(str, preprocess["input_size"]))
    typer.echo(
        f"{path}: {size / 1e6:.2f} MB for {parameters:,} parameters ({4 * parameters / size:.1f} times smaller than "
        f"float32), input {shape}, {len(labels) or 'unnamed'} classes"
    )


def _load(name: str, size: tuple[int, int, int] | None) -> tuple[nn.Module, list[str], dict[str, Any], dict[str, Any]]:
    """Module in eval mode, labels, preprocessing (timm's keys) and provenance."""
    import timm

    from bcdnet import __version__
    from bcdnet.models import VARIANTS, load_model

    if Path(name).exists() or "/" in name or name.endswith(".safetensors"):
        loaded = load_model(name)
        preprocess = loaded.preprocess | {"input_size": list(size or loaded.preprocess["input_size"])}
        return loaded.model, loaded.labels, preprocess, loaded.provenance | {"exported_by": f"bcdnet {__version__}"}
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, VARIANTS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CompileError(f"no model is called {name}, and there is no such file{hint}")
    preset = timm.get_pretrained_cfg(name)
    if preset is None:
        raise CompileError(f"{name}: timm knows no preprocessing for it; train it and export the run folder")
    channels, height, width = size or preset.input_size
    module = timm.create_model(name, in_chans=channels).eval()
    preprocess = {
        "input_size": [channels, height, width],
        "mean": preset.mean if channels == len(preset.mean) else [0.5] * channels,
        "std": preset.std if channels == len(preset.std) else [0.5] * channels,
        "interpolation": preset.interpolation,
        "crop_pct": preset.crop_pct,
    }
    return module, [], preprocess, {"model": name, "weights": "fresh", "exported_by": f"bcdnet {__version__}"}
