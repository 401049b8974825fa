"""The network whose softmax a student imitates: where it comes from, what it sees, and how good it is itself."""

import hashlib
import logging
import pickle
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from bcdnet.config import unknown_key
from bcdnet.data import evaluate_transform, preprocess_of
from bcdnet.data.config import DataConfig
from bcdnet.data.match import check_classes
from bcdnet.errors import CheckpointError, RecipeError
from bcdnet.evaluation import Evaluation
from bcdnet.training.assess import pick_device
from bcdnet.training.build import load
from bcdnet.training.data import RunData, evaluation_batches
from bcdnet.training.evaluate import evaluate
from bcdnet.training.recipe import Recipe, TeacherConfig

_log = logging.getLogger(__name__)


class Teacher(nn.Module):
    """A frozen network that is given images as it knows them: normalised with its own mean and standard deviation, and
    resized to the `image_size` of its settings.
    """

    def __init__(
        self,
        network: nn.Module,
        student: dict[str, Any],
        own: dict[str, Any],
        image_size: int | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        """`student`, `own`: preprocessing (timm's `mean`, `std`, `input_size`) of what comes in and what it wants.

        `image_size`: the side of the squares it sees, None for the student's. `provenance`: its file's, if it is a file
        of ours.
        """
        super().__init__()
        self.image_size = image_size
        self.provenance = provenance
        self.network = network.eval().requires_grad_(False)
        channels = student["input_size"][0]
        if own["input_size"][0] != channels:
            raise RecipeError(f"teacher: it sees {own['input_size'][0]} channels, but the images have {channels}")
        mean, std = (torch.tensor(student[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        own_mean, own_std = (torch.tensor(own[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        self.same = bool(torch.equal(mean, own_mean) and torch.equal(std, own_std))
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)
        self.scale: Tensor
        self.shift: Tensor

    def digest(self) -> str:
        """A hash of the network's weights, in hexadecimal."""
        state = sorted(self.network.state_dict().items())
        hashes = hashlib.sha256()
        for name, value in state:
            hashes.update(name.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return hashes.hexdigest()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """images: float [N, C, H, W], normalised for the student -> logits [N, K]."""
        images = images if self.same else images * self.scale + self.shift
        given = images.shape[-1]
        size = self.image_size or given
        if size != given:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=size < given)
        logits: Tensor = self.network(images)
        return logits

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in eval mode: its batch norm must not follow the student's images."""
        return super().train(False)


def load_teacher(config: TeacherConfig, trained: Path | None, data: DataConfig, labels: list[str]) -> Teacher:
    """The teacher that a recipe names. `trained`: the file that its own training phase wrote, if it had one.

    Raises RecipeError, CheckpointError or DataError: an unknown model, weights that do not fit or cannot be had, other
    classes than the data's, or those in another order.
    """
    preprocess = preprocess_of(data)
    source = trained or (config.checkpoint if config.model is None else None)
    if source is not None:
        loaded = load("teacher.checkpoint", source)
        if len(loaded.labels) != len(labels):
            known = f"knows {len(loaded.labels)} classes" if loaded.labels else "names no classes (pack it with labels)"
            raise RecipeError(f"teacher: {source} {known}, the data has {len(labels)}")
        check_classes(loaded.labels, labels, str(source), data.path)
        _warn_of_size(str(source), tuple(loaded.preprocess["input_size"][1:]), config.image_size or data.image_size)
        return Teacher(loaded.model, preprocess, loaded.preprocess, config.image_size, loaded.provenance)
    network: Any = _timm_teacher(config, len(labels), data.channels)
    if not config.pretrained:
        return Teacher(network, preprocess, preprocess, config.image_size)
    # timm makes another number of classes or channels fit by weights that nobody trained.
    own = network.pretrained_cfg
    if own["num_classes"] != len(labels):
        known = f"{config.model} with timm's weights knows {own['num_classes']} classes"
        raise RecipeError(f"teacher: {known}, the data has {len(labels)}")
    _warn_of_size(config.model, tuple(own["input_size"][1:]), config.image_size or data.image_size)
    return Teacher(network, preprocess, own, config.image_size)


@cache  # a run loads its teacher several times
def _warn_of_size(teacher: str | None, known: tuple[int, ...], size: int) -> None:
    """`known`: (height, width) of the images it learned from; `size`: of the squares that it sees."""
    if known != (size, size):
        _log.warning(
            "teacher: %s learned from images of size %s, not %s; see teacher.image_size", teacher, list(known), size
        )


def _timm_teacher(config: TeacherConfig, num_classes: int, channels: int) -> nn.Module:
    import timm  # which takes seconds

    assert config.model is not None
    if not timm.is_model(config.model):
        raise RecipeError(f"teacher.model: {unknown_key(config.model, timm.list_models()).replace('key', 'model')}")
    settings = {"num_classes": num_classes, "in_chans": channels, **config.kwargs}
    try:
        network: nn.Module = timm.create_model(config.model, pretrained=config.pretrained, **settings)
    except Exception as error:
        # timm reports what it cannot download, or a setting that it does not know, through many kinds of exception.
        remedy = "; without network access give teacher.checkpoint a file" if config.pretrained else ""
        first_line = str(error).strip().split("\n")[0]
        raise RecipeError(
            f"teacher: cannot make {config.model}: {type(error).__name__}: {first_line}{remedy}"
        ) from None
    if config.checkpoint:
        _load_weights(network, Path(config.checkpoint).expanduser())
    return network


def _load_weights(network: nn.Module, path: Path) -> None:
    from timm.models import clean_state_dict

    try:
        if path.suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"teacher.checkpoint: {path} is no checkpoint, or holds objects beside tensors; save its state dict alone"
        ) from None
    except Exception as error:
        raise CheckpointError(f"teacher.checkpoint: cannot read {path}: {' '.join(str(error).split())}") from None
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):  # of a timm training, the averaged ones first
        if isinstance(weights, dict) and isinstance(weights.get(key), dict):
            weights = weights[key]
            break
    if not isinstance(weights, dict):
        raise CheckpointError(f"teacher.checkpoint: {path} holds no state dict")
    try:
        network.load_state_dict(clean_state_dict(weights))
    except RuntimeError as error:
        raise CheckpointError(f"teacher.checkpoint: {path}: {' '.join(str(error).split())}") from None


def check_logits(teacher: Teacher, data: DataConfig, classes: int) -> None:
    """Raise RecipeError for a teacher that cannot take the student's images, or has not one logit for each class."""
    images = torch.zeros(1, data.channels, data.image_size, data.image_size)
    try:
        logits = teacher(images)
    except Exception as error:  # each architecture has its own
        reason = str(error).strip().split("\n")[0]
        raise RecipeError(
            f"teacher: cannot see images {list(images.shape[1:])} ({reason}); see teacher.image_size and teacher.kwargs"
        ) from None
    found = list(getattr(logits, "shape", ()))
    if found != [1, classes]:
        raise RecipeError(f"teacher: gives {found} for an image, not [1, {classes}] logits; see teacher.kwargs")


def examine(teacher: Teacher, recipe: Recipe, data: RunData) -> Evaluation:
    """Evaluate a teacher on all that its student is evaluated on; what knows no more than chance is warned of.

    Not a collective call: one process does it.
    """
    device = pick_device(recipe.trainer.accelerator)
    batches = evaluation_batches(data.evaluated, recipe.validation.batch_size, device, rank=0, world_size=1)
    transform = partial(evaluate_transform, config=recipe.data)
    found = evaluate(teacher.to(device), batches(0), transform, data.class_names, device)
    if found.top1 < 150 / len(data.class_names):
        _log.warning(
            "teacher: %.2f %% top-1 is hardly better than chance: are these weights for these classes, for images of "
            "this size (teacher.image_size) and normalisation (data.mean, data.std)?",
            found.top1,
        )
    return found
