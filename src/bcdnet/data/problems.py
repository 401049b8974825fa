"""Many problems, one error: all offenders are named, up to a bound."""

from collections.abc import Sequence

from bcdnet.errors import DataError

SHOWN = 20


def raise_for(problems: Sequence[str]) -> None:
    """Raise one DataError that lists the problems, the first 20 by name; nothing if there are none."""
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError("; ".join(problems[:SHOWN]) + more)
