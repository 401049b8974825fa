"""Ray Data runs the same predictor: every image once, whatever dies meanwhile; Parquet, shards and images alike."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="needs pyarrow")
import pyarrow as pa
import pyarrow.parquet as pq

from bcdnet.errors import DataError
from bcdnet.runtime import InferenceSession
from bcdnet.runtime.distributed import Predictor, predict_dataset


def encoded(seed: int, side: int = 20) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def predictor(packed_file: Path) -> Predictor:
    return Predictor(packed_file.read_bytes(), topk=2, threads=1, max_pixels=10_000, folder=os.getcwd())


def test_a_table_keeps_its_columns_and_gains_predictions(packed_file, predictor) -> None:
    images = [
        {"bytes": encoded(0), "path": "a.png"},
        {"bytes": b"x", "path": "b.png"},
        {"bytes": encoded(2), "path": None},
    ]
    result = predictor(pa.table({"image": images, "label": [3, 4, 5], "id": [7, 8, 9]})).to_pylist()
    first, second = InferenceSession(packed_file).predict(
        [Image.open(io.BytesIO(encoded(seed))) for seed in (0, 2)], topk=2
    )
    assert [row["given_label"] for row in result] == [3, 4, 5] and [row["id"] for row in result] == [7, 8, 9]
    assert [row["path"] for row in result] == ["a.png", "b.png", None]
    for row, expected in ((result[0], first), (result[2], second)):
        assert (row["label"], row["index"]) == (expected[0].label, expected[0].index) and row["error"] is None
        assert row["labels"] == [best.label for best in expected]
        assert row["probabilities"] == pytest.approx([best.probability for best in expected])
    assert result[1]["error"] == "b.png: is not an image, or is damaged" and result[1]["label"] is None


def test_predictions_of_predictions_have_columns_of_one_name_each(predictor, tmp_path) -> None:
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    table = pa.table({"path": [str(tmp_path / "a.png")], "label": ["true"], "given_label": ["first"]})
    for _ in range(3):
        table = predictor(table)
    assert len(set(table.column_names)) == len(table.column_names)
    pq.write_table(table, tmp_path / "t.parquet")
    (row,) = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert row["given_label"] == "first" and row["given_given_label"] == "true" and row["error"] is None


def test_rows_without_an_image_and_tables_without_a_column(predictor) -> None:
    (row,) = predictor(pa.table({"bytes": pa.array([None], pa.binary())})).to_pylist()
    assert row["error"] == "image: no image in this row"
    (row,) = predictor(pa.table({"path": pa.array([None], pa.string())})).to_pylist()
    assert row["error"] == "image: no image in this row"
    first, second = predictor(pa.table({"jpg": [None, encoded(1)], "png": [encoded(0), None]})).to_pylist()
    assert first["error"] is None is second["error"] and first["probability"] != second["probability"]
    (row,) = predictor(pa.table({"__key__": ["k"], "png": [encoded(0, 200)]})).to_pylist()
    assert "k: has 200 x 200 pixels" in row["error"]
    with pytest.raises(DataError, match="no column of encoded images or paths among text"):
        predictor(pa.table({"text": ["x"]}))


def test_relative_paths_start_where_the_driver_is(packed_file, tmp_path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "a.png").write_bytes(encoded(0))
    monkeypatch.chdir(tmp_path / "here")  # as a cluster's worker, somewhere else
    predictor = Predictor(packed_file.read_bytes(), topk=1, threads=1, max_pixels=10_000, folder=str(tmp_path))
    rows = predictor(pa.table({"path": ["a.png", str(tmp_path / "a.png")]})).to_pylist()
    assert [row["error"] for row in rows] == [None, None] and rows[0]["path"] == "a.png"


def workers() -> set[int]:
    """Processes of Ray's that run a Predictor."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and b"Predictor" in title:
            found.add(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_image_once_though_a_worker_is_killed(packed_file, tmp_path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    for seed in range(300):
        (tmp_path / f"{seed:04d}.png").write_bytes(encoded(seed, 700 if seed < 10 else 300))
    (tmp_path / "damaged.png").write_bytes(b"x")
    killed: dict[int, int] = {}
    seen: set[int] = set()

    def kill(rows: int, _problems: int) -> None:
        running = workers()
        seen.update(running)
        if not killed and rows >= 20:
            victim = min(running)
            os.kill(victim, signal.SIGKILL)
            killed[victim] = rows

    out = tmp_path.with_suffix(".parquet")
    rows, problems = predict_dataset(
        packed_file, [str(tmp_path)], out, batch=4, workers=2, max_pixels=10**6, advance=kill
    )
    assert killed and next(iter(killed.values())) < 200, killed
    assert len(seen) >= 3  # two, and the one in the place of the dead one
    assert (rows, problems) == (301, 1)
    table = pq.read_table(out)
    assert sorted(Path(path).name for path in table.column("path").to_pylist()) == sorted(
        path.name for path in tmp_path.glob("*.png")
    )
    session = InferenceSession(packed_file)
    for row in table.slice(0, 20).to_pylist():
        if row["error"] is None:
            (best,) = session.predict([row["path"]], topk=1)[0]
            assert (row["label"], row["probability"]) == (best.label, pytest.approx(best.probability))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray, started once for several commands."""
    os.environ |= {"RAY_worker_niceness": "0", "RAY_DATA_LOG_LEVEL": "CRITICAL"}  # as predict_dataset has them
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="WARNING")
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_relative_sources_of_a_cluster_that_was_started_elsewhere(cluster, packed_file, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for seed in range(3):
        Path("photos", f"{seed}.png").write_bytes(encoded(seed))
    pq.write_table(pa.table({"path": ["photos/0.png"], "id": [7]}), "rows.parquet")
    assert predict_dataset(packed_file, ["photos"], Path("a.parquet"), workers=1) == (3, 0)
    assert sorted(pq.read_table("a.parquet").column("path").to_pylist()) == [f"photos/{seed}.png" for seed in range(3)]
    assert predict_dataset(packed_file, ["rows.parquet"], Path("b.parquet"), workers=1) == (1, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_parquet_and_shards_from_the_command_line(cluster, packed_file, tmp_path, call) -> None:
    """Some images have no path, the shards mix two suffixes, and one alone has classes."""
    (tmp_path / "in").mkdir()
    for part in range(2):
        numbers = range(10 * part, 10 * part + 10)
        paths = [f"{n}.png" if part and n % 2 else None for n in numbers]
        rows = [{"image": {"bytes": encoded(n), "path": path}, "id": n} for n, path in zip(numbers, paths, strict=True)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / f"{part}.parquet")
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            for n in numbers:
                for suffix, data in (("png", encoded(n)), ("cls", b"7"))[: 1 + part]:
                    info = tarfile.TarInfo(f"k{n}.{'PNG' if suffix == 'png' and n % 2 else suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    results = {}
    for source, key in ((tmp_path / "in", "id"), (tmp_path / "*.tar", "__key__")):
        out = tmp_path / "out" / f"{key}.out"
        code, _, err = call("predict", packed_file, source, "--engine", "ray", "-o", out, "--batch", 3)
        assert code == 0, err
        results[key] = {int(str(row[key]).removeprefix("k")): row for row in pq.read_table(out).to_pylist()}
        assert results[key].keys() == set(range(20))
    for n in range(20):
        table, sample = results["id"][n], results["__key__"][n]
        assert table["probability"] == pytest.approx(sample["probability"])
        assert table["path"] == (f"{n}.png" if n > 10 and n % 2 else None)
        assert sample["cls"] == ("7" if n >= 10 else None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_fails_in_a_worker_is_one_line(cluster, packed_file, tmp_path, call) -> None:
    (tmp_path / "cut.tar").write_text("no archive")
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "text.parquet")
    for name, message in (
        ("cut.tar", f"error: {tmp_path / 'cut.tar'}: is no tar archive, or is cut off"),
        ("text.parquet", "error: no column of encoded images or paths among text"),
    ):
        out = tmp_path / "out.parquet.part"
        code, _, err = call("predict", packed_file, tmp_path / name, "--engine", "ray", "-o", out)
        assert code == 2 and err.splitlines()[-1].startswith(message) and not out.exists()
        assert "Traceback" not in err


def test_mistakes_wait_for_no_cluster(packed_file, tmp_path, call, monkeypatch) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    table, taken = tmp_path / "x.parquet", tmp_path / "taken"
    pq.write_table(pa.table({"bytes": [b"x"]}), table)
    taken.mkdir()
    before = table.read_bytes()
    for source, out, message in (
        (table, table, "would write over"),
        (tmp_path / "none.parquet", tmp_path / "new" / "out.parquet", "none.parquet: no such file"),
        (table, taken, f"error: {taken}: is not a regular file"),
        (table, table / "out.parquet", f"error: {table}: File exists"),
        (table, tmp_path / ("n" * 250 + ".parquet"), "File name too long"),
        ("http://a/b.png", tmp_path / "out.parquet", "leave it out for addresses, with --allow-urls"),
    ):
        code, _, err = call("predict", packed_file, source, "--engine", "ray", "-o", out)
        assert code == 2 and message in err and err.count("\n") == 1, err
    assert table.read_bytes() == before and set(tmp_path.iterdir()) == {table, taken} and not any(taken.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--engine", "ray"], "writes Parquet: give -o FILE"),
        (["--engine", "ray", "-o", "x.parquet", "--csv"], "none of --json, --csv"),
        (["-o", "x.parquet"], "-o is for --engine ray"),
    ],
)
def test_options_that_do_not_fit(packed_file, call, arguments, message) -> None:
    code, _, err = call("predict", packed_file, "x.png", *arguments)
    assert code == 2 and message in err
