"""`metrics.csv`: one row per logging interval and one per epoch; a resumed run goes on without repeating any."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from bcdnet.errors import CheckpointError
from bcdnet.files import lasting_file, naming

COLUMNS = (
    "step",
    "event",
    "epoch",
    "iteration",
    "lr",
    "train_loss",
    "train_top1",
    "val_loss",
    "val_top1",
    "val_top5",
    "seconds",
    "flip_rate",
)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file; a last line that was cut off as it was written is left out.

    A column that an older version did not write is empty.
    """
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    whole = text[: text.rfind("\n") + 1]
    rows = [row for row in csv.DictReader(whole.splitlines()) if None not in row and None not in row.values()]
    return [dict.fromkeys(COLUMNS, "") | row for row in rows]


def rewind(path: Path, finished: set[str], step: str, iteration: int) -> None:
    """Keep the rows of the `finished` steps and those of `step` up to `iteration`, which is where it resumes.

    Raises CheckpointError for a file that is damaged.
    """
    try:
        kept = [
            row
            for row in read_rows(path)
            if row["step"] in finished or (row["step"] == step and int(row["iteration"]) <= iteration)
        ]
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); the run goes on without it: move it away") from None
    with lasting_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


class CsvRows(Logger):
    """A Lightning logger that appends to `metrics.csv` and flushes every row. `step` names the recipe's step."""

    def __init__(self, path: Path, step: str) -> None:
        super().__init__()
        self.path = path
        self._step = step

    @property
    def name(self) -> str:
        """The step's name."""
        return self._step

    @property
    def version(self) -> str:
        """One file holds one run."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append one row; keys are `COLUMNS`, missing ones stay empty. Raises OSError that names the file."""
        row = {"step": self._step, "iteration": step, **metrics}
        new = not self.path.exists()
        with naming(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow({key: _shown(row.get(key, "")) for key in COLUMNS})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the resolved recipe."""


def _shown(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
