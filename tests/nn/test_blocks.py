import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bcdnet.nn import (
    BinaryMLPBlock,
    ContextLinear,
    ContextualConvBlock,
    ContextualEmbedding,
    LongRangeShift,
    PointwiseBlock,
    RPReLU,
    RSign,
    ShortRangeShift,
    Sign,
    SpatialMean,
    TokenMixingBlock,
    make_shortcut,
    set_weight_bits,
    sign,
)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a value of its own, so that no term of a formula hides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(0.5 + noise if "running_var" in name else noise - 0.5)
    return module


BLOCKS = {
    "plain": lambda: ContextualConvBlock(8, 8, 3),
    "stride": lambda: ContextualConvBlock(8, 8, 3, 2, embedding=ContextualEmbedding(8, 8)),
    "doubling": lambda: ContextualConvBlock(8, 16, 1, embedding=ContextualEmbedding(8, 16)),
    "full": lambda: ContextualConvBlock(8, 16, 3, 2, embedding=ContextualEmbedding(8, 16, gain=True, diagonal=True)),
    "projection": lambda: ContextualConvBlock(8, 16, 3, 2, projection=True),
    "mlp": lambda: BinaryMLPBlock(8),
    "pointwise": lambda: PointwiseBlock(8),
    "tokens": lambda: TokenMixingBlock(8, 25),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_train_in_both_steps(name):
    block = randomise(BLOCKS[name]())
    for bits in (32, 1):
        set_weight_bits(block, bits)
        x = torch.randn(2, 8, 5, 5, requires_grad=True)
        block.zero_grad()
        block(x).square().sum().backward()
        assert torch.isfinite(x.grad).all()
        for parameter_name, parameter in block.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize(
    "memory_format", [pytest.param(torch.contiguous_format, marks=pytest.mark.slow), torch.channels_last]
)
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_compile_without_a_graph_break(name, memory_format):
    """torch 2.11 once broke the graph at every sign of a channels_last tensor, and training was no faster for it."""
    torch.compiler.reset()  # all blocks share a class, whose compilations torch limits
    block = randomise(BLOCKS[name]())
    x = torch.randn(2, 8, 5, 5).to(memory_format=memory_format)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    expected, result = block(x), compiled(x)
    torch.testing.assert_close(result, expected)
    result.sum().backward()
    ours = [parameter.grad.clone() for parameter in block.parameters()]
    block.zero_grad()
    block(x).sum().backward()
    for gradient, parameter in zip(ours, block.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize("layer", [RSign(8), RPReLU(8)])
def test_features_without_a_place_are_refused(layer):
    """[N, C] would become [1, C, N, C]."""
    with pytest.raises(AssertionError, match=r"takes maps \[N, C, H, W\]"):
        layer(torch.randn(2, 8))


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_under_bfloat16_autocast_and_channels_last(name):
    block = randomise(BLOCKS[name]()).eval()
    x = torch.randn(2, 8, 5, 5)
    expected = block(x)
    torch.testing.assert_close(
        block.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), expected
    )
    with torch.autocast("cpu", torch.bfloat16):
        half = block(x)
    # A value near a threshold may fall on its other side; the bulk agrees to bfloat16's precision.
    assert (half - expected).abs().median() <= 0.02


@pytest.mark.parametrize("full", [False, True])
def test_contextual_block_is_the_papers_formula_or_the_full_ones(full):
    embedding = ContextualEmbedding(8, 16, gain=full, diagonal=full)
    block = randomise(ContextualConvBlock(8, 16, 1, embedding=embedding)).eval()
    x = torch.randn(3, 8, 5, 5)
    e, conv, bn, act = block.embedding, block.conv, block.bn, block.act
    mean = x.mean((2, 3))
    context = mean @ e.reduce.weight.T
    alpha, beta = context @ e.to_alpha.weight.T, context @ e.to_beta.weight.T
    gain = torch.ones(3, 16)
    if full:
        twice = torch.cat((mean, mean), 1)
        alpha, beta = alpha + e.to_alpha.diagonal * mean, beta + e.to_beta.diagonal * twice
        gain = 1 + context @ e.to_gain.weight.T + e.to_gain.diagonal * twice
    bits = sign(x + block.binarize.bias[:, None, None] - alpha[:, :, None, None])
    weight = conv.latent_weight[:, :, 0, 0]
    scale = weight.abs().mean(1)
    out = torch.einsum("oi,nihw->nohw", weight.sign(), bits) * scale[:, None, None]
    out = out * gain[:, :, None, None] + beta[:, :, None, None]
    out = (out - bn.running_mean[:, None, None]) / (bn.running_var + bn.eps).sqrt()[:, None, None]
    out = out * bn.weight[:, None, None] + bn.bias[:, None, None] + torch.cat((x, x), 1)
    out = out + act.bias_in[:, None, None]
    out = torch.where(out > 0, out, out * act.weight[:, None, None]) + act.bias_out[:, None, None]
    torch.testing.assert_close(block(x), out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("full", [False, True])
def test_an_untrained_embedding_is_exactly_reactnets_block(full):
    torch.manual_seed(0)
    plain = ContextualConvBlock(8, 8, 3)
    contextual = ContextualConvBlock(8, 8, 3, embedding=ContextualEmbedding(8, 8, gain=full, diagonal=full))
    contextual.load_state_dict(plain.state_dict() | contextual.embedding.state_dict(prefix="embedding."))
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(plain(x), contextual(x))


def test_sums_that_move_thresholds_are_rounded_once():
    """Only so does every implementation find the same bits."""
    torch.manual_seed(0)
    x, linear = torch.randn(100, 1, 7, 7), ContextLinear(49, 1).eval()
    means, sums = SpatialMean().eval()(x).flatten(), linear(x.flatten(1)).flatten()
    weight = linear.weight.flatten().tolist()
    for image, mean, total in zip(x.flatten(1).tolist(), means.tolist(), sums.tolist(), strict=True):
        assert mean == np.float32(math.fsum(image) / 49)
        assert total == np.float32(math.fsum(a * b for a, b in zip(image, weight, strict=True)))


@pytest.mark.parametrize("dropped", ["alpha", "beta"])
def test_half_an_embedding(dropped):
    embedding = ContextualEmbedding(8, 16, **{dropped: False})
    alpha, beta, gain = embedding(torch.randn(2, 8, 3, 3))
    assert gain is None and (alpha is None) == (dropped == "alpha") and (beta is None) == (dropped == "beta")
    kept = beta if alpha is None else alpha
    assert kept.shape == (2, 16 if dropped == "alpha" else 8, 1, 1)


def test_an_embedding_without_alpha_goes_with_a_binarizer_that_takes_none():
    block = ContextualConvBlock(8, 16, 1, embedding=ContextualEmbedding(8, 16, alpha=False), binarize=Sign())
    assert block(torch.randn(2, 8, 3, 3)).shape == (2, 16, 3, 3)


@pytest.mark.parametrize(("channels", "hidden"), [(4, 1), (12, 1), (20, 2), (28, 3), (32, 4)])
def test_a_context_has_the_channels_share_rounded_down(channels, hidden):
    """Files hold its weights: another rounding could not read them."""
    assert ContextualEmbedding(channels, channels, reduction=8).reduce.out_features == hidden


def test_doubling_is_two_concatenated_blocks():
    """The published networks run two convolutions on one input; ours is one with both halves of the outputs."""
    whole = randomise(ContextualConvBlock(8, 16, 1)).eval()
    halves = []
    for part in (slice(0, 8), slice(8, 16)):
        half = ContextualConvBlock(8, 8, 1).eval()
        state = {
            name: tensor[part] if tensor.dim() and len(tensor) == 16 else tensor
            for name, tensor in whole.state_dict().items()
        }
        half.load_state_dict(state)
        halves.append(half)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(whole(x), torch.cat([half(x) for half in halves], 1))


@given(side=st.integers(1, 9), stride=st.sampled_from([1, 2]), k=st.sampled_from([1, 3]))
def test_shortcut_and_convolution_agree_on_every_size(side, stride, k):
    if k == 1 and stride == 2:
        return
    block = ContextualConvBlock(4, 4, k, stride)
    assert block(torch.randn(2, 4, side, side)).shape[-1] == -(-side // stride)


def test_shortcut_averages_the_pixels_there_are():
    shortcut = make_shortcut(1, 1, 2)
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert shortcut(x).tolist() == [[[[2.0, 3.5], [6.5, 8.0]]]]


def test_impossible_shortcuts_are_named():
    with pytest.raises(ValueError, match="from 8 to 12 channels"):
        make_shortcut(8, 12, 1)
    with pytest.raises(ValueError, match="not 3"):
        make_shortcut(8, 8, 3)


def moved(x, y_step, x_step):
    """Loop definition: the value at (y, x) arrives at (y + y_step, x + x_step), around the border."""
    out = torch.empty_like(x)
    height, width = x.shape[-2:]
    for y in range(height):
        for column in range(width):
            out[..., (y + y_step) % height, (column + x_step) % width] = x[..., y, column]
    return out


@given(height=st.integers(1, 7), width=st.integers(1, 7), quarter=st.integers(1, 3), long=st.booleans())
def test_shifts_move_quarters_down_up_right_left(height, width, quarter, long):
    x = torch.randn(2, 4 * quarter, height, width)
    rows, columns = (height // 2, width // 2) if long else (1, 1)
    steps = [(rows, 0), (-rows, 0), (0, columns), (0, -columns)]
    expected = torch.cat([moved(part, *step) for part, step in zip(x.chunk(4, 1), steps, strict=True)], 1)
    assert torch.equal((LongRangeShift() if long else ShortRangeShift())(x), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # which newer versions call deprecated
def test_shifts_that_were_traced_shift_other_maps_by_their_own_half():
    shift = LongRangeShift()
    traced = torch.jit.trace(shift, torch.randn(1, 4, 4, 4))
    x = torch.randn(2, 8, 6, 9)
    assert torch.equal(traced(x), shift(x))


def test_mlp_block_scales_each_branch_then_sums():
    block = randomise(BinaryMLPBlock(8)).eval()
    x = torch.randn(2, 8, 4, 4)
    bits = block.binarize(x)
    branches = {"none": bits, "short": ShortRangeShift()(bits), "long": LongRangeShift()(bits)}
    out = sum(block.convs[name](branch) for name, branch in branches.items())
    torch.testing.assert_close(block(x), block.act(block.bn(out) + x))


def test_a_branch_several_times_has_weights_of_its_own_each_time():
    block = randomise(BinaryMLPBlock(8, ("short", "short", "short"))).eval()
    x = torch.randn(2, 8, 4, 4)
    shifted = ShortRangeShift()(block.binarize(x))
    convs = [block.convs[name] for name in ("short", "short_2", "short_3")]
    assert len({conv.latent_weight.data_ptr() for conv in convs}) == 3
    out = sum(conv(shifted) for conv in convs)
    torch.testing.assert_close(block(x), block.act(block.bn(out) + x))


def test_mlp_branches_are_checked():
    assert list(BinaryMLPBlock(8, ("long", "none")).convs) == ["none", "long"]
    assert list(BinaryMLPBlock(8, ("long", "none", "long", "long")).convs) == ["none", "long", "long_2", "long_3"]
    with pytest.raises(ValueError, match="none, short, long"):
        BinaryMLPBlock(8, ("far",))
    with pytest.raises(ValueError, match="6 is not a multiple of 4"):
        BinaryMLPBlock(6)


def test_rsign_subtracts_alpha_per_image():
    binarize = RSign(2)
    with torch.no_grad():
        binarize.bias.copy_(torch.tensor([0.5, -0.5]))
    x = torch.zeros(2, 2, 1, 1)
    alpha = torch.tensor([[1.0, -1.0], [0.5, -0.5]])[:, :, None, None]
    assert binarize(x).flatten().tolist() == [1, -1, 1, -1]
    assert binarize(x, alpha).flatten().tolist() == [-1, 1, 1, 1]


def test_rprelu_shifts_before_and_after():
    act = RPReLU(1)
    with torch.no_grad():
        act.bias_in.fill_(1)
        act.bias_out.fill_(-2)
    assert act(torch.tensor([-3.0, 1.0]).view(2, 1, 1, 1)).flatten().tolist() == [-2.5, 0.0]
