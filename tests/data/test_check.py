from types import SimpleNamespace

import pytest

from bcdnet.data import DataConfig, check_dataset
from bcdnet.data.check import class_problems
from bcdnet.errors import DataError


def problems(folder, decode=False):
    with pytest.raises(DataError) as caught:
        check_dataset(DataConfig(str(folder), 8), decode=decode)
    return str(caught.value)


def test_whole_datasets_pass(parquet_folder, tmp_path, encoded, write_tree, write_tar):
    check_dataset(DataConfig(str(parquet_folder), 8), decode=True)
    check_dataset(DataConfig("digits", 8), decode=True)
    write_tree(tmp_path / "tree" / "train", encoded[:60])
    write_tree(tmp_path / "tree" / "test", encoded[60:])
    check_dataset(DataConfig(str(tmp_path / "tree"), 8), decode=True)
    write_tar(tmp_path / "train-0.tar", encoded[:60])
    write_tar(tmp_path / "test-0.tar", encoded[60:63])  # fewer classes than train, all of them known
    check_dataset(DataConfig(f"wds://{tmp_path}/train-{{0..0}}.tar", 8), decode=True)


def test_real_files_pass(shared):
    for name in ("fashion-mnist", "cifar10", "cifar100", "imagenette-160"):
        check_dataset(DataConfig(str(shared / "data" / name), 32))


def test_problems_of_both_splits_are_told_at_once(tmp_path, encoded, write_parquet):
    rows = list(encoded[:50])
    rows[7] = (rows[7][0], 12)
    write_parquet(tmp_path / "train.parquet", rows)
    write_parquet(tmp_path / "test.parquet", [])
    text = problems(tmp_path)
    assert f"{tmp_path}/train.parquet, row 7: label 12 is not one of 10 classes" in text
    assert "split 'test': empty" in text


def test_a_split_without_labels_is_told_once(tmp_path, encoded, write_parquet):
    write_parquet(tmp_path / "train.parquet", encoded[:50])
    write_parquet(tmp_path / "test.parquet", [(image, -1) for image, _ in encoded[50:]])
    another = "name another: --split, or in a recipe data.train_split and data.test_split"
    assert problems(tmp_path) == f"split 'test': has no labels, all are -1; {another}"


def test_truncated_files_of_both_splits_are_named(parquet_folder):
    for name in ("train", "test"):
        file = parquet_folder / f"{name}.parquet"
        file.write_bytes(file.read_bytes()[:-50])
    text = problems(parquet_folder)
    assert "train.parquet: not readable" in text
    assert "test.parquet: not readable" in text


def test_a_missing_folder_is_told_once(tmp_path):
    assert problems(tmp_path / "nowhere").count("no such folder") == 1


def test_a_missing_split_is_told(tmp_path, encoded, write_parquet):
    write_parquet(tmp_path / "train.parquet", encoded[:20])
    assert "no split 'test' (found: train)" in problems(tmp_path)


def test_classes_that_differ_are_named(tmp_path, encoded, write_tree):
    write_tree(tmp_path / "train", encoded[:60])
    write_tree(tmp_path / "test", encoded[60:])
    (tmp_path / "test" / "digit 3").rename(tmp_path / "test" / "three")
    text = problems(tmp_path)
    assert "only in 'train': digit 3" in text
    assert "only in 'test': three" in text


def test_unnamed_classes_that_only_test_has(tmp_path, encoded, write_parquet):
    write_parquet(tmp_path / "train.parquet", [row for row in encoded if row[1] < 5], names=False)
    write_parquet(tmp_path / "test.parquet", encoded, names=False)
    assert "5 classes in 'train', 10 in 'test'; only in 'test': 5, 6, 7, 8, 9" in problems(tmp_path)


def test_classes_in_another_order_are_told() -> None:
    train, test = SimpleNamespace(class_names=["a", "b"]), SimpleNamespace(class_names=["b", "a"])
    said = class_problems("train", train, "test", test)
    assert said == ["classes differ: 'train' and 'test' have the same ones in another order"]


def test_broken_images_are_found_by_decoding(tmp_path, encoded, write_tree):
    write_tree(tmp_path / "train", encoded[:60])
    write_tree(tmp_path / "test", encoded[60:])
    broken = sorted((tmp_path / "train").rglob("*.png"))[5]
    broken.write_bytes(broken.read_bytes()[:45])
    empty = sorted((tmp_path / "test").rglob("*.png"))[9]
    empty.write_bytes(b"")
    check_dataset(DataConfig(str(tmp_path), 8))
    text = problems(tmp_path, decode=True)
    assert f"{broken}: cannot be decoded" in text
    assert f"{empty}: empty image" in text
