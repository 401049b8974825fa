"""Products of a map and one number per channel and image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcdnet.compiler import compile_module
from bcdnet.errors import CompileError
from bcdnet.nn import BinaryConv2d, ContextHead, RPReLU, Sign, SpatialMean
from bcdnet.program import Program, execute

SIZE = (3, 6, 8)


class Gained(nn.Module):
    """What a function makes of an image and its maxima, which every implementation finds alike."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [N, C, H, W]."""
        return self.function(x, F.max_pool2d(x, SIZE[1:])).flatten(1)


def check_equal(module: nn.Module) -> Program:
    """The program, after it has given the module's outputs to the last bit."""
    program, x = compile_module(module.eval(), input_size=SIZE), torch.randn(4, *SIZE)
    with torch.no_grad():
        np.testing.assert_array_equal(execute(program, x.numpy())[0], module(x).numpy())
    return program


@pytest.mark.parametrize(
    ("function", "gains"),
    [
        (lambda x, s: x * s, 1),
        (lambda x, s: s * x + s, 1),
        (lambda x, s: F.relu(x) * s * 0.3 + 0.1, 1),
        (lambda x, s: torch.mul(x * 0.3, s) + x, 1),
        (lambda x, s: (x + s) * s, 1),
        (lambda x, s: s * (s * 0.5) * x, 2),
    ],
)
def test_a_map_times_one_number_per_channel_and_image(function: Callable[..., torch.Tensor], gains: int) -> None:
    program = check_equal(Gained(function))
    assert sum(op.type == "elementwise" and op.epilogue.gain is not None for op in program.ops) == gains


@pytest.mark.parametrize("function", [lambda x, s: x * x, lambda x, s: x * x.mean(1, keepdim=True)])
def test_other_products_of_tensors_are_refused(function: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(CompileError, match="cannot"):
        compile_module(Gained(function).eval(), input_size=SIZE)


def test_a_head_without_a_diagonal_needs_no_means() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.head = SpatialMean(), ContextHead(3, 3, base=1.0)
            nn.init.normal_(self.head.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.head(self.pool(x))).flatten(1)

    check_equal(Head())


def test_convolutions_that_become_one_keep_their_gains(prepared: Callable[..., nn.Module]) -> None:
    class Twins(nn.Module):
        """Two binary convolutions of one map, each with a gain and everything else of its own, concatenated."""

        def __init__(self) -> None:
            super().__init__()
            self.sign = Sign()
            self.convs = nn.ModuleList(BinaryConv2d(3, 3, 1) for _ in range(2))
            self.bns = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))
            self.acts = nn.ModuleList(RPReLU(3) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bits, largest = self.sign(x), F.max_pool2d(x, SIZE[1:])
            parts = zip(self.convs, (largest, largest * 0.5), self.bns, self.acts, strict=True)
            return torch.cat([act(bn(conv(bits) * gain) + x) for conv, gain, bn, act in parts], 1).flatten(1)

    program = check_equal(prepared(Twins(), *SIZE))
    (op,) = [op for op in program.ops if op.type == "binary_conv2d"]
    assert program.buffers[op.epilogue.gain].shape == (6,)
