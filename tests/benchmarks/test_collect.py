"""The figure that compares finished runs."""

from pathlib import Path

from collect import curve

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
