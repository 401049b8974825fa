"""The long-short range binary MLP block and the pointwise block beside it.  N images, C channels, H x W tokens."""

from collections.abc import Sequence

from torch import Tensor, nn

from bcdnet.nn.activation import RPReLU, RSign
from bcdnet.nn.binary import BinaryConv2d
from bcdnet.nn.conv import ContextualConvBlock
from bcdnet.nn.shift import LongRangeShift, ShortRangeShift

# In the order in which the branches are summed.
SHIFTS: dict[str, type[nn.Module]] = {"none": nn.Identity, "short": ShortRangeShift, "long": LongRangeShift}


class BinaryMLPBlock(nn.Module):
    """Long-short range binary MLP: RPReLU(BN(sum over branches of BiMLP_b(shift_b(Sign(A)))) + A).

    The branches read one binarised map, unshifted, shifted by one token and by half the map; each has its own weights
    and its own scale, so the integer results are scaled first and summed then. `branches` may name fewer of them
    (ablation).
    """

    def __init__(
        self, channels: int, branches: Sequence[str] = ("none", "short", "long"), estimator: str = "polynomial"
    ) -> None:
        super().__init__()
        if not branches or set(branches) - set(SHIFTS) or len(set(branches)) != len(branches):
            raise ValueError(f"branches are some of {', '.join(SHIFTS)}, each once, not {tuple(branches)}")
        if channels % 4 and set(branches) != {"none"}:
            raise ValueError(f"shifts move quarters of the channels: {channels} is not a multiple of 4")
        names = [name for name in SHIFTS if name in branches]
        self.binarize = RSign(channels, estimator)
        self.shifts = nn.ModuleDict({name: SHIFTS[name]() for name in names})
        self.convs = nn.ModuleDict({name: BinaryConv2d(channels, channels, 1) for name in names})
        self.bn = nn.BatchNorm2d(channels)
        self.act = RPReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> the same shape."""
        bits = self.binarize(x)
        results = [conv(shift(bits)) for shift, conv in zip(self.shifts.values(), self.convs.values(), strict=True)]
        out = results[0]
        for result in results[1:]:
            out = out + result
        out = self.act(self.bn(out) + x)
        return out  # type: ignore[no-any-return]


class PointwiseBlock(ContextualConvBlock):
    """The plain token-wise block that closes a group of MLP blocks: RPReLU(BN(BiMLP(Sign(A))) + A)."""

    def __init__(self, channels: int, estimator: str = "polynomial") -> None:
        super().__init__(channels, channels, 1, estimator=estimator)
