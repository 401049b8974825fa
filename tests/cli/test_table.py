"""The tables of all verbs lose nothing, however narrow the terminal is."""

from __future__ import annotations

import re
from collections.abc import Callable
from unittest.mock import Mock

import numpy as np
import pytest
from rich.table import Table

from bcdnet.analysis import count
from bcdnet.cli import bench, doctor, predict, summary, verify
from bcdnet.cli.eval import show
from bcdnet.cli.table import print_table
from bcdnet.evaluation import evaluate_logits
from bcdnet.models import build, configure
from bcdnet.runtime import OpProfile
from bcdnet.runtime.cost import Cost
from bcdnet.runtime.prediction import Prediction
from bcdnet.runtime.stream import Outcome

PATH = "a/folder/whose/name/is/long/DSC_0001.jpg"
COUNTS = count(build(configure("bcdnet_b_small", width=0.25, num_classes=10)), (3, 32, 32))


def table_of_summary() -> None:
    print_table(summary._table(COUNTS, layers=False), "bcdnet_b_small on 3x32x32")


def table_of_predict() -> None:
    best = [Prediction("English springer", 0.973, 0), Prediction("parachute", 0.012, 1), Prediction("frog", 0.005, 2)]
    source = Mock()
    source.name = PATH
    predict._print_table([Outcome(source, best)])


def table_of_bench() -> None:
    session = Mock(target="AVX3_DL")
    session.get_inputs.return_value = [Mock(shape=(1, 3, 32, 32))]
    bench._print("model.bcdn, 0.32 MB", session, [bench.Result(1, 4096, 12.34, 56.78, 12_345.0, 172.0, 0.21, 9)])


def table_of_profile() -> None:
    row = OpProfile("stages.4.12.convs.short", "BinaryConv2d", 1e-3, Cost(binary_macs=10**6, float_macs=0, bytes=0))
    bench._print_profile([row], bench.Roof(shuffle=1e10, pairs=0, popcount=0, fp32=1e9), threads=4, batch=20)


def table_of_eval() -> None:
    show(
        evaluate_logits(np.eye(2, dtype=np.float32), np.array([0, 1]), ["English springer", "b"], 1.0), "model on data"
    )


def table_of_verify() -> None:
    figures = {"top1_agreement": 99.0, "top1_packed": 98.76, "top1_torch": 98.7, "differing_bits": 12, "bits": 3456}
    layer = Mock(bits=123_456, differing=789, images=5, first_in=3)
    layer.name = "stages.4.12.convs.short"
    first = {"image": 1, "layer": layer.name, "row": 2, "column": 3, "channel": 4}
    report = Mock(images=1_234, same_top1=1_233, max_difference=0.0123, first=first, layers=[layer], agrees=False)
    report.to_json.return_value = figures
    verify._print(report)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a function prints into a terminal of so many columns, or into a file."""

    def run(function: Callable[[], None], columns: int | None) -> str:
        monkeypatch.setattr("rich.console.Console.is_terminal", columns is not None)
        monkeypatch.setenv("COLUMNS", str(columns or 80))
        function()
        return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)

    return run


@pytest.mark.parametrize(
    "function", [table_of_summary, table_of_bench, table_of_profile, table_of_eval, table_of_verify]
)
def test_labels_and_numbers_are_whole(printed, function: Callable[[], None]) -> None:
    wide = printed(function, None)
    assert "…" not in wide and all(printed(function, columns) == wide for columns in (20, 40, 60))


def test_notes_go_on_between_words(printed) -> None:
    narrow, wide = (printed(lambda: print_table(summary._notes(COUNTS)), columns) for columns in (60, None))
    assert narrow.split() == wide.split() and max(map(len, narrow.splitlines())) <= 60 < max(
        map(len, wide.splitlines())
    )


@pytest.mark.parametrize("columns", [20, 30, 40, 60])
def test_of_predictions_only_the_file_s_name_is_folded(printed, columns: int) -> None:
    lines = printed(table_of_predict, columns).splitlines()
    assert re.search(r"English springer +97\.3 % +parachute +1\.2 % +frog +0\.5 %", lines[1])
    assert "".join(line.split("  ")[0].strip() for line in lines[1:]) == PATH
    assert len(printed(table_of_predict, None).splitlines()) == 2


def test_a_report_of_a_bug_names_what_ships(printed, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"core": {"shipped models": ["reactnet_embedding_imagenette_128", "b"], "remedy": "install it " * 9}}
    monkeypatch.setattr(doctor, "examine", lambda: found)
    lines = printed(lambda: doctor.run(as_json=False), 40).splitlines()
    assert any("│ shipped models │ reactnet_embedding_imagenette_128 │" in line for line in lines)
    assert sum(line.count("install") for line in lines) == 9 and len({len(line) for line in lines[1:]}) == 1


def test_a_wide_terminal_widens_no_table_and_a_title_is_one_line(printed) -> None:
    def function() -> None:
        table = Table("a", "b")
        table.add_row("1", "2")
        print_table(table, f"[{PATH}]")

    assert printed(function, 200) == printed(function, 20) == printed(function, None)
    assert printed(function, 20).splitlines()[0] == f"[{PATH}]"
