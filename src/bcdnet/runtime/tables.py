"""Files that hold many images: Parquet files and WebDataset shards, read as tables that all have the same columns."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bcdnet.errors import BcdnetError, DataError
from bcdnet.files import refuse_overwriting
from bcdnet.image_files import SUFFIXES, walk_files, walk_images
from bcdnet.runtime.sources import ADDRESSES, find_images

PARQUET, SHARD = ".parquet", ".tar"
# Of a shard's other files these are text by WebDataset's convention, and small.
TEXTS = ("cls", "json", "txt")
SHARD_SCHEMA = pa.schema([("__key__", pa.string()), ("image", pa.binary()), *((name, pa.string()) for name in TEXTS)])
SHARD_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")  # key and kind, parted by the first dot; hidden files have none
ROWS = 64  # in a table: a few megabytes of encoded images


@dataclass(frozen=True)
class Files:
    """Files of one kind, and the columns of all their tables; None where the files are themselves the images."""

    paths: list[str]
    schema: pa.Schema | None


def find_files(sources: Sequence[str], output: Path) -> Files:
    """Parquet files, WebDataset shards (.tar) or image files, by what `sources` (files, folders, globs) hold.

    Raises DataError for a mixture, for nothing, for Parquet whose columns do not go together, for what is no file
    (standard input, a webcam, an address) and for a name that no table holds; BcdnetError where `output` is, or would
    be the next time, among the files.
    """
    for source in sources:
        if source == "-" or (source.isdecimal() and not Path(source).exists()):
            raise DataError(f"{source}: --engine ray reads files alone; leave it out for standard input and webcams")
        if source.lower().startswith(ADDRESSES):
            raise DataError(f"{source}: --engine ray reads files alone; leave it out for addresses, with --allow-urls")
        if _covers(source, output):
            raise BcdnetError(f"{output}: would be read as one of {source}; choose another output")
    tables = [file for source in sources for file in _tables(source)]
    kinds = {Path(file).suffix for file in tables}
    if len(kinds) > 1 or (tables and any(_has_images(source) for source in sources)):
        raise DataError("the sources mix Parquet, shards and images; give one kind at a time")
    paths = tables or [source.name for source in find_images(sources)]
    for path in paths:
        if not _is_text(path):  # Ray would pickle the whole column, which no reader of Parquet understands
            raise DataError(f"{path}: its name is no UTF-8, as --engine ray needs; rename it")
    refuse_overwriting([output], paths)
    schema = _common_schema(paths) if kinds == {PARQUET} else SHARD_SCHEMA if kinds == {SHARD} else None
    return Files(paths, schema)


def _is_text(name: str) -> bool:
    """Whether a file's name can stand in a table: it can be bytes that are no UTF-8."""
    return name == _text(name)


def _text(name: str) -> str:
    r"""The name with `\\udce9` and the like for bytes that are no UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _covers(source: str, output: Path) -> bool:
    """Whether a folder or a glob takes in the place of `output`, which need not be there yet."""
    if os.path.isdir(source):
        return Path(os.path.realpath(output)).is_relative_to(os.path.realpath(source))
    folder, pattern = os.path.split(source)
    if not glob.has_magic(source) or not fnmatch(output.name, pattern):
        return False
    return os.path.realpath(output.parent) in map(os.path.realpath, glob.glob(folder or ".", recursive=True))


def _has_images(source: str) -> bool:
    return any(True for _ in walk_images(Path(source))) if Path(source).is_dir() else not _tables(source)


def _tables(source: str) -> list[str]:
    """The Parquet files or shards that a source means; none if it means images."""
    if Path(source).is_dir():
        return [str(path) for path in walk_files(Path(source), lambda file: file.endswith((PARQUET, SHARD)))]
    if not source.endswith((PARQUET, SHARD)):
        return []
    found = [source] if Path(source).exists() else sorted(glob.glob(source, recursive=True))
    if not found:
        raise DataError(f"{source}: no such file")
    # What is called like a table can be a folder of its parts, as Spark writes them; ** matches both it and them.
    files = (file for match in found for file in (_tables(match) if os.path.isdir(match) else [str(Path(match))]))
    return list(dict.fromkeys(files))


def _common_schema(paths: list[str]) -> pa.Schema:
    """All columns that any of the Parquet files has."""
    schemas = []
    for path in paths:
        try:
            # What pandas and Hugging Face wrote there would no longer be true of the predictions.
            schemas.append(pq.read_schema(path).remove_metadata())
        except pa.ArrowException as error:
            raise DataError(f"{path}: is no Parquet file, or is damaged ({_line(error)})") from None
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"the Parquet files have columns of one name and different types ({_line(error)})") from None


def read_tables(path: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """A file's rows as tables of `schema`, null where the file has no value. Raises DataError for a damaged file."""
    return _read_shard(path) if path.endswith(SHARD) else _read_parquet(path, schema)


def _read_parquet(path: str, schema: pa.Schema) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                columns = [
                    batch.column(field.name).cast(field.type)
                    if field.name in batch.schema.names
                    else pa.nulls(len(batch), field.type)
                    for field in schema
                ]
                yield pa.table(columns, schema=schema)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({_line(error)})") from None


def _read_shard(path: str) -> Iterator[pa.Table]:
    """Tables of `SHARD_SCHEMA`: files that follow each other and share a name up to its first dot are a row."""
    rows: list[dict[str, str | bytes]] = []
    try:
        with tarfile.open(path, "r:") as tar:
            files = ((member, SHARD_NAME.fullmatch(member.name)) for member in tar if member.isfile())
            named = ((name[1], name[2].lower(), member) for member, name in files if name)
            for key, members in groupby(named, lambda file: file[0]):
                row: dict[str, str | bytes] = {"__key__": _text(key)}
                for _, kind, member in members:
                    stream = tar.extractfile(member)
                    assert stream is not None  # it is a file
                    if kind in TEXTS:
                        row[kind] = stream.read().decode(errors="replace")
                    elif f".{kind}" in SUFFIXES:
                        row.setdefault("image", stream.read())
                rows.append(row)
                if len(rows) == ROWS:
                    yield pa.Table.from_pylist(rows, SHARD_SCHEMA)
                    rows = []
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path}: is no tar archive, or is cut off ({_line(error)})") from None
    if rows:
        yield pa.Table.from_pylist(rows, SHARD_SCHEMA)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
