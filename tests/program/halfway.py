"""A program whose multiply-adds end beside a half: rounded twice, they go wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bcdnet.program.schema import Buffer, Conv2d, Epilogue, GlobalAvgPool, Port, Program

ROWS = 64
IMAGE = np.array([1, 1 - 3 * 2.0**-23, 2.0**-30 * (1 + 2.0**-23)], np.float32).reshape(1, 3, 1, 1)


def halfway() -> tuple[Program, npt.NDArray[np.float32]]:
    """An image [3, 1, 1], to be `IMAGE` -> 3 ROWS sums, and what they are if rounded to float64 first.

    The sums are those of a convolution, a normal and a subnormal number, and of the affine map after it.
    """
    rows = np.arange(ROWS)
    even = (1 - 2 * (rows % 2)) * (2.0**24 + 2 * rows)  # whose last bit is worth 2
    small = 2.0**-127 + rows * 2.0**-149
    nothing, one = np.zeros(ROWS), np.ones(ROWS)
    # Times the image's: less than 1, and than 2^-150, by less than a float64 of the sums' size can tell.
    above, below = one + 3 * 2.0**-23, 2.0**-120 * (one - 2.0**-23)
    weight = np.concatenate([
        np.stack([even, above, nothing], 1),
        np.stack([small, nothing, below], 1),
        np.stack([above, nothing, nothing], 1),
    ])  # fmt: skip
    mul = np.concatenate([one, one, np.full(ROWS, IMAGE[0, 1, 0, 0])])
    add = np.concatenate([nothing, nothing, even])
    program = Program(
        buffers=(Buffer("image", (3, 1, 1)), Buffer("map", (1, 1, 3 * ROWS)), Buffer("vector", (3 * ROWS,))),
        ops=(
            Conv2d(
                name="conv", input=0, weight="weight", bias=None, stride=(1, 1), padding=(0, 0), groups=1,
                epilogue=Epilogue(mul="mul", add="add", map=1),
            ),
            GlobalAvgPool(name="pool", input=1, output=2),
        ),
        inputs=(Port("image", 0),),
        outputs=(Port("logits", 2),),
        tensors={
            "weight": weight.astype(np.float32)[:, None, None],
            "mul": mul.astype(np.float32),
            "add": add.astype(np.float32),
        },
    )  # fmt: skip
    twice = np.float32(weight[:, 0])
    for i in (1, 2):
        twice = np.float32(weight[:, i] * np.float64(IMAGE[0, i, 0, 0]) + twice)
    return program, np.float32(np.float64(twice) * mul + add)
