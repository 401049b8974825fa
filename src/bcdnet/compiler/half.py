"""Rounds real-valued weights to what float16 holds, so that the packed file stores them in half of the bytes.

Kernels and matrices alone: they are most of the real numbers, above all a classifier's, and an error of at most a
2048th of an output's largest weight is lost in the sum with all others. Thresholds, scales and what else there is once
for each channel stay float32, since they decide bits.
"""

from __future__ import annotations

import numpy as np

from bcdnet.compiler.ir import Graph
from bcdnet.errors import CompileError

LARGEST = float(np.finfo(np.float16).max)


def round_to_half(graph: Graph) -> None:
    """Round the weights of real-valued convolutions and linear layers, but where float16 is too coarse for them.

    Raises CompileError for a weight beyond float16.
    """
    for node in graph.nodes:
        if node.type not in ("conv2d", "linear"):
            continue
        weight = node.attrs["weight"]
        if np.abs(weight).max() > LARGEST:
            raise CompileError(f"{node.name}: has a weight beyond float16's {LARGEST:.0f}; pack it without half")
        rounded, inputs = weight.astype(np.float16).astype(np.float32), tuple(range(1, weight.ndim))
        # Below 6e-5 float16 has ever fewer digits: weights that a batch norm scales up again stay as they are.
        if (np.abs(rounded - weight).max(inputs) <= np.abs(weight).max(inputs) / 2048).all():
            node.attrs["weight"] = rounded
