"""The long-short range binary MLP block and the pointwise block beside it.  N images, C channels, H x W tokens."""

from collections import Counter
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
    and its own scale, so the integer results are scaled first and summed then. An ablation names fewer `branches`, or
    one several times, which keeps the cost: three of "none" read the unshifted map with weights of their own. Raises
    ValueError for an unknown branch, and for shifts of channels that are not a multiple of 4.
    """

    def __init__(
        self, channels: int, branches: Sequence[str] = ("none", "short", "long"), estimator: str = "polynomial"
    ) -> None:
        super().__init__()
        if not branches or set(branches) - set(SHIFTS):
            raise ValueError(f"branches are one or more of {', '.join(SHIFTS)}, not {tuple(branches)}")
        if channels % 4 and set(branches) != {"none"}:
            raise ValueError(f"shifts move quarters of the channels: {channels} is not a multiple of 4")
        self.branches = tuple(sorted(branches, key=list(SHIFTS).index))
        self.binarize = RSign(channels, estimator)
        self.shifts = nn.ModuleDict({name: SHIFTS[name]() for name in dict.fromkeys(self.branches)})
        self.convs = nn.ModuleDict({key: BinaryConv2d(channels, channels, 1) for key in branch_keys(self.branches)})
        self.bn = nn.BatchNorm2d(channels)
        self.act = RPReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> the same shape."""
        bits = self.binarize(x)
        shifted = {name: shift(bits) for name, shift in self.shifts.items()}
        results = [conv(shifted[name]) for name, conv in zip(self.branches, self.convs.values(), strict=True)]
        out: Tensor = self.act(self.bn(sum(results[1:], results[0])) + x)
        return out


def branch_keys(branches: Sequence[str]) -> list[str]:
    """What the branches' weights are called: the branch's name, and from its second time on `<name>_2`, `<name>_3`."""
    seen: Counter[str] = Counter()
    keys = []
    for name in branches:
        seen[name] += 1
        keys.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return keys


class PointwiseBlock(ContextualConvBlock):
    """The plain token-wise block that closes a group of MLP blocks: RPReLU(BN(BiMLP(Sign(A))) + A)."""

    def __init__(self, channels: int, estimator: str = "polynomial") -> None:
        super().__init__(channels, channels, 1, estimator=estimator)
