import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bcdnet.nn import ESTIMATORS, BinaryConv2d, RSign, Sign, set_progress, sign
from bcdnet.nn.sign import make_estimator

floats = st.floats(-4, 4, width=32)


def gradient(estimator: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    estimator(x).sum().backward()
    return x.grad


def test_sign_of_zero_is_plus_one():
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3.0, -3.0])
    assert sign(x).tolist() == [1, 1, 1, -1, 1, -1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_sign_keeps_the_dtype(dtype):
    assert sign(torch.tensor([-0.5, 0.0], dtype=dtype)).dtype is dtype


@pytest.mark.parametrize("name", ESTIMATORS)
@given(values=st.lists(floats, min_size=1, max_size=8), progress=st.floats(0, 1))
def test_every_estimator_computes_the_same_sign(name, values, progress):
    x = torch.tensor(values)
    estimator = make_estimator(name)
    set_progress(estimator, progress)
    assert torch.equal(estimator(x), sign(x))
    slope = gradient(estimator, x)
    assert torch.isfinite(slope).all() and (slope >= 0).all()


@given(x=floats)
def test_polynomial_gradient(x):
    expected = 2 + 2 * x if -1 <= x < 0 else 2 - 2 * x if 0 <= x < 1 else 0.0
    assert gradient(make_estimator("polynomial"), torch.tensor([x])).item() == pytest.approx(expected, abs=1e-6)


@given(x=floats)
def test_clipped_identity_gradient(x):
    assert gradient(make_estimator("clipped_identity"), torch.tensor([x])).item() == (1.0 if abs(x) <= 1 else 0.0)


@given(x=floats, progress=st.floats(0, 1, width=32))
def test_tanh_gradient_is_that_of_the_function_it_names(x, progress):
    estimator = make_estimator("tanh")
    set_progress(estimator, progress)
    t = 10 ** (2 * progress - 1)
    point = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    (max(1 / t, 1) * torch.tanh(t * point)).sum().backward()
    assert gradient(estimator, torch.tensor([x])).item() == pytest.approx(point.grad.item(), rel=1e-3, abs=1e-4)


@given(x=st.floats(0.125, 1.5, width=32), progress=st.floats(0, 1, width=32))
def test_reste_gradient_is_that_of_the_power_function(x, progress):
    estimator = make_estimator("reste")
    set_progress(estimator, progress)
    o = 1 + 2 * progress
    point = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    (point ** (1 / o)).sum().backward()
    assert gradient(estimator, torch.tensor([x])).item() == pytest.approx(point.grad.item(), rel=1e-4)
    assert gradient(estimator, torch.tensor([-x])).item() == pytest.approx(point.grad.item(), rel=1e-4)


def test_reste_is_bounded_at_zero_and_silent_far_away():
    estimator = make_estimator("reste")
    set_progress(estimator, 1)
    slopes = gradient(estimator, torch.tensor([0.0, 0.05, 1.6, -1.6]))
    assert slopes.tolist() == pytest.approx([0.1 ** (1 / 3 - 1)] * 2 + [0, 0], rel=1e-5)


def test_unknown_estimator_and_progress_are_named():
    with pytest.raises(ValueError, match="polynomial, clipped_identity"):
        Sign("polinomial")
    with pytest.raises(ValueError, match="not 1"):
        set_progress(Sign("tanh"), 1.5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_compile_without_a_graph_break(name):
    torch.compiler.reset()
    estimator = make_estimator(name)
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    compiled = torch.compile(estimator, backend="aot_eager", fullgraph=True)
    gradients = [torch.autograd.grad(function(x).sum(), x)[0] for function in (compiled, estimator)]
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_of_each_image_at_once_are_those_of_one_after_the_other(name):
    layers = nn.Sequential(RSign(4, name), BinaryConv2d(4, 6, 3, padding=1))
    weights, x = dict(layers.named_parameters()), torch.randn(5, 4, 6, 6)

    def loss(weights: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layers, weights, (image[None],)).square().mean()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    for i, image in enumerate(x):
        expected = torch.autograd.grad(loss(weights, image), list(weights.values()))
        torch.testing.assert_close([found[key][i] for key in weights], list(expected))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_jacobian_is_made_of_the_gradients_of_each_output(name):
    estimator, x = make_estimator(name), torch.randn(7)
    assert torch.equal(torch.func.jacrev(estimator)(x), torch.diag(gradient(estimator, x)))


@pytest.mark.slow
def test_sign_under_compile_keeps_minus_zero_positive():
    compiled = torch.compile(sign, backend="inductor", fullgraph=True)
    assert compiled(torch.tensor([-0.0, 0.0, -1.0])).tolist() == [1, 1, -1]


def test_progress_is_no_part_of_the_weights():
    assert list(RSign(4, "tanh").state_dict()) == ["bias"]


def saved_bytes(function, x: torch.Tensor) -> int:
    """Bytes of distinct storage that autograd keeps for the backward pass of `function(x)`."""
    seen: dict[int, int] = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function(x)
    assert result.grad_fn is not None
    return sum(seen.values())


def naive(x: torch.Tensor) -> torch.Tensor:
    """The polynomial estimator composed of ordinary operations, as published code does it."""
    below, negative, positive = (x < -1).float(), (x < 0).float(), (x < 1).float()
    left = -below + (x * x + 2 * x) * (1 - below)
    middle = left * negative + (-x * x + 2 * x) * (1 - negative)
    smooth = middle * positive + (1 - positive)
    return torch.sign(x).detach() - smooth.detach() + smooth


def test_estimator_saves_at_most_half_of_what_a_naive_composition_saves():
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    composed = saved_bytes(lambda x: naive(x * 1.5), x)
    ours = saved_bytes(lambda x: make_estimator("polynomial")(x * 1.5), x)
    assert ours == x.nbytes and composed >= 2 * ours
    assert saved_bytes(lambda x: make_estimator("clipped_identity")(x * 1.5), x) == x.numel()
    # And the naive composition is the same function, so the comparison is fair.
    torch.testing.assert_close(gradient(make_estimator("polynomial"), x.detach()), gradient(_Module(naive), x.detach()))


class _Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_gradient_is_where_it_ends(dtype):
    """In bfloat16, 1 and 1.5 are common numbers."""
    ends = {"polynomial": (1, 0.0, 0.0), "clipped_identity": (1, 1.0, 0.0), "reste": (1.5, 1.0, 0.0)}
    for name, (end, at, beyond) in ends.items():
        x = torch.tensor([end, -end, end + 0.125, -end - 0.125], dtype=dtype)
        assert gradient(make_estimator(name), x).tolist() == [at, at, beyond, beyond]
