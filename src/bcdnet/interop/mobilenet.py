"""Reference ReActNet-A and BCDNet-A: convolution blocks `feature.<i>`, MLP stage `mlp_layer.<i>.mlp_layer.<j>`."""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from bcdnet.interop.blocks import batch_norm, linear, rprelu, single_block
from bcdnet.interop.renaming import Rule, agreed_size, children, input_channels
from bcdnet.models import DualHead, MobileNetConfig, Network
from bcdnet.nn import BinaryMLPBlock, ContextualConvBlock, Duplicate, PointwiseBlock

MLP_CONVS = {"convs.none": "binary_conv", "convs.short": "binary_conv1", "convs.long": "binary_conv2"}


def matches(tensors: Mapping[str, Tensor]) -> int:
    """How many of the names only this family has."""
    return sum(bool(re.match(r"feature\.\d+\.", key)) for key in tensors)


def configuration(tensors: Mapping[str, Tensor]) -> MobileNetConfig:
    """The network that `tensors` belong to; InteropError where they do not tell.

    Strides are not stored: as in the reference, a block halves the map where it doubles the channels, except the first.
    """
    norm = [f"feature.0.bn1.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    width = stem = agreed_size(tensors, norm)
    blocks = []
    for index in range(1, children(tensors, "feature")):
        doubles = _doubles(tensors, index)
        width *= 2 if doubles else 1
        blocks.append((width, 2 if doubles and index > 1 else 1))
    return MobileNetConfig(
        num_classes=agreed_size(tensors, ("fc.weight", "fc.bias", "fc_dist.weight", "fc_dist.bias")),
        in_chans=input_channels(tensors, "feature.0.conv1.weight"),
        distilled=any(key.startswith("fc_dist.") for key in tensors),
        stem_width=stem,
        blocks=tuple(blocks),
        mlp_groups=children(tensors, "mlp_layer"),
    )


def rules(model: Network) -> Iterator[Rule]:
    """Where each tensor of `model`, built from `configuration`, is in the reference's state dict."""
    yield Rule("stem.0.weight", ("feature.0.conv1.weight",))
    yield from batch_norm("stem.1", "feature.0.bn1")
    tokenwise, convolutions = [], []
    for path, block in model.stages.named_modules(prefix="stages"):
        if isinstance(block, (BinaryMLPBlock, PointwiseBlock)):
            tokenwise.append((path, block))
        elif isinstance(block, ContextualConvBlock):
            convolutions.append((path, block))
    for index, (path, block) in enumerate(convolutions):
        # Two of our blocks, 3 x 3 and 1 x 1, are one of the reference's.
        yield from _convolution_rules(path, block, f"feature.{index // 2 + 1}", pointwise=index % 2 == 1)
    for index, (path, block) in enumerate(tokenwise):
        convs = MLP_CONVS if isinstance(block, BinaryMLPBlock) else {"conv": "binary_conv"}
        yield from single_block(path, f"mlp_layer.{index // 4}.mlp_layer.{index % 4}", convs)
    if isinstance(model.head, DualHead):
        yield from linear("head.fc", "fc")
        yield from linear("head.fc_dist", "fc_dist")
    else:
        yield from linear("head", "fc")


def _doubles(tensors: Mapping[str, Tensor], index: int) -> bool:
    """Whether the block has twin 1 x 1 convolutions, by most of its tensors."""
    twin = sum(bool(re.match(rf"feature\.{index}\.(binary_pw_down\d|bn2_\d)\.", key)) for key in tensors)
    single = sum(bool(re.match(rf"feature\.{index}\.(binary_pw|bn2)\.", key)) for key in tensors)
    return twin > single


def _convolution_rules(path: str, block: ContextualConvBlock, source: str, *, pointwise: bool) -> Iterator[Rule]:
    number = 2 if pointwise else 1
    convs, norms = ["binary_3x3"], ["bn1"]
    if pointwise:
        twin = isinstance(block.shortcut, Duplicate)
        convs = ["binary_pw_down1", "binary_pw_down2"] if twin else ["binary_pw"]
        norms = ["bn2_1", "bn2_2"] if twin else ["bn2"]
    yield Rule(f"{path}.binarize.bias", (f"{source}.move{number}1.bias",), "bias")
    yield Rule(f"{path}.conv.latent_weight", tuple(f"{source}.{conv}.weight" for conv in convs), "binary")
    yield from batch_norm(f"{path}.bn", *(f"{source}.{norm}" for norm in norms))
    yield from rprelu(f"{path}.act", f"{source}.move{number}2", f"{source}.prelu{number}", f"{source}.move{number}3")
