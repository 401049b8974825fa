"""The figure that compares finished runs."""

from pathlib import Path

import pytest
from collect import curve, main

ROWS = """step,event,epoch,iteration,val_top1
teacher,epoch,1,10,90.5
step1,train,0.5,5,
step1,epoch,1,10,40.5
step1,epoch,2,20,50.5
step2,epoch,1,10,
step2,epoch,2,20,60.5
"""


def test_curve_is_the_students_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(ROWS)
    assert curve(tmp_path) == [(1.0, 40.5), (2.0, 50.5), (4.0, 60.5)]


def test_two_runs_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One of them once took the other's place in the folder."""
    monkeypatch.setattr("sys.argv", ["collect.py", "out", "a/run", "b/run", "--title", "x"])
    with pytest.raises(SystemExit):
        main()
    assert "several runs are called run: rename their folders" in capsys.readouterr().err
