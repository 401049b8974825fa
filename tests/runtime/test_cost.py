"""What the steps of a program cost, worked out by hand."""

from __future__ import annotations

import torch
from torch import nn

import bcdnet.nn as bnn
from bcdnet.compiler import compile_module
from bcdnet.runtime.cost import Cost, cost

MAP, BITS, VECTOR = 4 * 8 * 8 * 32, 4 * 8 * 8, 4 * 32  # bytes of 8 x 8 pixels with 32 channels


def test_each_step_counts_what_it_reads_writes_and_multiplies() -> None:
    embedding = bnn.ContextualEmbedding(32, 32, reduction=4)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 1, 1, groups=4),
        bnn.ContextualConvBlock(32, 32, 3, embedding=embedding), bnn.BinaryMLPBlock(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6),
    ).eval()  # fmt: skip
    program = compile_module(network, input_size=(3, 16, 16))
    found = {op.name: cost(program, op) for op in program.ops}
    assert found["0"] == Cost(0, 64 * 32 * 27, 4 * 3 * 256 + MAP + 4 * 32 * 27)
    assert found["1"] == Cost(0, 64 * 32 * 9 * 8, 2 * MAP + 4 * 32 * 9 * 8)
    assert found["2.binarize"] == Cost(0, 0, MAP + VECTOR + BITS)  # with alpha
    assert found["2.conv"] == Cost(64 * 32 * 9 * 32, 0, 2 * BITS + 2 * MAP + VECTOR + 4 * 32 * 9)  # with beta
    assert found["3.convs.none"] == Cost(3 * 64 * 32 * 32, 0, BITS + 2 * MAP + 3 * 4 * 32)
    assert found["4"] == Cost(0, 0, MAP + VECTOR)
    assert found["6"] == Cost(0, 6 * 32, VECTOR + 4 * 6 + 4 * 6 * 32)


def test_steps_without_products_count_all_that_they_move() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.conv = nn.MaxPool2d(2), nn.Conv2d(3, 5, 2, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.pool(x), self.conv(x)], 1).mean((2, 3))

    program = compile_module(Joined().eval(), input_size=(3, 16, 16))
    found = {op.type: cost(program, op) for op in program.ops}
    joined = 4 * 64 * (3 + 5)  # bytes of 8 x 8 pixels
    assert found["concat"] == Cost(0, 0, 2 * joined)
    assert found["max_pool"] == Cost(0, 0, 4 * 3 * (256 + 64))
    assert found["global_avg_pool"] == Cost(0, 0, joined + 4 * (3 + 5))
