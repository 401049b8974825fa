import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from bcdnet.nn import BinaryConv2d, BinaryLinear, binarize_weight, set_weight_bits, sign


def integer_convolution(bits: np.ndarray, weight: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """Plain loops over ±1 int64 arrays; padded positions hold 0."""
    images, _, height, width = bits.shape
    outputs, _, k, _ = weight.shape
    padded = np.pad(bits, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows, columns = (height + 2 * padding - k) // stride + 1, (width + 2 * padding - k) // stride + 1
    result = np.zeros((images, outputs, rows, columns), np.int64)
    for y in range(rows):
        for x in range(columns):
            window = padded[:, :, y * stride : y * stride + k, x * stride : x * stride + k]
            result[:, :, y, x] = np.einsum("nikl,oikl->no", window, weight)
    return result


@given(
    channels=st.integers(1, 33),
    outputs=st.integers(1, 9),
    side=st.integers(2, 7),
    k=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**31),
)
def test_forward_is_an_exact_integer_times_the_scale(channels, outputs, side, k, stride, seed):
    torch.manual_seed(seed)
    layer = BinaryConv2d(channels, outputs, k, stride, k // 2)
    bits = sign(torch.randn(2, channels, side, side))
    integers = integer_convolution(
        bits.numpy().astype(np.int64), sign(layer.latent_weight).detach().numpy().astype(np.int64), stride, k // 2
    )
    scale = layer.latent_weight.detach().abs().mean(dim=(1, 2, 3))
    expected = torch.from_numpy(integers).float() * scale.view(1, -1, 1, 1)
    with torch.no_grad():
        assert torch.equal(layer(bits), expected)


def test_border_sums_over_fewer_taps():
    layer = BinaryConv2d(1, 1, 3, padding=1)
    torch.nn.init.constant_(layer.latent_weight, 0.5)
    with torch.no_grad():
        out = layer(torch.ones(1, 1, 3, 3)) / 0.5
    assert out.int().tolist() == [[[[4, 6, 4], [6, 9, 6], [4, 6, 4]]]]


def test_gradient_reaches_the_latent_weight_without_the_scale():
    """The published estimator: conv(x, s * sign(W)) with the clipped identity around the scaled weight."""
    torch.manual_seed(0)
    layer = BinaryConv2d(8, 4, 3, padding=1)
    with torch.no_grad():
        layer.latent_weight.mul_(8)  # some latent weights beyond the clip
    x = sign(torch.randn(2, 8, 5, 5)).requires_grad_()
    upstream = torch.randn(2, 4, 5, 5)
    layer(x).backward(upstream)

    latent = layer.latent_weight.detach().clone().requires_grad_()
    reference_x = x.detach().clone().requires_grad_()
    scaled = (latent.abs().mean(dim=(1, 2, 3), keepdim=True) * latent.sign()).detach()
    clipped = latent.clamp(-1, 1)
    F.conv2d(reference_x, scaled - clipped.detach() + clipped, padding=1).backward(upstream)
    torch.testing.assert_close(layer.latent_weight.grad, latent.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, reference_x.grad, rtol=1e-4, atol=1e-5)
    assert (latent.grad[latent.abs() > 1] == 0).all() and (latent.abs() > 1).any()


def test_a_dead_output_channel_gives_no_nan():
    layer = BinaryConv2d(4, 2, 1)
    with torch.no_grad():
        layer.latent_weight[0] = 0
    layer(sign(torch.randn(1, 4, 2, 2))).sum().backward()
    assert torch.isfinite(layer.latent_weight.grad).all()


def test_step_one_is_an_ordinary_convolution():
    layer = BinaryConv2d(8, 4, 3, padding=1)
    x = sign(torch.randn(2, 8, 5, 5))
    set_weight_bits(torch.nn.Sequential(layer), 32)
    assert torch.equal(layer(x), F.conv2d(x, layer.latent_weight, padding=1))
    set_weight_bits(layer, 1)
    assert not torch.equal(layer(x), F.conv2d(x, layer.latent_weight, padding=1))
    with pytest.raises(ValueError, match="1 or 32, not 8"):
        set_weight_bits(layer, 8)


def test_step_one_begins_with_outputs_of_unit_variance():
    torch.manual_seed(0)
    for layer, shape in ((BinaryConv2d(64, 16, 3), (8, 64, 9, 9)), (BinaryLinear(256, 64), (64, 256))):
        set_weight_bits(layer, 32)
        assert layer(sign(torch.randn(shape))).var().item() == pytest.approx(1, abs=0.1)


def test_linear_is_the_pointwise_convolution():
    linear, conv = BinaryLinear(12, 5), BinaryConv2d(12, 5, 1)
    with torch.no_grad():
        conv.latent_weight.copy_(linear.latent_weight[:, :, None, None])
    x = sign(torch.randn(3, 12))
    for bits in (1, 32):
        set_weight_bits(linear, bits)
        set_weight_bits(conv, bits)
        torch.testing.assert_close(linear(x), conv(x[:, :, None, None])[:, :, 0, 0])


def test_bits_and_scale_split_the_weight():
    bits, scale = binarize_weight(torch.tensor([[0.5, -1.5, 0.0, 1.0]]))
    assert bits.tolist() == [[1, -1, 1, 1]] and scale.tolist() == [[0.75]] and not scale.requires_grad


def test_bfloat16_autocast_rounds_the_exact_result_once():
    torch.manual_seed(0)
    layer = BinaryConv2d(64, 16, 3, padding=1)
    x = sign(torch.randn(2, 64, 6, 6))
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x), rtol=2**-7, atol=0)
    half.float().sum().backward()
    assert layer.latent_weight.grad.dtype is torch.float32 and torch.isfinite(layer.latent_weight.grad).all()


def test_channels_last_gives_the_same_bits():
    layer = BinaryConv2d(32, 16, 3, padding=1)
    x = sign(torch.randn(2, 32, 6, 6))
    last = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, layer(x))


def test_bfloat16_sums_are_scaled_in_float32():
    """Of 144 terms bfloat16 holds every sum: what is left is the one rounding of the product."""
    torch.manual_seed(0)
    conv, linear = BinaryConv2d(16, 16, 3, padding=1), BinaryLinear(144, 16)
    for layer, x in ((conv, sign(torch.randn(2, 16, 6, 6))), (linear, sign(torch.randn(8, 144)))):
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(x)
        assert torch.equal(half, layer(x).bfloat16())
