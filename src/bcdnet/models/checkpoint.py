"""Model files: one safetensors file holds the weights and, as JSON in its metadata, all that is needed to rebuild the
network.

The metadata key `bcdnet` holds: format (1), family, config (see `describe`), weight_bits (which of the two training
steps the weights are for), labels (class names), preprocess (timm's keys: input_size, mean, std, interpolation,
crop_pct), provenance.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from bcdnet.config import convert, from_dict
from bcdnet.errors import CheckpointError, RecipeError
from bcdnet.files import lasting_file
from bcdnet.models.network import Network
from bcdnet.models.registry import FAMILIES, TIMM_LAYERS, build, family_of
from bcdnet.models.wrappers import unwrapped
from bcdnet.nn import BinaryLayer, set_weight_bits

FORMAT = 1
RUN_FILE = "model.safetensors"


@dataclass(frozen=True)
class Loaded:
    """A model read from a file, in eval mode, and what the file says of it, for timm in `pretrained_cfg` too."""

    model: Network
    labels: list[str]
    preprocess: dict[str, Any]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in self.preprocess.items()}
        names = {"num_classes": self.model.num_classes, "label_names": tuple(self.labels)}
        self.model.pretrained_cfg = {**TIMM_LAYERS, **sizes, **names}

    @property
    def class_names(self) -> list[str]:
        """The labels; of a file that has none, the classes' numbers."""
        return self.labels or [str(index) for index in range(self.model.num_classes)]


def describe(model: Network) -> dict[str, Any]:
    """A network's family and configuration as plain values, from which `from_description` builds it again."""
    return {"family": family_of(model.config), "config": asdict(model.config)}


def from_description(values: Any, numbers: int) -> Network:
    """A network with fresh weights, of at most so many: what a file says of itself must not ask for more memory than
    its tensors did.

    Raises KeyError, TypeError, ValueError or RecipeError for what describes none.
    """
    config = from_dict(FAMILIES[values["family"]].config, values["config"])
    try:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in build(config).parameters())
    except (RuntimeError, TypeError) as error:  # sizes that torch does not take
        raise ValueError(str(error).partition("\n")[0]) from None
    if size > numbers:
        raise ValueError(f"it has {size:,} parameters, the file at most {numbers:,} numbers")
    return build(config)


def weight_bits_of(model: torch.nn.Module) -> int:
    """1 or 32 as `set_weight_bits` left it; 32 for a network without binary layers. ValueError where layers differ."""
    bits = {layer.weight_bits for layer in model.modules() if isinstance(layer, BinaryLayer)} or {32}
    if len(bits) > 1:
        raise ValueError("some binary layers are at 1 bit, others at 32: call set_weight_bits on the whole model")
    return bits.pop()


@dataclass(frozen=True)
class _Preprocess:
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float

    def __post_init__(self) -> None:
        if min(self.input_size) < 1:
            raise RecipeError(f"input_size: from 1 on, got {list(self.input_size)}")
        if not len(self.mean) == len(self.std) == self.input_size[0]:
            raise RecipeError(f"mean, std: one number for each of {self.input_size[0]} channels")


def _check(model: Network, labels: Any, preprocess: Any, provenance: Any) -> None:
    """Raise RecipeError for what is not of the kind that the commands rely on: a file may be anybody's."""
    convert(list[str], labels, "labels")
    convert(dict[str, Any], provenance, "provenance")
    from_dict(_Preprocess, preprocess, "preprocess")
    if labels and len(labels) != model.num_classes:
        raise RecipeError(f"labels: {len(labels)}, but there are {model.num_classes} classes")


def save_model(
    path: str | os.PathLike[str],
    model: Network,
    *,
    labels: list[str],
    preprocess: dict[str, Any],
    provenance: dict[str, Any],
) -> Path:
    """Write `model` to `path`, which is always a whole file.

    `labels` has a name for each class, or none at all; `preprocess` has the keys above. What `unwrapped` takes off is
    not written. Raises RecipeError for other labels or keys, ValueError for layers of 1 and of 32 bits, OSError.
    """
    model = cast(Network, unwrapped(model))
    _check(model, labels, preprocess, provenance)
    path = Path(path)
    header = {
        "format": FORMAT,
        **describe(model),
        "weight_bits": weight_bits_of(model),
        "labels": labels,
        "preprocess": preprocess,
        "provenance": provenance,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with lasting_file(path) as beside:
        beside.write_bytes(save(tensors, metadata={"bcdnet": json.dumps(header)}))
    return path


def load_model(path: str | os.PathLike[str]) -> Loaded:
    """Rebuild the model of a file, or of a run folder that holds `model.safetensors`.

    Raises CheckpointError: no such file, not a model file of ours, truncated, a newer format, or tensors that do not
    fit.
    """
    path = Path(path)
    if path.is_dir():
        path = path / RUN_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("bcdnet", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, RecursionError, OSError) as error:  # JSON of endless brackets or digits too
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if path.suffix == ".bcdn":
        raise CheckpointError(f"{path}: packed; bcdnet.compiler.load_trained reads it")
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path}: holds weights but not their network; convert a published one with `bcdnet import`"
        )
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {header.get('format')}, this version reads {FORMAT}: update bcdnet")
    try:
        # Twice, so that a file that lacks a few tensors is told which.
        model = from_description(header, 2 * sum(tensor.numel() for tensor in tensors.values()))
        set_weight_bits(model, header["weight_bits"])
        said = header["labels"], header["preprocess"], header["provenance"]
        _check(model, *said)
        result = Loaded(model.eval(), *said)
    except (KeyError, TypeError, ValueError, RecipeError) as error:
        raise CheckpointError(f"{path}: its header does not describe a network: {error}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error
    return result
