"""Which layers run on binary maps, what counts between layers, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcdnet.analysis import count
from bcdnet.errors import BcdnetError
from bcdnet.nn import BinaryConv2d, LongRangeShift, RPReLU, RSign, ShortRangeShift, Sign, set_weight_bits


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: object, *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


@pytest.mark.parametrize(
    "between",
    [
        nn.Identity(),
        ShortRangeShift(),
        LongRangeShift(),
        Apply(lambda x: x.transpose(2, 3).contiguous()),
        Apply(lambda x: torch.cat((x[:, :2], x[:, 2:]), dim=1)),
        Apply(lambda x: x.flatten(2).view(x.shape)),
        Apply(lambda x: torch.concatenate(x.unbind(1)).unsqueeze(0)),
        nn.ChannelShuffle(2),
        Apply(lambda x: F.pixel_shuffle(F.pixel_unshuffle(x.repeat(1, 1, 1, 2)[..., :3], 3), 3)),
        Apply(lambda x: x.half().float().flip(2).narrow(1, 0, 4)),
    ],
    ids=["nothing", "short", "long", "transpose", "slices", "reshape", "unbind", "shuffle", "pixels", "half"],
)
def test_moving_binary_values_about_keeps_them_binary(between: nn.Module) -> None:
    counts = count(nn.Sequential(RSign(4), between, BinaryConv2d(4, 4, 1)), (4, 3, 3))
    assert counts.bops == counts.macs_by_precision["1x1"] == 9 * 16
    assert counts.flops == 0


@pytest.mark.parametrize(
    "between",
    [
        RPReLU(4),
        nn.AvgPool2d(1),
        Apply(lambda x: x + x),
        Apply(lambda x: x.add_(1)),
        Apply(lambda x: torch.cat((x[:, :2], x[:, 2:] * 2), 1)),
    ],
    ids=["rprelu", "pool", "sum", "in place", "half"],
)
def test_computing_on_binary_values_makes_them_real(between: nn.Module) -> None:
    counts = count(nn.Sequential(Sign(), between, BinaryConv2d(4, 4, 1)), (4, 3, 3))
    assert counts.bops == 0
    assert counts.macs_by_precision["1x32"] == counts.flops == 9 * 16


def test_precisions_name_weights_before_activations() -> None:
    model = nn.Sequential(RSign(4), BinaryConv2d(4, 4, 1), nn.Conv2d(4, 2, 1, bias=False), Sign(), nn.Conv2d(2, 2, 1))
    assert count(model, (4, 1, 1)).macs_by_precision == {"1x1": 16, "1x32": 0, "32x1": 4, "32x32": 8}
    set_weight_bits(model, 32)
    assert count(model, (4, 1, 1)).macs_by_precision == {"1x1": 0, "1x32": 0, "32x1": 20, "32x32": 8}


def test_one_layer_on_binary_and_on_real_maps() -> None:
    model = Apply(lambda x, conv, sign: conv(sign(x)) + conv(x), BinaryConv2d(4, 4, 1), RSign(4))
    counts = count(model, (4, 2, 2))
    assert counts.macs_by_precision == {"1x1": 64, "1x32": 64, "32x1": 0, "32x32": 0}
    assert counts.binary_params == 16
    assert counts.elementwise == {"arithmetic": 16, "sign": 16}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x + x, {"arithmetic": 72}),
        (lambda x: 1 - x, {"arithmetic": 72}),
        (lambda x: sum([x, x]), {"arithmetic": 72}),
        (lambda x: x.mul_(x) / 2, {"arithmetic": 144}),
        (lambda x: F.relu(x).clamp(max=3), {"activation": 144}),
        (lambda x: x.mean((2, 3)), {"pooling": 72}),
        (lambda x: F.avg_pool2d(x, 2), {"pooling": 72}),
        (lambda x: F.max_pool2d(x, kernel_size=(3, 3), stride=1), {"pooling": 2 * 16 * 9}),
        (lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), {"pooling": 72}),
        (lambda x: torch.mean(input=x, dim=(2, 3)), {"pooling": 72}),
        (lambda x: torch.cat(tensors=[x, x], dim=1), {}),
        (lambda x: torch.flatten(input=x, start_dim=1), {}),
        (lambda x: F.elu(x) + F.softmax(x, 1), {"activation": 144, "arithmetic": 72}),
        (lambda x: F.group_norm(x, 2), {"norm": 4 * 72}),
        (lambda x: x.permute(0, 2, 3, 1), {}),
        (lambda x: F.glu(F.log_softmax(x, 1), 1), {"activation": 72 + 36}),
        (lambda x: F.rms_norm(x, (6,)) ** 2, {"norm": 4 * 72, "arithmetic": 72}),
        (lambda x: x.std((2, 3)), {"pooling": 72}),
    ],
)
def test_arithmetic_between_layers(function: object, expected: dict[str, int]) -> None:
    assert count(Apply(function), (2, 6, 6)).elementwise == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ x,
        lambda x: torch.matmul(x, x),
        lambda x: F.linear(x, torch.ones(2, 6, device=x.device)),
        lambda x: F.conv2d(x, torch.ones(2, 2, 1, 1, device=x.device)),
        lambda x: torch.einsum("ncij,ncjk->ncik", x, x),
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: torch.tensordot(x, x, 1),
        lambda x: torch.linalg.multi_dot((x[0, 0], x[0, 0], x[0, 0])),
        lambda x: torch.convolution(x, x, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1),
    ],
)
def test_multiplications_of_unknown_weights_are_refused(function: object) -> None:
    with pytest.raises(BcdnetError, match=r"^1\.0: cannot count"):
        count(nn.Sequential(nn.Identity(), nn.Sequential(Apply(function))), (2, 6, 6))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), Apply(lambda x: F.max_pool2d(x, 2))])
def test_the_largest_of_some_signs_is_a_sign(pool: nn.Module) -> None:
    found = count(nn.Sequential(Sign(), pool, BinaryConv2d(8, 16, 3, padding=1)), (8, 8, 8))
    assert (found.bops, found.flops) == (16 * 8 * 9 * 16, 0)
    assert sum(found.elementwise.values()) >= 8 * 16 * 4


def test_unknown_layers_with_weights_are_refused() -> None:
    with pytest.raises(BcdnetError, match="the model: cannot count conv_transpose2d"):
        count(nn.ConvTranspose2d(2, 2, 2), (2, 6, 6))
    with pytest.raises(BcdnetError, match=r"parts\.0: cannot count lstm_cell"):
        count(Apply(lambda x, cell: cell(x[0, 0])[0], nn.LSTMCell(6, 6)), (2, 6, 6))


def test_layers_called_by_keyword() -> None:
    assert count(Apply(lambda x, conv: conv(input=x), nn.Conv2d(2, 3, 1, bias=False)), (2, 4, 4)).flops == 16 * 6


def test_a_compiled_model_is_the_one_within() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    assert count(torch.compile(model), (3, 4, 4)).totals() == count(model, (3, 4, 4)).totals()


def test_models_of_half_precision() -> None:
    model = nn.Sequential(RSign(4), BinaryConv2d(4, 4, 1)).to(torch.bfloat16)
    assert count(model, (4, 2, 2)).bops == 64
