"""Binarisation error: what each branch of the MLP blocks loses because it reads signs instead of real numbers.

N images, C channels, H x W positions.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bcdnet.analysis.titles import fill
from bcdnet.errors import BcdnetError
from bcdnet.evaluation import check_logits
from bcdnet.figures import COLOURS, blank_figure, save_figure, tidy
from bcdnet.nn import BinaryMLPBlock


@dataclass(frozen=True)
class BranchError:
    """`error` of one branch of one MLP block; `block` is the block's path in the network, `branch` its name there."""

    block: str
    branch: str
    error: float


class _Sums:
    """<real, real>, <real, binary>, <binary, binary> of one branch's outputs, over all images."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)

    def add(self, real: Tensor, binary: Tensor) -> None:
        real, binary = real.cpu().double(), binary.cpu().double()  # not every device has float64
        self.sums += torch.stack([(a * b).sum() for a, b in ((real, real), (real, binary), (binary, binary))])

    def error(self) -> float:
        real, both, binary = self.sums.tolist()
        return 1 - both**2 / (real * binary) if real and binary else 1.0


@torch.no_grad()
def branch_errors(model: nn.Module, batches: Iterable[Tensor]) -> list[BranchError]:
    """The binarisation error of every branch of every MLP block, over real images, in the order of the blocks.

    A branch computes y_b = conv(shift(sign(A + b))), with its weights as they are (binary after step 2). Read with the
    real map it would be y_r = conv(shift(A + b)). The error is min over c of |y_r - c y_b|^2 / |y_r|^2, that is
    1 - cos^2 of the angle between them, summed over images, channels and positions: the share of the real output's
    energy that no scaling of the binary one gives, since the scale is what batch norm sets anyway. 0: nothing is lost;
    1: the two have nothing in common. A normal A at independent positions gives 1 - 2/pi = 0.36.

    `batches`: normalised images [N, C, H, W] on the model's device. BcdnetError for a network without MLP blocks, and
    for logits that are not finite.
    """
    blocks = {path: module for path, module in model.named_modules() if isinstance(module, BinaryMLPBlock)}
    if not blocks:
        raise BcdnetError("the network has no MLP blocks, whose branches could be compared")
    sums = {(path, key): _Sums() for path, block in blocks.items() for key in block.convs}

    def record(path: str, block: BinaryMLPBlock, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        real = x + block.binarize.bias.view(1, -1, 1, 1)
        bits = block.binarize(x)
        for branch, (key, conv) in zip(block.branches, block.convs.items(), strict=True):
            shift = block.shifts[branch]
            sums[path, key].add(conv(shift(real)), conv(shift(bits)))

    with ExitStack() as hooks:
        for path, block in blocks.items():
            hooks.enter_context(block.register_forward_pre_hook(partial(record, path)))
        for images in batches:
            check_logits(model(images).cpu().numpy())
    return [BranchError(path, key, found.error()) for (path, key), found in sums.items()]


def to_json(errors: list[BranchError]) -> dict[str, Any]:
    """{"branches": {branch: [error of block 1, 2, ...]}, "blocks": [path, ...], "mean": {branch: mean}}."""
    by_branch: dict[str, list[float]] = {}
    for row in errors:
        by_branch.setdefault(row.branch, []).append(row.error)
    return {
        "blocks": list(dict.fromkeys(row.block for row in errors)),
        "branches": by_branch,
        "mean": {branch: sum(values) / len(values) for branch, values in by_branch.items()},
    }


def draw(errors: list[BranchError], path: Path, title: str) -> None:
    """Bars by block, one colour for each branch."""
    names = {"none": "no shift", "short": "short range", "long": "long range"}
    by_branch = to_json(errors)["branches"]
    figure = blank_figure(7.5, 3.6)
    axes = tidy(figure.subplots())
    width = 0.8 / len(by_branch)
    for place, (branch, values) in enumerate(by_branch.items()):
        base, _, copy = branch.partition("_")
        at = [block + (place - (len(by_branch) - 1) / 2) * width for block in range(1, len(values) + 1)]
        axes.bar(at, values, 0.92 * width, color=COLOURS[place % len(COLOURS)], label=f"{names[base]} {copy}".strip())
    axes.set(xlabel="MLP block", ylabel="binarisation error", title=fill(title, 6.5, 12))
    axes.set_xticks(range(1, len(next(iter(by_branch.values()))) + 1))
    axes.legend(frameon=False, ncols=3, loc="upper left")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.1)
    save_figure(figure, path)
