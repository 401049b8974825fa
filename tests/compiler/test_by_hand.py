"""Modules written by hand: packed as PyTorch computes them, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcdnet.compiler import compile_module
from bcdnet.errors import CompileError
from bcdnet.nn import BinaryConv2d, Sign
from bcdnet.program import execute


class Computes(nn.Module):
    """A module whose forward is a function of the image."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [N, C, H, W]."""
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 0.3 - 0.1,
        lambda x: x / 4 + 0.7,
        lambda x: (x * 0.3 - 0.1) * 0.7 + 0.3,
        lambda x: 1 - x,
        lambda x: x - x * 0.3,
        lambda x: 0.1 - (x * 0.3 + 0.2),
    ],
)
def test_affine_functions_round_after_every_step(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """An epilogue's product and sum are rounded once: one bit of difference turns the sign at a threshold."""
    module = Computes(lambda x: function(x).flatten(1)).eval()
    x = torch.randn(4, 3, 32, 32)
    (ours,) = execute(compile_module(module, input_size=(3, 32, 32)), x.numpy())
    np.testing.assert_array_equal(ours, module(x).numpy())


def test_a_value_on_its_threshold_keeps_its_sign() -> None:
    class Threshold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sign, self.conv = Sign(), BinaryConv2d(3, 4, 1)
            self.conv.weight_bits = 1
            nn.init.ones_(self.conv.latent_weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.sign(x * 0.1 - 0.3)).mean((2, 3))

    module, x = Threshold().eval(), torch.full((1, 3, 2, 2), 3.0)
    (ours,) = execute(compile_module(module, input_size=(3, 2, 2)), x.numpy())
    np.testing.assert_array_equal(ours, [[3.0] * 4])
    np.testing.assert_array_equal(ours, module(x).detach().numpy())


def test_numbers_combine_with_rows_of_pixels() -> None:
    module = Computes(lambda x: (x.flatten(2) * 0.3 + 1.0).flatten(1)).eval()
    x = torch.randn(2, 3, 4, 4)
    (ours,) = execute(compile_module(module, input_size=(3, 4, 4)), x.numpy())
    np.testing.assert_array_equal(ours, module(x).numpy())


class Options(nn.Module):
    """Its forward has parameters that decide what is computed."""

    def forward(
        self, x: torch.Tensor, features: torch.Tensor | None = None, double: bool = False, pool: str = "avg"
    ) -> torch.Tensor:
        """x: [N, C, H, W]."""
        if features is not None:
            x = torch.cat([x, features], 1)
        if double:
            x = x * 2
        return (x.mean((2, 3), keepdim=True) if pool == "avg" else F.relu(x)).flatten(1)


def test_further_parameters_are_at_their_defaults() -> None:
    module, x = Options().eval(), torch.randn(2, 3, 4, 4)
    (ours,) = execute(compile_module(module, input_size=(3, 4, 4)), x.numpy())
    np.testing.assert_allclose(ours, module(x).numpy(), atol=1e-6)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


def _replace_forward(module: Any) -> None:
    forward = module.forward
    module.forward = lambda x: forward(x) * 2


@pytest.mark.parametrize("layer", [None, 3])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda module: module.register_forward_hook(lambda module, images, out: out * 2), "forward hook"),
        (lambda module: module.register_forward_pre_hook(lambda module, images: (images[0] * 2,)), "forward hook"),
        (_replace_forward, "its forward was replaced on the instance"),
    ],
)
def test_what_tracing_does_not_see_is_refused(layer: int | None, change: Callable[[Any], Any], message: str) -> None:
    module = network()
    change(module if layer is None else module[layer])
    with pytest.raises(CompileError, match=("the module: " if layer is None else "3: ") + f".*{message}"):
        compile_module(module, input_size=(3, 8, 8))


def test_what_tracing_sees_is_packed() -> None:
    """A hook, and a forward of the instance, on a module that is looked through."""
    inner = network()
    inner.register_forward_hook(lambda module, images, out: out + 1)
    _replace_forward(inner)
    module, x = nn.Sequential(inner).eval(), torch.randn(2, 3, 8, 8)
    (ours,) = execute(compile_module(module, input_size=(3, 8, 8)), x.numpy())
    np.testing.assert_allclose(ours, module(x).detach().numpy(), atol=1e-5)
