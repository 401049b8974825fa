"""Small datasets of real images (scikit-learn's digits, 8x8), written in every format that is read."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcdnet.data.digits import Digits

Encoded = list[tuple[bytes, int]]


@pytest.fixture(scope="session")
def digit_set() -> Digits:
    return Digits("train")


@pytest.fixture(scope="session")
def encoded(digit_set: Digits) -> Encoded:
    """(PNG bytes, label) of the first 120 digits, all ten classes among them."""

    def png(index: int) -> bytes:
        buffer = io.BytesIO()
        digit_set.image(index).save(buffer, "PNG")
        return buffer.getvalue()

    return [(png(index), int(digit_set.labels[index])) for index in range(120)]


@pytest.fixture(scope="session")
def pixels(digit_set: Digits) -> np.ndarray:
    """uint8 [120, 1, 8, 8]: what `encoded` decodes to."""
    return np.stack([np.asarray(digit_set.image(index))[None] for index in range(120)])


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    def write(
        path: Path, rows: list[tuple[bytes | None, int | None]], names: bool = True, group: int = 25, hub: bool = False
    ) -> Path:
        table = pa.table(
            {
                "image": pa.array(
                    [{"bytes": image, "path": None} for image, _ in rows],
                    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
                ),
                "label": pa.array([label for _, label in rows], pa.int64()),
            }
        )
        listed = [f"digit {label}" for label in range(10)]
        features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": listed}}}}
        metadata = {"huggingface": json.dumps(features)} if hub else {"class_names": json.dumps(listed)}
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata(metadata if names else None), path, row_group_size=group)
        return path

    return write


@pytest.fixture
def write_tree() -> Callable[[Path, Encoded], None]:
    def write(root: Path, rows: Encoded) -> None:
        for number, (image, label) in enumerate(rows):
            file = root / f"digit {label}" / f"{number:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image)

    return write


@pytest.fixture
def write_tar() -> Callable[..., Path]:
    def write(path: Path, rows: Encoded, first: int = 0, label_suffix: str = "cls") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for number, (image, label) in enumerate(rows, start=first):
                text = json.dumps({"label": label}) if label_suffix == "json" else str(label)
                for suffix, content in (("png", image), (label_suffix, text.encode())):
                    entry = tarfile.TarInfo(f"{number:06}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def parquet_folder(tmp_path: Path, encoded: Encoded, write_parquet: Callable[..., Path]) -> Path:
    """100 training and 20 test images, row groups of 25."""
    write_parquet(tmp_path / "train.parquet", encoded[:100])
    write_parquet(tmp_path / "test.parquet", encoded[100:])
    return tmp_path
