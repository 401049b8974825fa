"""How every verb prints a table: no terminal is too narrow for what stands in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bcdnet.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

NARROW = 12  # a column that folds is never narrower
UNLIMITED = 100_000


def print_table(table: Table, title: str = "") -> None:
    """Print a table of which at most one column gives way in a narrow terminal, all others being `no_wrap`.

    That one breaks anywhere if its overflow is "fold", as a file's name may, and between words if not. Where this is
    not enough the lines are longer than the terminal's, which goes on with them in its next line; rich would cut them.
    """
    from rich.console import Console
    from rich.measure import measure_renderables
    from rich.text import Text

    console = Console()
    unlimited = console.options.update(width=UNLIMITED)
    width = console.measure(table, options=unlimited).maximum
    if console.is_terminal:  # a file or a pipe has no width that lines would have to be folded to
        for column in table.columns:
            if not column.no_wrap:
                cells = measure_renderables(console, unlimited, [column.header, *column.cells, column.footer])
                least = min(cells.minimum, NARROW) if column.overflow == "fold" else cells.minimum
                width -= cells.maximum - least
        width = max(width, console.width)
    console.width = width
    if title:
        console.print(Text(printable(title), style="table.title"), soft_wrap=True)
    console.print(table)
