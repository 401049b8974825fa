import sys

import numpy as np
import pytest

from bcdnet.data.open import open_dataset
from bcdnet.errors import DataError

datasets = pytest.importorskip("datasets", reason="the optional package `datasets` is not installed")


@pytest.fixture
def hub(monkeypatch, encoded):
    """A hub of one dataset, `owner/digits`, with splits train and validation."""

    def table(rows, **extra):
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=[f"digit {label}" for label in range(10)])}
        )
        columns = {
            "image": [{"bytes": image, "path": None} for image, _ in rows],
            "label": [label for _, label in rows],
        }
        return datasets.Dataset.from_dict(columns, features=features)

    splits = {"train": table(encoded[:60]), "validation": table(encoded[60:80])}
    asked = []

    def load_dataset(path, name=None, *, split):
        asked.append((path, name, split))
        if path != "owner/digits":
            raise FileNotFoundError(f"Couldn't find a dataset script at {path}")
        if split not in splits:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(splits)}.')
        return splits[split]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_images_labels_and_names(hub, encoded, pixels):
    train = open_dataset("hf://owner/digits:small", "train")
    assert hub == [("owner/digits", "small", "train")]
    assert len(train) == 60
    assert train.class_names[4] == "digit 4"
    assert train.labels.tolist() == [label for _, label in encoded[:60]]
    assert np.array_equal(np.asarray(train.image(33)), pixels[33, 0])
    assert train.where(33) == "hf://owner/digits:small, train, row 33"


def test_another_name_for_the_test_split(hub):
    assert len(open_dataset("hf://owner/digits", "test")) == 20
    assert [split for _, _, split in hub] == ["test", "testing", "val", "validation"]


def test_errors_name_the_dataset(hub, monkeypatch):
    with pytest.raises(DataError, match="hf://owner/nothing: cannot load: Couldn't find"):
        open_dataset("hf://owner/nothing", "train")
    with pytest.raises(DataError, match=r"no split 'extra' \(found: train, validation\)"):
        open_dataset("hf://owner/digits", "extra")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package `datasets`; pip install datasets"):
        open_dataset("hf://owner/digits", "train")


@pytest.mark.parametrize(("kind", "labels"), [("string", ["cat", "dog"]), ("float32", [0.0, 1.7])])
def test_labels_that_are_no_numbers(monkeypatch, encoded, kind, labels):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    columns = {"image": [{"bytes": image, "path": None} for image, _ in encoded[:2]], "label": labels}
    table = datasets.Dataset.from_dict(columns, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    with pytest.raises(DataError, match="hf://x: column `label` must be a ClassLabel or an integer"):
        open_dataset("hf://x", "train")


def test_a_missing_image_is_named(monkeypatch, encoded, tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    images = [{"bytes": encoded[0][0], "path": None}, None, {"bytes": None, "path": str(tmp_path / "none.png")}]
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split: table)
    train = open_dataset("hf://owner/digits", "train")
    assert train.image(0).size == (8, 8)
    with pytest.raises(DataError, match="row 1: empty image"):
        train.image(1)
    with pytest.raises(DataError, match=r"row 2: cannot read .*none\.png: No such file"):
        train.image(2)


def test_a_missing_label_is_out_of_range(monkeypatch, encoded):
    columns = {"image": [{"bytes": image, "path": None} for image, _ in encoded[:2]], "label": [1, None]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict(columns, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    assert open_dataset("hf://x", "train").labels.tolist() == [1, -1]


def test_columns_that_are_no_images(monkeypatch):
    table = datasets.Dataset.from_dict({"image": ["a"], "label": [0]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    with pytest.raises(DataError, match="column `image` must be an Image feature"):
        open_dataset("hf://x", "train")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table.remove_columns("label"))
    with pytest.raises(DataError, match="needs columns `image` and `label`, has image"):
        open_dataset("hf://x", "train")


def test_classes_stay_in_the_order_of_their_numbers(monkeypatch, encoded):
    names = ["zebra", "Ape", "ape", "10", "9"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    columns = {"image": [{"bytes": image, "path": None} for image, _ in encoded[:2]], "label": [4, 0]}
    table = datasets.Dataset.from_dict(columns, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    train = open_dataset("hf://x", "train")
    assert train.class_names == names and [names[label] for label in train.labels] == ["9", "zebra"]


def test_classes_without_names_are_numbered_up_to_the_largest(monkeypatch, encoded):
    columns = {"image": [{"bytes": image, "path": None} for image, _ in encoded[:2]], "label": [3, 0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict(columns, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    assert open_dataset("hf://x", "train").class_names == ["0", "1", "2", "3"]
