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


class Flat(nn.Flatten):
    pass


class Net(nn.Module):
    """What `body` makes of a convolution's map, summed over its positions."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.relu = nn.ReLU(inplace=True)
        self.skip = nn.Dropout(inplace=True)
        self.views = nn.ModuleList([nn.Identity(), nn.Dropout(), nn.Dropout2d(), nn.Flatten(2), Flat(2)])
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


def _sizes(net: Net, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    channels *= height
    return x.reshape(batch, channels, width).reshape(x.size(0), x.size()[1], height, width)


@pytest.mark.parametrize(
    "body",
    [
        _residual,
        _sizes,
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
        CompileError, match=rf"^{path}.*: computes in place what .* reads afterwards; use its result, or inplace=False"
    ):
        compile_module(Net(body).eval(), input_size=(3, 6, 6))


@pytest.mark.parametrize(
    "view",
    [
        lambda net, x: net.views[0](x),
        lambda net, x: net.views[1](x),
        lambda net, x: net.views[2](x),
        lambda net, x: net.views[3](x),
        lambda net, x: net.views[4](x),
        lambda net, x: F.dropout(x, training=False),
        lambda net, x: x.contiguous().float(),
        lambda net, x: x.view_as(x).reshape_as(x),
        lambda net, x: torch.reshape(x, (x.shape[0], 8, 36)),
        lambda net, x: x.reshape(x.shape[0], 8, 36).flatten(1),
        lambda net, x: torch.transpose(torch.flatten(x, 2), 1, 2).transpose(1, 2),
    ],
)
@pytest.mark.parametrize(
    "change", [lambda x: x.add_(1.0), lambda x: x.mul_(2.0), lambda x: x.relu_(), lambda x: F.relu(x, inplace=True)]
)
def test_every_view_shares_what_is_overwritten(view: Body, change: Callable[[Tensor], Tensor]) -> None:
    """In PyTorch it would be computed from the new values, in a program from the old."""

    def body(net: Net, x: Tensor) -> Tensor:
        batch, seen = x.shape[0], view(net, x)
        change(x)
        return seen.view(batch, 8, 6, 6)

    with pytest.raises(CompileError, match=r"computes in place what .* reads afterwards"):
        compile_module(Net(body).eval(), input_size=(3, 6, 6))


def test_the_columns_of_a_vector_are_a_view_too() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        vector = x.mean((2, 3))
        columns = vector[:, :, None, None]
        vector.mul_(2.0)
        return x + columns

    with pytest.raises(CompileError, match=r"computes in place what .* reads afterwards"):
        compile_module(Net(body).eval(), input_size=(3, 6, 6))
