"""a * b + c rounded once to float32, in numpy, which has no such operation.

In float64 the product of two float32 is exact (48 of 53 bits). The sum is then rounded twice, to float64 and float32;
the second rounding can only go wrong where the first landed on a tie between two float32, and there the exact error of
the first tells which side is right (rounding to odd; Boldo and Melquiond, "Emulation of FMA and correctly rounded sums:
proved algorithms using rounding to odd", IEEE TC 2008).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
_TIE_MASK = np.int64(0x1FFFFFFF)
_TIE = np.int64(0x10000000)
# Below this a float32 is subnormal, and ties lie at other bits.
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


def fma(a: npt.NDArray[Any], b: npt.NDArray[Any], c: npt.NDArray[Any]) -> Array:
    """float32 arrays that broadcast -> float32(a * b + c), one rounding."""
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = np.broadcast_to(c.astype(np.float64), np.broadcast_shapes(product.shape, c.shape))
    total = np.asarray(product + addend)
    doubtful = ((total.view(np.int64) & _TIE_MASK) == _TIE) | (np.abs(total) < _SMALLEST_NORMAL)
    if doubtful.any():
        product = np.broadcast_to(product, total.shape)
        total[doubtful] = _round_to_odd(product[doubtful], addend[doubtful], total[doubtful])
    return total.astype(np.float32)


def _round_to_odd(p: npt.NDArray[np.float64], c: npt.NDArray[np.float64], s: npt.NDArray[np.float64]) -> Any:
    """The float64 with an odd last bit next to p + c unless s = fl(p + c) is exact; 2Sum gives the exact error."""
    virtual = s - p
    error = (p - (s - virtual)) + (c - virtual)
    bits = s.view(np.int64)
    inexact = np.isfinite(error) & (error != 0) & (bits & 1 == 0)
    outward = (error > 0) == (s > 0)
    return np.where(inexact, np.where(outward, bits + 1, bits - 1), bits).view(np.float64)
