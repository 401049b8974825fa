"""The rows of metrics.csv across a resume."""

from pathlib import Path

import pytest

from bcdnet.errors import CheckpointError
from bcdnet.training.log import COLUMNS, CsvRows, read_rows, rewind


def write(path: Path) -> None:
    one, two = CsvRows(path, "step1"), CsvRows(path, "step2")
    for iteration in (5, 10):
        one.log_metrics({"event": "train", "train_loss": 0.123456789}, step=iteration)
    for iteration in (5, 10, 15):
        two.log_metrics({"event": "train", "train_loss": 1.0, "unknown": 3}, step=iteration)


def test_rows_in_the_order_of_writing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path)
    assert path.read_text().splitlines()[:2] == [",".join(COLUMNS), "step1,train,,5,,0.123457,,,,,,"]
    assert [(row["step"], row["iteration"]) for row in read_rows(path)] == [
        ("step1", "5"),
        ("step1", "10"),
        ("step2", "5"),
        ("step2", "10"),
        ("step2", "15"),
    ]


def test_rewinding_drops_what_will_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path)
    rewind(path, {"step1"}, "step2", 10)
    assert [(row["step"], row["iteration"]) for row in read_rows(path)][2:] == [("step2", "5"), ("step2", "10")]
    rewind(path, set(), "step1", 5)
    assert [(row["step"], row["iteration"]) for row in read_rows(path)] == [("step1", "5")]
    CsvRows(path, "step1").log_metrics({"event": "train"}, step=10)
    assert len(read_rows(path)) == 2


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path)
    text = path.read_text()
    path.write_text(text + "step2,train,1.5,2")
    assert len(read_rows(path)) == 5
    rewind(path, {"step1"}, "step2", 15)
    assert path.read_text() == text
    assert read_rows(tmp_path / "missing.csv") == []


@pytest.mark.parametrize("line", [b"step2,train,1.5,x,1,1,1,,,,1,\n", b"\xff,train,1.5,2,1,1,1,,,,1,\n"])
def test_a_damaged_file_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.csv"
    write(path)
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(CheckpointError, match=r"metrics\.csv is damaged .*the run goes on without it: move it away"):
        rewind(path, {"step1"}, "step2", 15)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_full_disk_is_named() -> None:
    with pytest.raises(OSError, match="No space") as caught:
        CsvRows(Path("/dev/full"), "step1").log_metrics({"event": "train"}, step=10)
    assert caught.value.filename == "/dev/full"
