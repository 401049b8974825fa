"""Parquet files and shards as tables: all with the same columns, whatever the single files hold."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs pyarrow")
import pyarrow as pa
import pyarrow.parquet as pq

from bcdnet.errors import BcdnetError, DataError
from bcdnet.runtime.tables import ROWS, SHARD_SCHEMA, find_files, read_tables


def shard(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def rows(path: str, schema: pa.Schema) -> list[dict]:
    tables = list(read_tables(path, schema))
    assert all(table.schema == schema and 0 < len(table) <= ROWS for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def test_shards_have_fixed_columns(tmp_path) -> None:
    first = {"d/a.JPG": b"1", "d/a.cls": b"3", "d/a.seg.png": b"mask", "d/._a.jpg": b"hidden", "d/b.webp": b"2"}
    paths = [
        shard(tmp_path / "0.tar", first),
        shard(tmp_path / "1.tar", {f"{n}.png": b"x" for n in range(ROWS)} | {"z.json": b'{"n": 1}', "z.bin": b"\xff"}),
    ]
    files = find_files([str(tmp_path)], tmp_path.parent / "out.parquet")
    assert files.paths == paths and files.schema == SHARD_SCHEMA
    nothing = dict.fromkeys(SHARD_SCHEMA.names)
    assert rows(paths[0], SHARD_SCHEMA) == [
        nothing | {"__key__": "d/a", "image": b"1", "cls": "3"},
        nothing | {"__key__": "d/b", "image": b"2"},
    ]
    assert rows(paths[1], SHARD_SCHEMA)[-1] == nothing | {"__key__": "z", "json": '{"n": 1}'}
    assert rows(shard(tmp_path / "empty.tar", {}), SHARD_SCHEMA) == []
    twice = shard(tmp_path / "twice.tar", {"a.png": b"first", "a.jpg": b"second"})
    assert rows(twice, SHARD_SCHEMA) == [nothing | {"__key__": "a", "image": b"first"}]


def test_folders_are_walked_as_for_images(tmp_path) -> None:
    parts = tmp_path / "spark" / "train.parquet"
    parts.mkdir(parents=True)
    pq.write_table(pa.table({"path": ["a"]}), parts / "part-0.parquet")
    (parts / "._part-0.parquet").write_bytes(b"what a Mac leaves")
    (parts / ".hidden").mkdir()
    (parts / ".hidden" / "x.parquet").write_bytes(b"x")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "there").symlink_to(tmp_path / "spark")
    output = tmp_path / "out" / "out.parquet"
    for source in (
        "spark",
        "spark/*.parquet",
        "spark/train.parquet",
        "spark/**/*.parquet",
        "./spark/**/*.parquet",
        "linked",
    ):
        (path,) = find_files([f"{tmp_path}/{source}"], output).paths
        assert Path(path).samefile(parts / "part-0.parquet")


def test_parquet_has_the_columns_of_all_files(tmp_path) -> None:
    for name, row in (
        ("0", {"image": {"bytes": b"a", "path": None}, "id": 1}),
        ("1", {"label": "t", "id": 2, "image": {"bytes": b"b", "path": "b.png"}}),
    ):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{name}.parquet")
    files = find_files([str(tmp_path / "*.parquet")], tmp_path.parent / "out.parquet")
    found = [row for path in files.paths for row in rows(path, files.schema)]
    assert [(row["id"], row["label"]) for row in found] == [(1, None), (2, "t")]
    assert [row["image"] for row in found] == [{"bytes": b"a", "path": None}, {"bytes": b"b", "path": "b.png"}]
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "2.parquet")
    with pytest.raises(DataError, match="columns of one name and different types"):
        find_files([str(tmp_path)], tmp_path.parent / "out.parquet")


def test_what_others_wrote_of_their_columns_is_left_out(tmp_path) -> None:
    """Of predictions, which have more columns, pandas' or Hugging Face's metadata would be false."""
    table = pa.table({"path": ["a"]}).replace_schema_metadata({"huggingface": "{}"})
    pq.write_table(table, tmp_path / "x.parquet")
    schema = find_files([str(tmp_path / "x.parquet")], tmp_path / "out.parquet").schema
    assert schema is not None and schema.metadata is None and schema.names == ["path"]


def test_what_is_damaged_is_named(tmp_path) -> None:
    whole = Path(shard(tmp_path / "whole.tar", {"a.png": b"x" * 9000}))
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "text.tar").write_text("no archive")
    for name in ("cut.tar", "text.tar"):
        with pytest.raises(DataError, match=f"{name}: is no tar archive, or is cut off"):
            rows(str(tmp_path / name), SHARD_SCHEMA)
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(DataError, match=r"x\.parquet: is no Parquet file, or is damaged"):
        find_files([str(tmp_path / "x.parquet")], tmp_path / "out")


def test_names_that_are_no_utf_8(tmp_path) -> None:
    """Ray pickles a whole column that holds one of them."""
    odd = tmp_path / "caf\udce9.png"  # what Python makes of bytes that are no UTF-8
    odd.write_bytes(b"")
    with pytest.raises(DataError, match="its name is no UTF-8, as --engine ray needs; rename it"):
        find_files([str(tmp_path)], tmp_path.parent / "out.parquet")
    assert find_files([str(odd.rename(tmp_path / "café.png"))], tmp_path / "out.parquet").paths[0].endswith("café.png")
    (row,) = rows(shard(tmp_path / "x.tar", {"caf\udce9.png": b"1"}), SHARD_SCHEMA)
    assert row["__key__"] == r"caf\udce9" and row["image"] == b"1"


def test_sources_that_ray_cannot_take(tmp_path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "a.png").write_bytes(b"")
    (mixed / "backup.tar").write_bytes(b"")
    for sources in ([str(mixed)], [str(mixed / name) for name in ("a.png", "backup.tar")]):
        with pytest.raises(DataError, match="the sources mix Parquet, shards and images"):
            find_files(sources, tmp_path / "out")
    for source in ("-", "0"):
        with pytest.raises(DataError, match=f"{source}: --engine ray reads files alone"):
            find_files([source], tmp_path / "out")
    with pytest.raises(
        DataError, match=r"HTTPS://a/b\.png: --engine ray reads files alone; leave it out for addresses"
    ):
        find_files(["HTTPS://a/b.png"], tmp_path / "out")
    with pytest.raises(DataError, match=r"none\.parquet: no such file"):
        find_files([str(tmp_path / "none.parquet")], tmp_path / "out")


def test_an_output_is_never_a_source_now_or_the_next_time(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in/deep").mkdir(parents=True)
    for path in ("in/x.parquet", "in/deep/y.parquet"):
        pq.write_table(pa.table({"id": [1]}), path)
    Path("link.parquet").symlink_to("in/x.parquet")
    for source, output in (
        ("in/x.parquet", "in/../link.parquet"),
        ("link.parquet", tmp_path / "in/x.parquet"),
        ("in", "in/out.parquet"),
        (".", "out.parquet"),
        ("in/*.parquet", "in/out.parquet"),
        ("in/**/*.parquet", "in/deep/out.parquet"),
        ("*.parquet", tmp_path / "out.parquet"),
    ):
        with pytest.raises(BcdnetError, match="choose another output"):
            find_files([source], Path(output))
    for source, output in (("in", "out.parquet"), ("in/*.parquet", "in/deep/out.parquet"), ("in/x.parquet", "in/out")):
        find_files([source], Path(output))
