"""Class activation maps of packed programs that end in global average pooling and one linear layer.

For such a network (Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016) the map of class k,
    M_k[y, x] = sum_c W[k, c] * A[y, x, c],
splits the logit over the positions without remainder: mean(M_k) = logit_k - bias_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bcdnet.program.schema import GlobalAvgPool, Linear, Op, Program
from bcdnet.runtime.cost import writes

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Head:
    """The last map's buffer and the linear layer behind its mean: weight float32 [K, C], bias float32 [K]."""

    map: int
    weight: Array
    bias: Array

    def activation(self, features: Array, classes: Sequence[int]) -> Array:
        """The last map of one image float32 [h, w, C] -> float32 [len(classes), h, w]."""
        maps: Array = np.einsum("hwc,kc->khw", features, self.weight[list(classes)])
        return maps


def find_head(program: Program) -> Head | str:
    """The head of the first output, or one sentence that says why there is no exact map."""
    port = program.outputs[0]
    linear = _writer(program, port.buffer)
    if not isinstance(linear, Linear):
        return _refusal(f"output {port.name!r} comes from {_named(linear)}, not from a linear layer")
    pool = _writer(program, linear.input)
    if not isinstance(pool, GlobalAvgPool):
        return _refusal(f"the linear layer {linear.name!r} reads {_named(pool)}, not a global average pool")
    weight = program.tensors[linear.weight]
    bias = np.zeros(len(weight), np.float32) if linear.bias is None else program.tensors[linear.bias]
    return Head(pool.input, weight, bias)


def _refusal(why: str) -> str:
    return f"class activation maps need a network that ends in global average pooling and one linear layer: {why}"


def _named(op: Op | None) -> str:
    return "the input" if op is None else f"{op.type} {op.name!r}"


def _writer(program: Program, buffer: int) -> Op | None:
    """The op that writes the buffer; None for the input."""
    return next((op for op in program.ops if buffer in writes(op)), None)
