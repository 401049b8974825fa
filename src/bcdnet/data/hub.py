"""`hf://NAME[:config]`: a dataset of the Hugging Face hub (or a local folder in its layout), through `datasets`."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcdnet.data.dataset import IMAGE_COLUMNS, LABEL_COLUMNS, decode, missing_split, spellings
from bcdnet.errors import DataError


class HubDataset:
    """One split, downloaded and cached by `datasets`; images stay encoded in its memory-mapped tables.

    Raises DataError: `datasets` is not installed, it cannot load NAME, there is no such split, or its columns are not
    an image and a ClassLabel.
    """

    def __init__(self, name: str, split: str) -> None:
        try:
            import datasets
        except ImportError:
            raise DataError(f"hf://{name}: needs the package `datasets`; pip install datasets") from None
        self.name = name
        self.split, table = _load(datasets, name, split)
        image = next((column for column in IMAGE_COLUMNS if column in table.column_names), None)
        label = next((column for column in LABEL_COLUMNS if column in table.column_names), None)
        if image is None or label is None:
            columns = ", ".join(table.column_names)
            raise DataError(f"hf://{name}: needs columns `image` and `label`, has {columns}")
        if not isinstance(table.features[image], datasets.Image):
            raise DataError(f"hf://{name}: column `{image}` must be an Image feature, is {table.features[image]}")
        self._table = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        self._column = image
        names = getattr(table.features[label], "names", None)
        if names is None and "int" not in str(getattr(table.features[label], "dtype", "")):
            raise DataError(
                f"hf://{name}: column `{label}` must be a ClassLabel or an integer, is {table.features[label]}"
            )
        # A missing label becomes -1, which the check names as out of range, with its row.
        labels = [-1 if value is None else value for value in table[label]]
        self.labels: NDArray[np.int64] = np.array(labels, dtype=np.int64)
        self.class_names = [str(name) for name in names or range(int(self.labels.max(initial=-1)) + 1)]
        self.groups: NDArray[np.int64] | None = None
        self.window = len(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Decode one image. Raises DataError that names dataset, split and row."""
        value = self._table[index][self._column] or {}
        encoded = value.get("bytes")
        if encoded is None and value.get("path"):
            try:
                encoded = Path(value["path"]).read_bytes()
            except OSError as error:
                raise DataError(f"{self.where(index)}: cannot read {value['path']}: {error.strerror}") from None
        return decode(encoded or b"", self.where(index))

    def where(self, index: int) -> str:
        """`hf://NAME, split, row R`."""
        return f"hf://{self.name}, {self.split}, row {index}"


def _load(datasets: Any, name: str, split: str) -> tuple[str, Any]:
    path, _, config = name.partition(":")
    for candidate in spellings(split):
        try:
            return candidate, datasets.load_dataset(path, config or None, split=candidate)
        except ValueError as error:
            # `datasets` has no class of its own for this.
            if "Unknown split" not in str(error):
                raise DataError(f"hf://{name}: {error}") from None
            known = re.findall(r"'([^']+)'", str(error).partition("one of")[2])
        except (OSError, RuntimeError) as error:
            raise DataError(f"hf://{name}: cannot load: {error}") from None
    raise missing_split(f"hf://{name}", split, known)
