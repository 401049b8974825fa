"""Settings of a configuration that are none, or beyond all reason: a description may come from anybody's file."""

from collections.abc import Iterable

from bcdnet.errors import RecipeError
from bcdnet.nn.mlp import SHIFTS

MAX_DEPTH = 1000  # blocks and branches
MAX_SIZE = 2**20  # channels, pixels of a side and classes


def check_range(least: int, most: int, **values: Iterable[int]) -> None:
    """RecipeError that names the first of `values` that is not from `least` to `most`."""
    for name, numbers in values.items():
        if wrong := [number for number in numbers if not least <= number <= most]:
            raise RecipeError(f"{name}: from {least} to {most:,}, not {str(wrong[0])[:20]}")


def check_branches(branches: tuple[str, ...]) -> None:
    """RecipeError for none, and for one that no MLP block has."""
    if not branches or set(branches) - set(SHIFTS):
        raise RecipeError(f"mlp_branches: one or more of {', '.join(SHIFTS)}, not {list(branches)}")
