"""The emulated fused multiply-add against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bcdnet.program.fma import fma

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60)


def _nearest(exact: Fraction, result: np.float32) -> bool:
    """Whether no other float32 is nearer, and on a tie the one with an even last bit was taken."""
    distance = abs(Fraction(float(result)) - exact)
    for side in (np.float32(-np.inf), np.float32(np.inf)):
        other = np.nextafter(result, side)
        away = abs(Fraction(float(other)) - exact)
        if away < distance or (away == distance and result.view(np.uint32) & 1):
            return False
    return True


@given(FLOATS, FLOATS, FLOATS)
def test_rounds_once(a, b, c) -> None:
    result = fma(*(np.array([value], np.float32) for value in (a, b, c)))
    assert _nearest(Fraction(a) * Fraction(b) + Fraction(c), result[0])


def test_a_tie_in_float64() -> None:
    """1 + 2^-24 + 2^-60: rounded to float64 first it is a tie, and then goes down to 1; the true result is above it."""
    one = np.float32(1)
    a, b, c = np.array([2.0**-30], np.float32), np.array([2.0**-30], np.float32), np.array([1 + 2.0**-23], np.float32)
    assert fma(a, b, c)[0] == c[0]
    half = np.array([2.0**-24 * (1 + 2.0**-23)], np.float32)
    tie = fma(half, np.array([1 + 2.0**-23], np.float32), np.array([one]))
    exact = Fraction(float(half[0])) * Fraction(float(np.float32(1 + 2.0**-23))) + 1
    assert _nearest(exact, tie[0]) and tie[0] > 1


def test_ties_at_random() -> None:
    """Products just beside a tie between two float32, where rounding twice would go wrong."""
    random = np.random.default_rng(0)
    for _ in range(300):
        c = np.float32(1 + random.integers(0, 2**23) * 2.0**-23)
        a = np.float32(2.0**-12 * (1 + random.integers(-3, 4) * 2.0**-23))
        b = np.float32(2.0**-12 * (1 + random.integers(-3, 4) * 2.0**-23))
        result = fma(np.array([a]), np.array([b]), np.array([c]))[0]
        assert _nearest(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)), result)


def test_a_tie_between_numbers_below_the_smallest_normal_one() -> None:
    """Where float32 has fewer bits, its ties lie elsewhere: this product is just less than half of the last one."""
    a, b = (np.array([2.0**-75 * (1 + sign * 2.0**-23)], np.float32) for sign in (1, -1))
    for c in (2.0**-127 + 2.0**-149, -(2.0**-127)):
        exact = Fraction(float(a[0])) * Fraction(float(b[0])) + Fraction(c)
        assert _nearest(exact, fma(a, b, np.array([c], np.float32))[0])
