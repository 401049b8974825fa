"""Where a network looks: class activation maps, and what each branch of a binary MLP block contributes where.

Legend: C channels, H and W the input's height and width, h and w those of a block's map.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcdnet.errors import BcdnetError
from bcdnet.evaluation import check_logits
from bcdnet.nn import BinaryMLPBlock

Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Contributions:
    """One MLP block: for each branch the mean of |output| over the channels, float32 [h, w]."""

    block: str
    branches: dict[str, Map]

    @property
    def shares(self) -> dict[str, float]:
        """Each branch's part of the sum of all, in [0, 1]."""
        total = sum(float(found.mean()) for found in self.branches.values())
        return {name: float(found.mean()) / total if total else 0.0 for name, found in self.branches.items()}


@dataclass(frozen=True, eq=False)
class Explanation:
    """One model's view of one image.

    `picture` is the part it sees, float32 [H, W, C] in [0, 1]; `heat` Grad-CAM for class `label`, float32 [H, W] in
    [0, 1]; `probabilities` float64 [K]; `contributions` one entry for each MLP block.
    """

    name: str
    picture: Map
    heat: Map
    label: int
    probabilities: NDArray[np.float64]
    labels: Sequence[str]
    contributions: list[Contributions]

    def named(self, index: int) -> str:
        """The class's name, or its index where the model has no names."""
        return self.labels[index] if self.labels else str(index)


def explain(
    name: str,
    module: nn.Module,
    x: Map,
    labels: Sequence[str],
    constants: tuple[Sequence[float], Sequence[float]],
    label: int | None = None,
) -> Explanation:
    """Grad-CAM and branch contributions for one normalised image, float32 [C, H, W], and a class (default: the best).

    `module` is in eval mode; `constants` are the mean and std that x was normalised with. Raises BcdnetError for a
    network that does not say which module gives its last map, and for logits that are not finite.
    """
    batch = torch.from_numpy(x)[None]
    with torch.no_grad():
        logits: Tensor = module(batch)
    check_logits(logits.numpy())
    if getattr(module, "num_classes", None) == 0:
        raise BcdnetError(f"{name}: has no classes to look for; its head was taken off (num_classes=0)")
    index = int(logits[0].argmax()) if label is None else label
    mean, std = (np.array(values, np.float32)[:, None, None] for values in constants)
    return Explanation(
        name=name,
        picture=(x * std + mean).clip(0, 1).transpose(1, 2, 0),
        heat=grad_cam(module, batch, index),
        label=index,
        probabilities=logits[0].double().softmax(0).numpy(),
        labels=labels,
        contributions=contributions(module, batch),
    )


def grad_cam(module: nn.Module, batch: Tensor, label: int) -> Map:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of the last map for one image [1, C, H, W]: float32 [H, W] in [0, 1]."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    stages = getattr(module, "feature_info", None)
    if not stages:
        raise BcdnetError(f"{type(module).__name__} does not say which module gives its last map (timm's feature_info)")
    last = module.get_submodule(stages[-1]["module"])
    shapes: list[tuple[int, ...]] = []
    with torch.no_grad(), last.register_forward_hook(lambda _module, _inputs, output: shapes.append(output.shape)):
        module(batch)
    if len(shapes[-1]) != 4:
        raise BcdnetError(f"{type(module).__name__} ends in tokens {list(shapes[-1])}, not in a map [N, C, H, W]")
    with GradCAM(model=module, target_layers=[last]) as cam:
        heat: Map = cam(input_tensor=batch, targets=[ClassifierOutputTarget(label)])[0]
    return heat


def contributions(module: nn.Module, batch: Tensor) -> list[Contributions]:
    """Each MLP block's branches for one image [1, C, H, W], in the order of the network."""
    blocks = {path: block for path, block in module.named_modules() if isinstance(block, BinaryMLPBlock)}
    found: dict[str, dict[str, Map]] = {path: {} for path in blocks}

    def keep(path: str, branch: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        found[path][branch] = output[0].abs().mean(0).numpy()

    with torch.no_grad(), ExitStack() as hooks:
        for path, block in blocks.items():
            for branch, conv in block.convs.items():
                hooks.enter_context(conv.register_forward_hook(partial(keep, path, branch)))
        module(batch)
    return [Contributions(path, branches) for path, branches in found.items()]
