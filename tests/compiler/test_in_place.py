"""Modules that compute in place: packed where the result is PyTorch's, refused where another name sees the change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcdnet.compiler import compile_module
from bcdnet.errors import CompileError
from bcdnet.program import execute

Body = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """What `body` makes of a convolution's map, summed over its positions."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.relu = nn.ReLU(inplace=True)
        self.skip = nn.Dropout(inplace=True)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.stem(x)).mean((2, 3))


def _residual(net: Net, x: Tensor) -> Tensor:
    y = F.relu(x)
    y += x
    return net.relu(y)


def _overwritten(net: Net, x: Tensor) -> Tensor:
    return x + net.relu(x)


def _alias(net: Net, x: Tensor) -> Tensor:
    y = net.skip(x)
    y += 1.0
    return x * 2.0


def _view(net: Net, x: Tensor) -> Tensor:
    flat = x.view(x.shape[0], 8, 36)
    x.mul_(2.0)
    return flat.view(x.shape[0], 8, 6, 6)


@pytest.mark.parametrize(
    "body",
    [
        _residual,
        lambda net, x: net.relu(net.skip(x)),
        lambda net, x: F.relu(x.add_(0.5), inplace=True),
        lambda net, x: x * 2.0 + net.relu(x + 1.0),
    ],
)
def test_a_change_that_nobody_else_sees_is_packed(body: Body) -> None:
    torch.manual_seed(0)
    module, x = Net(body).eval(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(execute(compile_module(module, input_size=(3, 6, 6)), x.numpy())[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "path"),
    [(_overwritten, "relu"), (_alias, "the module"), (_view, "the module"), (lambda n, x: F.relu(x, True) + x, "the")],
)
def test_a_change_under_another_name_is_refused(body: Body, path: str) -> None:
    with pytest.raises(
        CompileError, match=rf"^{path}.*: computes in place what .* reads afterwards; use inplace=False"
    ):
        compile_module(Net(body).eval(), input_size=(3, 6, 6))
