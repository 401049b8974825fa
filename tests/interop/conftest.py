"""State dicts as the published code names and shapes them, of any width, written down from its layout alone."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor


class Names:
    """Collects random tensors under the reference's names; binary weights flat or [O, I, k, k]."""

    def __init__(self, flat: bool, seed: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.flat = flat
        self.random = torch.Generator().manual_seed(seed)

    def add(self, name: str, *shape: int) -> None:
        self.tensors[name] = torch.randn(shape, generator=self.random)

    def norm(self, name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean"):
            self.add(f"{name}.{part}", channels)
        self.tensors[f"{name}.running_var"] = torch.rand(channels, generator=self.random) + 0.5
        self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def binary(self, name: str, *shape: int) -> None:
        if self.flat:
            self.add(f"{name}.weights", torch.Size(shape).numel(), 1)
        else:
            self.add(f"{name}.weight", *shape)

    def moves(self, *named: tuple[str, int]) -> None:
        for name, channels in named:
            self.add(f"{name}.bias", 1, channels, 1, 1)

    def linear(self, name: str, inputs: int, outputs: int) -> None:
        self.add(f"{name}.weight", outputs, inputs)
        self.add(f"{name}.bias", outputs)


def mobilenet(
    stem: int = 4,
    doubles: Sequence[bool] = (True, True, False),
    groups: int = 0,
    classes: int = 5,
    in_chans: int = 3,
    distilled: bool = False,
    flat: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """ReActNet-A, or BCDNet-A with `groups`: one block for each of `doubles`, which say whether the channels double."""
    names = Names(flat, seed)
    names.add("feature.0.conv1.weight", stem, in_chans, 3, 3)
    names.norm("feature.0.bn1", stem)
    width = stem
    for index, double in enumerate(doubles, 1):
        block, out = f"feature.{index}", 2 * width if double else width
        names.moves((f"{block}.move11", width), (f"{block}.move12", width), (f"{block}.move13", width))
        names.binary(f"{block}.binary_3x3", width, width, 3, 3)
        names.norm(f"{block}.bn1", width)
        names.add(f"{block}.prelu1.weight", width)
        names.moves((f"{block}.move21", width), (f"{block}.move22", out), (f"{block}.move23", out))
        for conv, norm in (
            [("binary_pw_down1", "bn2_1"), ("binary_pw_down2", "bn2_2")] if double else [("binary_pw", "bn2")]
        ):
            names.binary(f"{block}.{conv}", width, width, 1, 1)
            names.norm(f"{block}.{norm}", width)
        names.add(f"{block}.prelu2.weight", out)
        width = out
    for group in range(groups):
        for index in range(4):
            block = f"mlp_layer.{group}.mlp_layer.{index}"
            for conv in ("binary_conv", "binary_conv1", "binary_conv2")[: 3 if index < 3 else 1]:
                names.binary(f"{block}.{conv}", width, width, 1, 1)
            names.moves((f"{block}.move0", width), (f"{block}.move1", width), (f"{block}.move2", width))
            names.norm(f"{block}.bn1", width)
            names.add(f"{block}.prelu.weight", width)
    for head in ("fc", "fc_dist")[: 2 if distilled else 1]:
        names.linear(head, width, classes)
    return names.tensors


def resnet(
    widths: Sequence[int] = (4, 8, 12),
    layers: Sequence[int] = (2, 1, 2),
    classes: int = 5,
    in_chans: int = 3,
    flat: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """ReActNet on a ResNet with one convolution a block."""
    names = Names(flat, seed)
    names.add("conv1.weight", widths[0], in_chans, 7, 7)
    names.norm("bn1", widths[0])
    inputs = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, layers, strict=True), 1):
        for index in range(depth):
            block = f"layer{stage}.{index}"
            names.moves((f"{block}.move0", inputs), (f"{block}.move1", width), (f"{block}.move2", width))
            names.binary(f"{block}.binary_conv", width, inputs, 3, 3)
            names.norm(f"{block}.bn1", width)
            names.add(f"{block}.prelu.weight", width)
            if index == 0 and stage > 1:
                names.add(f"{block}.downsample.1.weight", width, inputs, 1, 1)
                names.norm(f"{block}.downsample.2", width)
            inputs = width
    names.linear("fc", inputs, classes)
    return names.tensors


@pytest.fixture(scope="session")
def reference() -> SimpleNamespace:
    """Makers of state dicts in the published layouts: `mobilenet(...)`, `resnet(...)`."""
    makers: dict[str, Callable[..., dict[str, Tensor]]] = {"mobilenet": mobilenet, "resnet": resnet}
    return SimpleNamespace(**makers)
