"""Parquet in the Hugging Face layout: `image` struct{bytes, path} and `label` int64, one file or several per split.

Files are `train.parquet` or `train-00000-of-0000N.parquet`, in the folder or in its `data/`. Class names come from the
schema's metadata: `class_names` (JSON list) or `huggingface` (the features' ClassLabel).
"""

import json
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from bcdnet.data.dataset import IMAGE_COLUMNS, LABEL_COLUMNS, decode, find_split, missing_split, natural_key
from bcdnet.data.problems import raise_for
from bcdnet.errors import DataError

# Rows among which a shuffled order may jump, hence about how many encoded images stay in memory per process: 8,192
# ImageNet JPEGs are 0.9 GB.
WINDOW = 8192
FINGERPRINT = r"(?:-[0-9a-f]{16})?"  # of older pushes to the Hugging Face hub


class ParquetDataset:
    """One split. Labels are read at once; images by row group, of which the latest few are kept.

    Raises DataError: no such split, or a file that is truncated, not Parquet, empty or without the columns; all
    offending files are named.
    """

    def __init__(self, path: Path, split: str) -> None:
        shards = shards_by_split(path)
        name = find_split(split, list(shards))
        if name is None:
            raise missing_split(str(path), split, list(shards))
        self.files = shards[name]
        self.window = WINDOW
        self._image_column, names = self._read_labels()
        self.class_names = names or [str(label) for label in range(int(self.labels.max(initial=-1)) + 1)]
        self._reset()

    def _read_labels(self) -> tuple[str, list[str]]:
        # The column of images and the class names, both the same in all files.
        problems: list[str] = []
        labels: list[NDArray[np.int64]] = []
        self._groups: list[tuple[int, int]] = []  # (file, row group inside it), one per entry of `groups`
        sizes: list[int] = []
        first: tuple[str, list[str]] | None = None
        for number, file in enumerate(self.files):
            try:
                parquet = pq.ParquetFile(file)
                image_column, label_column = _columns(parquet.schema_arrow)
                column = parquet.read(columns=[label_column], use_threads=False)[label_column].cast(pa.int64())
                own = image_column, class_names_of(parquet.schema_arrow)
                first = first or own
                if own != first:
                    raise DataError(f"other classes, or another column of images, than {self.files[0]}")
            except (pa.ArrowException, OSError, DataError) as error:
                problems.append(f"{file}: {_reason(file, error)}")
                continue
            # A missing label becomes -1, which the check names as out of range, with its row.
            labels.append(column.fill_null(-1).to_numpy())
            rows = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            self._groups += [(number, group) for group in range(len(rows))]
            sizes += rows
        raise_for(problems)
        self.labels: NDArray[np.int64] = np.concatenate(labels)
        self._starts = np.cumsum([0, *map(len, labels)])  # of each file's rows
        self.groups: NDArray[np.int64] | None = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        assert first is not None
        return first

    def _reset(self) -> None:
        # Open files and cached rows belong to one process: a worker starts without.
        self._lock = threading.Lock()
        self._open: dict[int, pq.ParquetFile] = {}
        self._cache: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_open", "_cache")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Decode one image. Raises DataError that names file and row."""
        group, row = self._locate(index)
        try:
            value = self._group(group)[row].as_py()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.where(index)}: cannot read: {error}") from None
        if isinstance(value, dict):
            value = value.get("bytes")
        return decode(value or b"", self.where(index))

    def where(self, index: int) -> str:
        """`FILE, row R`, R counted within the file."""
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return f"{self.files[file]}, row {index - int(self._starts[file])}"

    def _locate(self, index: int) -> tuple[int, int]:
        assert self.groups is not None
        group = int(np.searchsorted(self.groups, index, side="right")) - 1
        return group, index - int(self.groups[group])

    def _group(self, group: int) -> Any:
        with self._lock:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group]
            file, row_group = self._groups[group]
            if file not in self._open:
                self._open[file] = pq.ParquetFile(self.files[file])
            table = self._open[file].read_row_group(row_group, columns=[self._image_column], use_threads=False)
            rows = table[self._image_column].combine_chunks()
            self._cache[group] = rows
            while len(self._cache) > 1 and sum(map(len, self._cache.values())) > WINDOW + len(rows):
                self._cache.popitem(last=False)
            return rows


def shards_by_split(path: Path) -> dict[str, list[Path]]:
    """The Parquet files of a folder (or its `data/`) by the split their names say, shards in order.

    Raises DataError if `train-00000-of-00003.parquet` and the like are incomplete.
    """
    found: dict[str, list[Path]] = {}
    for folder in (path, path / "data"):
        for file in sorted(folder.glob("*.parquet"), key=lambda file: natural_key(file.name)):
            name = re.sub(rf"-\d+(-of-\d+)?{FINGERPRINT}$", "", file.stem)
            found.setdefault(name, []).append(file)
        if found:
            break
    missing = [f"{files[0].parent}/{name}-*.parquet: {gap}" for name, files in found.items() if (gap := _gap(files))]
    raise_for(missing)
    return found


def class_names_of(schema: pa.Schema) -> list[str]:
    """Class names from the schema's metadata; empty if it has none."""
    metadata = schema.metadata or {}
    try:
        if b"class_names" in metadata:
            names = json.loads(metadata[b"class_names"])
            if not isinstance(names, list):
                raise TypeError
            return [str(name) for name in names]
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        labels = [features[name] for name in LABEL_COLUMNS if name in features]
        return [str(name) for name in labels[0].get("names", [])] if labels else []
    except (ValueError, AttributeError, TypeError):
        raise DataError(
            "schema metadata: class_names is no JSON list, or huggingface not the JSON it should be"
        ) from None


def _columns(schema: pa.Schema) -> tuple[str, str]:
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if image is None or label is None:
        raise DataError(f"needs columns `image` and `label`, has {', '.join(schema.names)}")
    if twice := [name for name in (image, label) if schema.names.count(name) > 1]:
        raise DataError(f"has more than one column `{twice[0]}`")
    kind = schema.field(image).type
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else pa.null()
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
        raise DataError(f"column `{image}` must be struct{{bytes, path}} or binary, is {schema.field(image).type}")
    if not pa.types.is_integer(schema.field(label).type):
        raise DataError(f"column `{label}` must be an integer, is {schema.field(label).type}")
    return image, label


def _gap(files: list[Path]) -> str | None:
    numbers = [re.search(rf"-(\d+)-of-(\d+){FINGERPRINT}$", file.stem) for file in files]
    totals = {int(number[2]) for number in numbers if number}
    if not totals:
        return None
    if len(totals) > 1 or not all(numbers):  # such as a set in one file beside its shards
        return f"files of different sets: {', '.join(file.name for file in files[:10])}"
    lacking = sorted(set(range(totals.pop())) - {int(number[1]) for number in numbers if number})
    return f"shards missing: {', '.join(map(str, lacking[:10]))}" if lacking else None


def _reason(file: Path, error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    if os.path.getsize(file) == 0:
        return "empty file"
    return f"not readable as Parquet, truncated or corrupt ({str(error).splitlines()[0]})"
