"""`bcdnet import`: a published BCDNet or ReActNet checkpoint becomes a model file of ours."""

from pathlib import Path
from typing import Annotated

import typer

from bcdnet.errors import InteropError
from bcdnet.files import refuse_overwriting
from bcdnet.imagenet import IMAGENET_MEAN, IMAGENET_STD

IMAGENET = "imagenet-1k"


def run(
    file: Annotated[Path, typer.Argument(help="Checkpoint: torch.save, .safetensors or .npz.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write, .safetensors.")],
    weight_bits: Annotated[
        int, typer.Option(help="1: of the second training step (binary weights); 32: of the first.")
    ] = 1,
    labels: Annotated[
        str | None, typer.Option(help=f"Class names: a text file with one a line, or {IMAGENET}.")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Side of the images the network was trained on.", min=2)] = 224,
) -> None:
    """Convert a checkpoint of the published BCDNet-A, ReActNet-A or ReActNet-R18 code.

    Every tensor must find its place; the error names those that are missing, extra or of the wrong shape.
    """
    from bcdnet import __version__
    from bcdnet.interop import from_reference
    from bcdnet.interop.files import read_checkpoint
    from bcdnet.models import save_model

    refuse_overwriting([output], [file, *([labels] if labels else [])])
    if output.suffix != ".safetensors":
        raise InteropError(f"{output}: the model file's name ends in .safetensors")
    model = from_reference(read_checkpoint(file), weight_bits=weight_bits)
    config = model.config
    names = _class_names(labels, config.num_classes)
    provenance = {"source": file.name, "sha256": _digest(file), "imported_by": f"bcdnet {__version__}"}
    preprocess = _preprocess(config.in_chans, image_size)
    save_model(output, model, labels=names, preprocess=preprocess, provenance=provenance)
    tensors = model.state_dict()
    typer.echo(
        f"{output}: {type(config).__name__.removesuffix('Config')}, {len(tensors)} tensors, "
        f"{sum(tensor.numel() for tensor in tensors.values()):,} values, {config.num_classes} classes, "
        f"{weight_bits}-bit weights"
    )


def _preprocess(channels: int, side: int) -> dict[str, object]:
    """What the published code does at test: resize to 256 for a crop of 224, ImageNet's mean and deviation."""
    rgb = channels == 3
    return {
        "input_size": [channels, side, side],
        "mean": list(IMAGENET_MEAN) if rgb else [0.0] * channels,
        "std": list(IMAGENET_STD) if rgb else [1.0] * channels,
        "interpolation": "bilinear",
        "crop_pct": 0.875,
    }


def _class_names(labels: str | None, classes: int) -> list[str]:
    if labels is None:
        return [str(index) for index in range(classes)]
    if labels == IMAGENET:
        from bcdnet.data.imagenet_classes import descriptions

        names = descriptions()
    else:
        try:
            names = [line.strip() for line in Path(labels).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InteropError(f"{labels}: cannot be read as class names ({error})") from error
    if len(names) != classes:
        raise InteropError(f"{labels} names {len(names)} classes, the network has {classes}")
    return names


def _digest(file: Path) -> str:
    import hashlib

    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
