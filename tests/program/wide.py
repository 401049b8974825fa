"""A program of one value in, and that times each of up to 65536 weights out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bcdnet.program.schema import Buffer, GlobalAvgPool, Linear, Port, Program, Transpose

HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)
HALVES = HALVES[np.isfinite(HALVES)].astype(np.float32)  # all that float16 can hold


def wide(weights: npt.NDArray[np.float32]) -> Program:
    """`weights`: [O]; an image [1, 1, 1] -> logits [O]."""
    return Program(
        buffers=(
            Buffer("image", (1, 1, 1)),
            Buffer("map", (1, 1, 1)),
            Buffer("vector", (1,)),
            Buffer("vector", weights.shape),
        ),
        ops=(
            Transpose(name="map", input=0, output=1),
            GlobalAvgPool(name="pool", input=1, output=2),
            Linear(name="head", input=2, output=3, weight="weights", bias=None),
        ),
        inputs=(Port("image", 0),),
        outputs=(Port("logits", 3),),
        tensors={"weights": weights[:, None]},
    )
