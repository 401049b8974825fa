"""The shell that every network shares: stem, stages, global average pooling, one head or two; timm's interface."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from torch import Tensor, nn

from bcdnet.errors import RecipeError
from bcdnet.models.limits import MAX_SIZE, check_range
from bcdnet.nn import ESTIMATORS, ContextualEmbedding, lacks_statistics, recomputed, undecayed

Embedding = Literal["none", "both", "alpha", "beta", "full"]
MAX_WIDTH = 16  # four times what anybody trained; beyond, a slip of the keyboard asks for terabytes


@dataclass(frozen=True)
class NetworkConfig:
    """What every family's configuration holds. Frozen; RecipeError names the field that is out of range.

    `distilled` gives the network two heads, `fc` for the labels and `fc_dist` for the teacher.
    """

    num_classes: int = 1000
    in_chans: int = 3
    distilled: bool = False
    estimator: str = "polynomial"

    def __post_init__(self) -> None:
        check_range(0, MAX_SIZE, num_classes=[self.num_classes])
        check_range(1, MAX_SIZE, in_chans=[self.in_chans])
        if self.estimator not in ESTIMATORS:
            raise RecipeError(f"unknown estimator '{self.estimator}': choose one of {', '.join(ESTIMATORS)}")


class DualHead(nn.Module):
    """Two linear classifiers of one feature vector (Touvron et al., DeiT): labels and teacher."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, num_classes)
        self.fc_dist = nn.Linear(in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C] -> the mean of the two heads' logits [N, K]; deployed, that is one linear layer."""
        mean: Tensor = (self.fc(x) + self.fc_dist(x)) / 2
        return mean


class Network(nn.Module):
    """stem -> stages -> global average pooling -> head, for a configuration of any family.

    In eval mode the result is [N, K] logits. In train mode, after `set_distilled_training(True)`, a network with two
    heads returns the pair (fc, fc_dist) instead.
    """

    def __init__(
        self, config: NetworkConfig, stem: nn.Sequential, stages: list[nn.Sequential], channels: list[tuple[int, int]]
    ) -> None:
        """`channels`: for each stage, the channels of its result and its reduction of the input's side."""
        super().__init__()
        self.config = config
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.num_features = self.head_hidden_size = channels[-1][0]
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": f"stages.{i}"}
            for i, (width, reduction) in enumerate(channels)
        ]
        self.distilled_training = False
        self.grad_checkpointing = False
        self.pretrained_cfg: dict[str, Any] = {}
        self.reset_classifier(config.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """x: [N, in_chans, H, W] -> the last map [N, C, H', W']."""
        x = self.stem(x)
        for stage in self.stages:
            x = self._forward_stage(stage, x)
        return x

    def _forward_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing and self.training:
            for block in stage.children():
                x = recomputed(block, x)
            return x
        x = stage(x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps at the ends of stages, as timm's networks return them: (the last map, those asked for).

        `indices`: all (None), the last n, or which, from 0. `stop_early` goes no further than the last of them, whose
        map is then the first of the pair; `intermediates_only` returns the list alone. `norm` changes nothing: no norm
        follows the last stage. ValueError for another `output_fmt` or number of maps, IndexError for no such stage.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is 'NCHW', not '{output_fmt}'")
        stages = range(len(self.stages))
        taken: Sequence[int] = stages
        if isinstance(indices, int):
            if not 1 <= indices <= len(stages):
                raise ValueError(f"this network has 1 to {len(stages)} maps to return, not {indices}")
            taken = stages[-indices:]
        elif indices is not None:
            taken = [stages[index] for index in indices]  # which may count from the end
        x = self.stem(x)
        maps = []
        for index, stage in enumerate(self.stages):
            if stop_early and index > max(taken, default=-1):
                break
            x = self._forward_stage(stage, x)
            if index in taken:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """x: [N, C, H', W'] -> logits [N, K] (or the pair), or [N, C] features with `pre_logits`."""
        x = x.mean(dim=(2, 3))
        if pre_logits:
            return x
        if self.training and self.distilled_training and isinstance(self.head, DualHead):
            return self.head.fc(x), self.head.fc_dist(x)
        x = self.head(x)
        return x

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.forward_head(self.forward_features(x))

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's; a UserWarning for a network from a packed file, which train mode makes another one."""
        if mode and lacks_statistics(self):
            warnings.warn(
                "this network comes from a packed file, without batch norm's statistics, and in train mode computes "
                "something else: call bcdnet.nn.restore_statistics(network, batches of images) first",
                stacklevel=2,
            )
        return super().train(mode)

    def set_distilled_training(self, enable: bool = True) -> None:
        """In train mode return the two heads' logits apart; no effect on a network with one head."""
        self.distilled_training = enable

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """In train mode keep only the blocks' inputs for the backward pass: less memory, one more forward pass."""
        self.grad_checkpointing = enable

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @property
    def in_chans(self) -> int:
        return self.config.in_chans

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head, or for 0 classes none, so that [N, C] comes out. ValueError for a pooling other than "avg"."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool is 'avg', not '{global_pool}'")
        self.config = replace(self.config, num_classes=num_classes)
        head: nn.Module
        if num_classes == 0:
            head = nn.Identity()
        elif self.config.distilled:
            head = DualHead(self.num_features, num_classes)
        else:
            head = nn.Linear(self.num_features, num_classes)
        like = next(self.parameters())
        self.head = head.to(like.device, like.dtype).train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups by depth, for layer-wise learning rates."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """What timm's optimisers shall not decay, see `undecayed`."""
        return undecayed(self)


def make_embedding(kind: Embedding, in_channels: int, out_channels: int, reduction: int) -> ContextualEmbedding | None:
    """One block's embedding: none, its alpha or beta half, both as in the paper, or full, which goes beyond it."""
    if kind == "none":
        return None
    return ContextualEmbedding(
        in_channels,
        out_channels,
        reduction,
        alpha=kind != "beta",
        beta=kind != "alpha",
        gain=kind == "full",
        diagonal=kind == "full",
    )


def scale_width(channels: int, width: float) -> int:
    """`channels` times the width multiplier, to the nearest multiple of 4 (the shifts move quarters), at least 4."""
    if not 0 < width <= MAX_WIDTH:
        raise RecipeError(f"width multiplies channels: it is above 0 and at most {MAX_WIDTH}, not {width}")
    return max(4, round(channels * width / 4) * 4)
