"""`bcdnet push`: a trained model goes to the Hugging Face hub, from where `hf-hub:ORG/REPO` fetches it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bcdnet.errors import BcdnetError

if TYPE_CHECKING:
    from bcdnet.cli.model import Found
    from bcdnet.models import Network


def run(
    model: Annotated[str, typer.Argument(help="A run folder, a model file, a packed file, or a shipped model's name.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/REPO", help="Made if there is none.")],
    card: Annotated[
        Path | None,
        typer.Option(help="Model card; the one beside a packed file, or one generated, where left out."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Not public; refused where there is a public one.")
    ] = False,
) -> None:
    """Push a model as model.safetensors, model.bcdn, config.json and a card (README.md).

    A packed file goes without model.safetensors, a model of step 1 (real-valued weights) without model.bcdn. The login
    is that of `hf auth login` or HF_TOKEN.
    """
    from bcdnet.hub import PREFIX, check_repository, is_hub_name, upload
    from bcdnet.pretrained import is_packed

    check_repository(repository)
    if is_hub_name(model):
        raise BcdnetError(f"{model}: is on the hub; give a run folder, a model file or a packed file")
    if card is not None and not card.is_file():
        raise BcdnetError(f"--card {card}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        if is_packed(model):
            files = packed_files(model, repository, card)
        else:
            files = trained_files(model, repository, Path(folder)) | ({"README.md": card} if card else {})
        url = upload(repository, files, f"Push {Path(model).name} with bcdnet", private)
    typer.echo(f"pushed {', '.join(files)} to {url}; it is called {PREFIX}{repository}")


def packed_files(model: str, repository: str, card: Path | None) -> dict[str, Path | bytes]:
    """A packed file, its configuration and its card: by default the one beside it, made to call it as the hub does."""
    from bcdnet.hub import PACKED_FILE, PREFIX
    from bcdnet.pretrained import locate
    from bcdnet.program.file import read_program

    path = locate(model)
    program = read_program(path)
    beside = path.with_suffix(".md")
    if card is None and not beside.is_file():
        raise BcdnetError(f"{path}: has no card beside it; give one with --card, or push the run that it was made from")
    shape = list(program.buffers[program.inputs[0].buffer].shape)
    preprocess = vars(program.preprocess) if program.preprocess else {}
    classes = program.buffers[program.outputs[0].buffer].shape[-1]
    config = _config(classes, list(program.labels), {"input_size": shape, **preprocess}, program.provenance)
    text = card or beside.read_text(encoding="utf-8").replace(path.name, f"{PREFIX}{repository}").encode()
    return {PACKED_FILE: path, "config.json": config, "README.md": text}


def trained_files(model: str, repository: str, folder: Path) -> dict[str, Path | bytes]:
    """A model file, the packed file made of it in `folder`, its configuration and a card."""
    from dataclasses import replace

    from bcdnet.cli.model import check_trained, find_model, pack

    check_trained(model)  # before torch is imported, which takes seconds

    from bcdnet.hub import MODEL_FILE, PACKED_FILE
    from bcdnet.models import Network, describe, save_model, weight_bits_of
    from bcdnet.training.assess import recipe_of
    from bcdnet.training.run_folder import portable

    found = find_model(model)
    recipe = recipe_of(Path(model))
    if recipe is not None:
        found = replace(found, provenance=portable(found.provenance, recipe))
    network = found.module
    assert isinstance(network, Network)
    weights = save_model(
        folder / MODEL_FILE, network, labels=found.labels, preprocess=found.preprocess, provenance=found.provenance
    )
    bits = weight_bits_of(network)
    more = {**describe(network), "weight_bits": bits}
    if bits == 1:  # as every network is that timm makes
        more |= for_timm(network, found.preprocess)
    files: dict[str, Path | bytes] = {
        MODEL_FILE: weights,
        "config.json": _config(network.num_classes, found.labels, found.preprocess, found.provenance, more),
    }
    packed = pack(found, folder / PACKED_FILE) if bits == 1 else None
    if packed is not None:
        files[PACKED_FILE] = packed
    files["README.md"] = generated_card(found, repository, packed).encode()
    return files


def _config(
    classes: int,
    labels: list[str],
    preprocess: dict[str, Any],
    provenance: dict[str, Any],
    more: dict[str, Any] | None = None,
) -> bytes:
    """config.json: timm's keys where it has some, and ours."""
    document = {
        "library_name": "bcdnet",
        "num_classes": classes,
        "label_names": labels,
        "pretrained_cfg": preprocess,
        **(more or {}),
        "provenance": provenance,
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def for_timm(network: Network, preprocess: dict[str, Any]) -> dict[str, Any]:
    """What `timm.create_model("hf-hub:ORG/REPO", pretrained=True)` needs; nothing where no name makes the network."""
    from bcdnet.errors import RecipeError
    from bcdnet.models import TIMM_LAYERS, name_of

    try:
        name, settings = name_of(network.config)
    except RecipeError:
        return {}
    return {
        "architecture": name,
        "model_args": {**settings, "in_chans": network.config.in_chans},
        "pretrained_cfg": {**preprocess, **TIMM_LAYERS},
    }


def generated_card(found: Found, repository: str, packed: Path | None) -> str:
    """A card of what the model file says of itself, of the operations counted now, and of the packed file's size."""
    import yaml

    from bcdnet.analysis import count
    from bcdnet.hub import PREFIX

    counts = count(found.module, found.input_size)
    origin, results = found.provenance, found.provenance.get("results")
    classes = f"Classes: {', '.join(found.labels)}.\n" if found.labels else ""
    header: dict[str, Any] = {
        "library_name": "bcdnet",
        "pipeline_tag": "image-classification",
        "tags": ["binary-neural-network", "bcdnet"],
    }
    measured = ""
    results = results if isinstance(results, dict) else {}
    figures = [results.get(key) for key in ("top1", "top5", "images")]
    if all(isinstance(figure, int | float) for figure in figures):  # a file from elsewhere may say anything
        top1, top5, images = figures
        split = f" ({results['split']})" if "split" in results else ""
        measured = (
            f"Top-1 {top1:.2f} %, top-5 {top5:.2f} % of {images:,} images of "
            f"{origin.get('data', 'its data')}{split}, evaluated at the end of the training.\n\n"
        )
    shape = "x".join(map(str, found.input_size))
    size = "" if packed is None else f"; {packed.name} has {packed.stat().st_size / 1e3:,.0f} kB"
    command = f"```bash\n{origin['command']}\n```\n\n" if "command" in origin else ""
    return (
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {repository}\n\n"
        f"{origin.get('model', 'A network')} for bcdnet: {found.module.num_classes} classes, "
        f"images of {shape}.\n\n```bash\nbcdnet predict {PREFIX}{repository} image.png\n"
        f"bcdnet eval {PREFIX}{repository} --data DIR\n```\n\n{measured}"
        f"{counts.params:,} parameters, {counts.binary_params:,} of them of one bit; {counts.bops / 1e6:.2f} M BOPs, "
        f"{counts.flops / 1e6:.2f} M FLOPs, {counts.ops / 1e6:.2f} M OPs for an image{size}.\n\n"
        f"{command}{classes}"
    )
