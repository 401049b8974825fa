"""Costs of single layers and blocks, worked out by hand."""

import pytest
import torch
from timm.layers import BatchNormAct2d, GroupNormAct
from torch import nn

from bcdnet.analysis import Layer, count
from bcdnet.analysis.costs import Cost, cost
from bcdnet.models import DualHead
from bcdnet.nn import (
    BinaryConv2d,
    BinaryLinear,
    BinaryMLPBlock,
    ContextualConvBlock,
    ContextualEmbedding,
    PointwiseBlock,
    RPReLU,
    RSign,
    Sign,
    TokenMixingBlock,
)


def only(model: nn.Module, size: tuple[int, int, int]) -> Layer:
    (layer,) = count(model, size).layers
    return layer


@pytest.mark.parametrize(
    ("module", "size", "macs", "params"),
    [
        (nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 10, 10), 8 * 100 * 27, 216),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 10, 10), 8 * 25 * 27, 224),
        (nn.Conv2d(8, 16, (1, 3), groups=4), (8, 5, 5), 16 * 15 * 2 * 3, 16 * 2 * 3 + 16),
        (nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False), (8, 4, 4), 8 * 16 * 9, 72),
        (nn.Linear(4, 6), (2, 3, 4), 6 * 6 * 4, 30),
    ],
)
def test_real_valued_layers(module: nn.Module, size: tuple[int, int, int], macs: int, params: int) -> None:
    layer = only(module, size)
    assert (layer.macs, layer.params, layer.binary_params, layer.packed_bytes) == (macs, params, 0, 4 * params)
    assert (layer.weight_bits, layer.activation_bits) == (32, 32)
    assert not layer.elementwise


def test_binary_convolution() -> None:
    layer = only(BinaryConv2d(6, 5, 3, stride=2, padding=1), (6, 8, 8))
    assert layer.macs == 5 * 16 * 6 * 9
    assert layer.binary_params == layer.params == 5 * 6 * 9
    assert layer.packed_bytes == 34 + 4 * 5  # 270 bits take 34 bytes; a scale for each output
    assert (layer.weight_bits, layer.activation_bits) == (1, 32)
    assert not layer.elementwise  # the scale is folded into what follows


def test_binary_linear() -> None:
    layer = only(BinaryLinear(16, 8), (2, 3, 16))
    assert (layer.macs, layer.binary_params, layer.packed_bytes) == (6 * 8 * 16, 128, 16 + 32)


@pytest.mark.parametrize(
    ("module", "kind", "operations", "packed"),
    [
        (nn.BatchNorm2d(4), "batch_norm", 4 * 36, 2 * 4 * 4),
        (nn.BatchNorm2d(4, affine=False), "batch_norm", 4 * 36, 2 * 4 * 4),
        (nn.GroupNorm(2, 4), "norm", 4 * 4 * 36, 2 * 4 * 4),
        (Sign(), "sign", 4 * 36, 0),
        (RSign(4), "sign", 4 * 36, 4 * 4),
        (RPReLU(4), "rprelu", 4 * 36, 3 * 4 * 4),
        (nn.PReLU(4), "activation", 4 * 36, 4 * 4),
        (nn.ReLU6(), "activation", 4 * 36, 0),
        (nn.ELU(), "activation", 4 * 36, 0),
        (nn.Softplus(), "activation", 4 * 36, 0),
        (nn.Mish(), "activation", 4 * 36, 0),
        (nn.SyncBatchNorm(4), "batch_norm", 4 * 36, 2 * 4 * 4),
        (nn.InstanceNorm2d(4), "norm", 4 * 4 * 36, 0),
        (nn.AvgPool2d(2), "pooling", 4 * 36, 0),
        (nn.MaxPool2d(3, 2, 1), "pooling", 4 * 9 * 9, 0),
        (nn.MaxPool2d((2, 3)), "pooling", 4 * 36, 0),
        (nn.AdaptiveAvgPool2d(1), "pooling", 4 * 36, 0),
    ],
)
def test_elementwise_layers(module: nn.Module, kind: str, operations: int, packed: int) -> None:
    layer = only(module, (4, 6, 6))
    assert layer.elementwise == {kind: operations}
    assert layer.packed_bytes == packed
    assert layer.macs == 0


def test_a_norm_with_an_activation_in_it() -> None:
    assert only(BatchNormAct2d(4), (4, 6, 6)).elementwise == {"batch_norm": 4 * 36, "activation": 4 * 36}
    assert only(BatchNormAct2d(4, apply_act=False), (4, 6, 6)).elementwise == {"batch_norm": 4 * 36}
    assert only(GroupNormAct(4, 2), (4, 6, 6)).elementwise == {"norm": 4 * 4 * 36, "activation": 4 * 36}


def test_two_heads_are_deployed_as_one() -> None:
    layer = only(DualHead(10, 7), (2, 3, 10))
    assert (layer.params, layer.macs, layer.packed_bytes) == (77, 6 * 70, 4 * 77)


def test_reactnet_block() -> None:
    counts = count(ContextualConvBlock(8, 16, 1), (8, 4, 4))
    assert counts.bops == 16 * 16 * 8
    assert counts.flops == 0
    assert counts.elementwise == {"batch_norm": 256, "rprelu": 256, "shortcut": 256, "sign": 128}
    assert counts.params == 8 + 128 + 32 + 48
    assert counts.packed_bytes == 4 * 8 + (16 + 4 * 16) + 2 * 4 * 16 + 4 * 48


def test_contextual_block_adds_pooling_and_three_small_layers() -> None:
    plain = count(ContextualConvBlock(8, 8, 3, stride=2), (8, 4, 4))
    dynamic = count(ContextualConvBlock(8, 8, 3, stride=2, embedding=ContextualEmbedding(8, 8)), (8, 4, 4))
    assert dynamic.bops == plain.bops == 8 * 4 * 72
    # Alpha and beta are constant over a map: one is part of the threshold, the other of the BatchNorm's offset.
    assert dynamic.flops == 8 * 2 + 2 * 8 + 2 * 8
    assert plain.elementwise["pooling"] == 8 * 4 * 4  # the shortcut's
    assert dynamic.elementwise["pooling"] == 2 * plain.elementwise["pooling"]
    assert dynamic.elementwise | {"pooling": 0} == plain.elementwise | {"pooling": 0}


def test_a_full_embedding_adds_a_layer_and_a_product_per_output_of_each() -> None:
    paper = count(ContextualConvBlock(8, 16, 3, embedding=ContextualEmbedding(8, 16)), (8, 4, 4))
    embedding = ContextualEmbedding(8, 16, gain=True, diagonal=True)
    full = count(ContextualConvBlock(8, 16, 3, embedding=embedding), (8, 4, 4))
    # The gain is constant over a map, and so part of the BatchNorm's factor.
    assert full.elementwise == paper.elementwise and full.bops == paper.bops
    assert full.flops == paper.flops + 2 * 16 + (8 + 16 + 16)
    assert full.params == paper.params + 2 * 16 + (8 + 16 + 16)


def test_mlp_block() -> None:
    counts = count(BinaryMLPBlock(8), (8, 4, 4))
    assert counts.bops == 3 * 16 * 64
    assert counts.elementwise == {"branch_sum": 256, "batch_norm": 128, "rprelu": 128, "shortcut": 128, "sign": 128}
    one = count(BinaryMLPBlock(8, branches=("none",)), (8, 4, 4))
    assert one.bops == 16 * 64
    assert one.totals() == count(PointwiseBlock(8), (8, 4, 4)).totals() | {"elementwise": one.elementwise}


def test_token_mixing_block() -> None:
    counts = count(TokenMixingBlock(8, 16), (8, 4, 4))
    assert counts.macs_by_precision == {"1x1": 8 * 16 * 16, "1x32": 0, "32x1": 0, "32x32": 0}
    assert counts.elementwise["shortcut"] == 128


def test_effort_weighs_operations_by_their_bits() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), RSign(4), BinaryConv2d(4, 4, 1))
    assert count(model, (4, 2, 2)).ace == 64 * 32 * 32 + 64


def test_a_new_layer_can_be_taught() -> None:
    class Squarer(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x

    assert count(Squarer(), (2, 3, 3)).elementwise == {"arithmetic": 18}
    cost.register(Squarer, lambda module, x, y: Cost(elementwise={"square": x.numel()}))
    assert count(Squarer(), (2, 3, 3)).elementwise == {"square": 18}
