"""Modules written by hand: packed as PyTorch computes them, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from bcdnet.compiler import compile_module
from bcdnet.errors import CompileError
from bcdnet.nn import BinaryConv2d, RPReLU, ShortRangeShift, Sign
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


def test_a_bias_may_be_viewed_as_a_column() -> None:
    module, x = Computes(lambda x: (x + module.bias.view(1, -1, 1, 1)).flatten(1)).eval(), torch.randn(2, 3, 4, 4)
    module.bias = nn.Parameter(torch.randn(3))
    (ours,) = execute(compile_module(module, input_size=(3, 4, 4)), x.numpy())
    np.testing.assert_array_equal(ours, module(x).detach().numpy())


def test_numbers_combine_with_rows_of_pixels() -> None:
    module = Computes(lambda x: (x.flatten(2) * 0.3 + 1.0).flatten(1)).eval()
    x = torch.randn(2, 3, 4, 4)
    (ours,) = execute(compile_module(module, input_size=(3, 4, 4)), x.numpy())
    np.testing.assert_array_equal(ours, module(x).numpy())


SHAPES = [
    (24,),
    (4, 6),
    (6, 4),
    (3, 8),
    (8, 3),
    (1, 24),
    (24, 1),
    (4, 2, 3),
    (2, 3, 4),
    (3, 8, 1),
    (24, 1, 1),
    (1, 6, 4),
]


@given(st.lists(st.sampled_from(["swap", *SHAPES]), max_size=6), st.booleans())
@example([(4, 6), "swap", (4, 6), "swap"], True)
@example([(4, 6), "swap", (3, 8), "swap"], True)
def test_views_keep_the_order_of_the_elements(steps: list[Any], real_map: bool) -> None:
    def views(x: torch.Tensor) -> torch.Tensor:
        axes = 3
        x = F.relu(x) if real_map else x
        for step in steps:
            if step != "swap":
                x, axes = x.reshape(x.shape[0], *step), len(step)
            elif axes == 2:
                x = x.transpose(1, 2)
        return x.flatten(1)

    module, x = Computes(views).eval(), torch.rand(2, 4, 2, 3)
    (ours,) = execute(compile_module(module, input_size=(4, 2, 3)), x.numpy())
    np.testing.assert_array_equal(ours, module(x).numpy())


LAYERS = {
    "same": nn.Conv2d(3, 4, (3, 5), padding="same"),
    "valid": nn.Conv2d(3, 4, (3, 5), (1, 2), padding="valid"),
    "same bits": nn.Sequential(Sign(), BinaryConv2d(3, 4, 3, padding="same")),
    "valid bits": nn.Sequential(Sign(), BinaryConv2d(3, 4, 2, 2, padding="valid")),
    "plain norm": nn.BatchNorm2d(3, affine=False),
    "one slope": nn.PReLU(),
    "maximum": nn.MaxPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True),
    "average": nn.AvgPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True),
    "average of pixels": nn.AvgPool2d((3, 2), (1, 2), (1, 0), count_include_pad=False),
    "parts": nn.AdaptiveAvgPool2d((3, 4)),
    "columns": nn.AdaptiveAvgPool2d((None, 2)),
    "a convolution's subclass": type("Conv", (nn.Conv2d,), {})(3, 4, 3),
    "a batch norm's subclass": type("Norm", (nn.BatchNorm2d,), {})(3),
    "a container's subclass": type("Block", (nn.Sequential,), {})(nn.Conv2d(3, 4, 3), nn.ReLU()),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_layers_compute_what_they_say(layer: nn.Module) -> None:
    """No two of height, width, kernel, stride and padding are alike, lest one pass for the other."""
    module, x = nn.Sequential(layer, nn.Flatten()).eval(), torch.randn(2, 3, 6, 8)
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_mean, layer.running_var = torch.randn(3), torch.rand(3) + 0.5
    (ours,) = execute(compile_module(module, input_size=(3, 6, 8)), x.numpy())
    np.testing.assert_allclose(ours, module(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3).flatten(1), "average pooling with divisor_override"),
        (lambda x: F.max_pool2d(x, 2, dilation=2).flatten(1), "without indices and dilation"),
        (lambda x: F.adaptive_avg_pool2d(x, 4).flatten(1), r"from \[6, 6\] to \[4, 4\], which does not divide it"),
        (lambda x: F.dropout(x, training=True).flatten(1), "dropout with training=True"),
        (lambda x: torch.add(x, x, alpha=2).flatten(1), "add with alpha=2"),
        (lambda x: torch.sub(x, x, alpha=2).flatten(1), "sub with alpha=2"),
        (lambda x: {1: x.flatten(1), "1": x.flatten(1)}, "outputs 1, '1' have equal names"),
        (lambda x: torch.cat([x, x], -1).flatten(1), "along the channels"),
        (lambda x: x.mean((1, 2)), "only over height and width"),
        (lambda x: x.mean(3).flatten(1), "only over height and width"),
        (lambda x: x.mean((2, 3), dtype=torch.bfloat16).float(), r"mean in torch\.bfloat16 cannot be packed"),
        (lambda x: x.flatten(), "must leave the batch axis alone"),
        (lambda x: x.view(3, -1, 6, 6).flatten(1), "must keep the batch as its first axis"),
        (lambda x: x.flatten(2).transpose(0, 2).flatten(1), "only the two axes after the batch"),
        (lambda x: (F.avg_pool2d(x, 2) + torch.arange(3.0)).flatten(1), "per-channel parameters"),
        (
            lambda x: (F.adaptive_avg_pool2d(x, (1, 3)).flatten(2) * torch.arange(3.0).view(3, 1)).flatten(1),
            "per-channel parameters",
        ),
        (lambda x: (F.relu(x) * torch.ones(1, 1, 1, 1, 1)).flatten(1), "per-channel parameters"),
        (lambda x: F.adaptive_avg_pool2d(x, 0).flatten(1), r"from \[6, 6\] to \[0, 0\], which does not divide it"),
        (lambda x: F.linear(x.flatten(1), torch.ones(108)), "linear with these arguments"),
        (lambda x: x.view(x.shape[0], x.shape[4]), "getitem with these arguments"),
        (lambda x: F.avg_pool2d(x, 2, 0).flatten(1), r"a kernel of \[2, 2\] with a stride of \[0, 0\]"),
    ],
)
def test_functions_that_no_program_computes_are_refused(function: Callable[[Any], Any], message: str) -> None:
    """Among them some that would be packed as something else if their arguments were not looked at."""
    with pytest.raises(CompileError, match=message):
        compile_module(Computes(function).eval(), input_size=(3, 6, 6))


class Pair(nn.Module):
    """Two layers of one binarised map, or of it and its opposite, added or side by side."""

    def __init__(self, first: nn.Module, second: nn.Module, opposite: bool, join: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.stem, self.sign, self.first, self.second = nn.Conv2d(3, 4, 1), Sign(), first, second
        self.opposite, self.join = opposite, join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [N, 3, H, W]."""
        x = self.stem(x)
        bits = self.sign(x)
        return self.join(self.first(bits), self.second(self.sign(-1 * x) if self.opposite else bits)).flatten(1)


@pytest.mark.parametrize("join", [torch.add, lambda a, b: torch.cat([a, b], 1)], ids=["sum", "concatenation"])
@pytest.mark.parametrize(
    ("first", "second", "opposite"),
    [
        (BinaryConv2d(4, 4, 3, 4), BinaryConv2d(4, 4, 3, 4), False),
        (BinaryConv2d(4, 4, 3, 4), BinaryConv2d(4, 4, 3, 4), True),
        (BinaryConv2d(4, 4, 3, 4), BinaryConv2d(4, 4, 3, 4, 1), False),
        (BinaryConv2d(4, 4, 3, 4), BinaryConv2d(4, 4, 3, 3), False),
        (BinaryConv2d(4, 4, 3, 4), BinaryConv2d(4, 4, 1, 4), False),
        (BinaryConv2d(4, 4, 1), nn.Sequential(ShortRangeShift(), BinaryConv2d(4, 4, 1)), False),
        (nn.Sequential(BinaryConv2d(4, 4, 1), nn.PReLU(4)), nn.Sequential(BinaryConv2d(4, 4, 1), RPReLU(4)), False),
        (nn.Sequential(BinaryConv2d(4, 4, 1), RPReLU(4)), nn.Sequential(BinaryConv2d(4, 4, 1), nn.PReLU(4)), False),
    ],
)
def test_two_layers_become_one_only_where_that_is_the_same(
    first: nn.Module, second: nn.Module, opposite: bool, join: Callable[..., torch.Tensor], prepared: Any
) -> None:
    """On 7 x 7 pixels all with a stride of 3 or 4 give 2 x 2."""
    module, x = prepared(Pair(first, second, opposite, join), 3, 7, 7), torch.randn(2, 3, 7, 7)
    (ours,) = execute(compile_module(module, input_size=(3, 7, 7)), x.numpy())
    np.testing.assert_allclose(ours, module(x).detach().numpy(), atol=1e-5)


def test_twins_round_where_each_of_them_does(prepared: Any) -> None:
    """Batch norm's product and sum are one function's, which rounds once; of two functions each rounds."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.sign, self.norm = nn.Conv2d(3, 16, 1), Sign(), nn.BatchNorm2d(16)
            self.first, self.second = BinaryConv2d(16, 16, 1), BinaryConv2d(16, 16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bits = self.sign(self.stem(x))
            return torch.cat([self.norm(self.first(bits)), self.second(bits) * 1.3 + 0.7], 1).flatten(1)

    module, x = prepared(Twins(), 3, 16, 16), torch.randn(2, 3, 16, 16)
    (ours,) = execute(compile_module(module, input_size=(3, 16, 16)), x.numpy())
    np.testing.assert_array_equal(ours[:, 16 * 256 :], module(x).detach().numpy()[:, 16 * 256 :])


def test_vectors_and_signs_of_vectors_are_joined_in_any_order() -> None:
    x = torch.randn(2, 8, 3, 3)
    for order in ((0, 1), (1, 0), (1, 1), (0, 0)):
        module = Mixed(order).eval()
        (ours,) = execute(compile_module(module, input_size=(8, 3, 3)), x.numpy())
        np.testing.assert_allclose(ours, module(x).numpy(), atol=1e-6)


class Mixed(nn.Module):
    """Joins the channels' means (0) and their signs (1)."""

    def __init__(self, order: tuple[int, int]) -> None:
        super().__init__()
        self.sign, self.order = Sign(), order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [N, C, H, W] -> [N, 2 C]."""
        means = x.mean((2, 3))
        parts = (means, self.sign(means))
        return torch.cat([parts[index] for index in self.order], 1)


def test_twins_may_be_the_second_summands(prepared: Any) -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.sign = nn.Conv2d(3, 4, 1), Sign()
            self.first, self.second = BinaryConv2d(4, 4, 1), BinaryConv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            bits = self.sign(x)
            return torch.cat([x + self.first(bits), x + self.second(bits)], 1).flatten(1)

    module, x = prepared(Twins(), 3, 4, 4), torch.randn(2, 3, 4, 4)
    (ours,) = execute(compile_module(module, input_size=(3, 4, 4)), x.numpy())
    np.testing.assert_allclose(ours, module(x).detach().numpy(), atol=1e-5)


class Skip(nn.Module):
    """A binary convolution and what goes around it, which is read a second time if `again`."""

    def __init__(self, conv: nn.Module, around: Callable[[torch.Tensor], torch.Tensor], again: bool) -> None:
        super().__init__()
        self.stem, self.sign, self.conv, self.around, self.again = nn.Conv2d(3, 4, 1), Sign(), conv, around, again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [N, 3, H, W]."""
        x = self.stem(x)
        around = self.around(x)
        x = self.conv(self.sign(x)) + around
        return (F.relu(x) + 2 * around if self.again else x).flatten(1)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    ("side", "conv", "around"),
    [
        (5, BinaryConv2d(4, 4, 3, 2), nn.AvgPool2d(2)),
        (5, BinaryConv2d(4, 4, 3, 2, 1), nn.AvgPool2d(2, ceil_mode=True)),
        (3, BinaryConv2d(4, 4, 2), nn.AvgPool2d(2, 1)),
        (4, BinaryConv2d(4, 4, 2, 2), nn.AvgPool2d(2)),
        (3, BinaryConv2d(4, 8, 1), lambda x: torch.cat([x, x], 1)),
        (3, BinaryConv2d(4, 8, 1), lambda x: torch.cat([x, F.relu(x)], 1)),
    ],
)
def test_only_what_a_shortcut_does_goes_into_one(
    side: int, conv: nn.Module, around: Any, again: bool, prepared: Any
) -> None:
    module, x = prepared(Skip(conv, around, again), 3, side, side), torch.randn(2, 3, side, side)
    (ours,) = execute(compile_module(module, input_size=(3, side, side)), x.numpy())
    np.testing.assert_allclose(ours, module(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("function", [lambda x: x, torch.relu])
def test_two_heads_become_one_only_where_they_read_the_same(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    first, second = nn.Linear(3, 5), nn.Linear(3, 5, bias=False)

    class Heads(Computes):
        def __init__(self) -> None:
            super().__init__(lambda x: (first(x.mean((2, 3))) + second(function(x).mean((2, 3)))) * 0.5)
            self.first, self.second = first, second

    module, x = Heads().eval(), torch.randn(2, 3, 4, 4)
    (ours,) = execute(compile_module(module, input_size=(3, 4, 4)), x.numpy())
    np.testing.assert_allclose(ours, module(x).detach().numpy(), atol=1e-5)


def test_one_vector_may_be_two_outputs() -> None:
    class Twofold(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            mean = x.mean((2, 3))
            return {"first": mean, "second": mean}

    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    program = compile_module(Twofold().eval(), input_size=(3, 4, 4))
    first, second = execute(program, x)
    np.testing.assert_allclose(first, x.mean((2, 3)), atol=1e-6)
    np.testing.assert_array_equal(second, first)
    assert [port.name for port in program.outputs] == ["first", "second"]


class Options(nn.Module):
    """Its forward has parameters that decide what is computed."""

    def forward(
        self,
        x: torch.Tensor,
        features: torch.Tensor | None = None,
        double: bool = False,
        *rest: Any,
        pool: str = "avg",
        **options: Any,
    ) -> torch.Tensor:
        """x: [N, C, H, W]."""
        x = F.relu(x, *rest, **options)
        if features is not None:
            x = torch.cat([x, features], 1)
        if double:
            x = x * 2
        return (x.mean((2, 3), keepdim=True) if pool == "avg" else x).flatten(1)


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
