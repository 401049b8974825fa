"""The figures and the example in docs/counting.md are what the code gives."""

import re
from pathlib import Path

import pytest
import timm
import torch

import bcdnet  # noqa: F401 (registers the models with timm)
from bcdnet.analysis import count

TEXT = (Path(__file__).parents[2] / "docs" / "counting.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]


def rows(columns: int) -> list[list[str]]:
    """The rows of the table of models that has so many columns."""
    return [row for row in ROWS if len(row) == columns]


@pytest.mark.parametrize("row", rows(5) + rows(8), ids=lambda row: f"{row[0].strip('`')}-{len(row)}")
def test_tables(row: list[str]) -> None:
    with torch.device("meta"):
        counts = count(timm.create_model(row[0].strip("`")))
    if len(row) == 5:
        figures = [counts.bops / 1e9, counts.flops / 1e8, counts.ops / 1e8]
        assert row[1:4] == [f"{figure:.2f}" for figure in figures]
        return
    work, pooling = counts.flops_elementwise, counts.elementwise["pooling"]
    without = counts.flops + work - pooling
    figures = [counts.flops, counts.flops + work, pooling, without, without + counts.bops / 64]
    assert [row[index] for index in (1, 2, 3, 4, 6)] == [f"{figure / 1e8:.3f}" for figure in figures]


def test_example(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "docs/counting.md", "exec"), {"__name__": "docs"})
    assert capsys.readouterr().out.strip() == code.strip().rpartition("# ")[2]
