"""Reference ReActNet on ResNet-18: `conv1`, `layer<stage>.<i>` with one binary convolution each, `fc`."""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from bcdnet.interop.blocks import batch_norm, linear, single_block
from bcdnet.interop.renaming import Rule, agreed_size, children, input_channels
from bcdnet.models import Network, ResNetConfig
from bcdnet.nn import ContextualConvBlock


def matches(tensors: Mapping[str, Tensor]) -> int:
    """How many of the names only this family has."""
    return sum(bool(re.match(r"layer\d+\.\d+\.(binary_conv|move\d)\.", key)) for key in tensors)


def configuration(tensors: Mapping[str, Tensor]) -> ResNetConfig:
    """The network that `tensors` belong to; InteropError where they do not tell."""
    widths, layers = [], []
    stage = 1
    while depth := children(tensors, f"layer{stage}"):
        names = ("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "prelu.weight")
        widths.append(
            agreed_size(tensors, [f"layer{stage}.{index}.{name}" for index in range(depth) for name in names])
        )
        layers.append(depth)
        stage += 1
    return ResNetConfig(
        num_classes=agreed_size(tensors, ("fc.weight", "fc.bias")),
        in_chans=input_channels(tensors, "conv1.weight"),
        widths=tuple(widths),
        layers=tuple(layers),
    )


def rules(model: Network) -> Iterator[Rule]:
    """Where each tensor of `model`, built from `configuration`, is in the reference's state dict."""
    yield Rule("stem.0.weight", ("conv1.weight",))
    yield from batch_norm("stem.1", "bn1")
    for target, block in model.stages.named_modules(prefix="stages"):
        if isinstance(block, ContextualConvBlock):
            _, stage, index = target.split(".")
            source = f"layer{int(stage) + 1}.{index}"
            yield from single_block(target, source, {"conv": "binary_conv"})
            if isinstance(block.shortcut, nn.Sequential):  # average pooling, convolution, BatchNorm
                yield Rule(f"{target}.shortcut.1.weight", (f"{source}.downsample.1.weight",))
                yield from batch_norm(f"{target}.shortcut.2", f"{source}.downsample.2")
    yield from linear("head", "fc")
