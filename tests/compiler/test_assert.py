"""Modules that check the shape of what they are given, as timm's do."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bcdnet.compiler import compile_module
from bcdnet.errors import CompileError
from bcdnet.models import build, configure
from bcdnet.program.reference import execute


class Checks(nn.Module):
    def __init__(self, condition: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.condition = condition
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(self.condition(x), "an odd image")
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    "condition",
    [
        lambda x: x.shape[2] == 6,
        lambda x: x.size(1) == x.shape[3] // 2,
        lambda x: x.shape == (x * 2).shape,
        lambda x: x.size()[0] == x.flatten(1).size(0),
    ],
)
def test_what_holds_is_not_asked_again(condition: Callable[[Tensor], object]) -> None:
    module, x = Checks(condition).eval(), torch.randn(2, 3, 6, 6)
    (ours,) = execute(compile_module(module, input_size=(3, 6, 6)), x.numpy())
    np.testing.assert_allclose(ours, module(x).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda x: x.shape[2] == 8, r"an odd image; is input_size=\(3, 6, 6\) that of the images\?"),
        (lambda x: x.shape[0] == 2, "an odd image"),  # the program takes any number
        (lambda x: x.shape == (x[:, :, None, None]).shape, "indexing a tensor cannot be packed"),
        (lambda x: x == x, "comparing tensors cannot be packed"),
        (lambda x: x.mean((2, 3)), "depends on the pixels"),
    ],
)
def test_what_does_not_hold_is_said(condition: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        compile_module(Checks(condition).eval(), input_size=(3, 6, 6))


def test_a_mixer_says_of_another_size_what_is_wrong() -> None:
    network = build(configure("binary_mixer_small", width=0.1, depth=1)).eval()
    message = "made for 64 tokens, which images of another size do not have"
    with pytest.raises(AssertionError, match=message):
        network(torch.zeros(1, 3, 40, 40))
    with pytest.raises(CompileError, match=message):
        compile_module(network, input_size=(3, 40, 40))
