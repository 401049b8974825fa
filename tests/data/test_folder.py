import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from bcdnet.data import DataConfig
from bcdnet.data.check import check_dataset
from bcdnet.data.open import open_dataset
from bcdnet.errors import DataError


def test_split_folders(tmp_path, encoded, write_tree):
    write_tree(tmp_path / "train", encoded[:60])
    write_tree(tmp_path / "val", encoded[60:100])
    train, test = open_dataset(str(tmp_path), "train"), open_dataset(str(tmp_path), "test")
    assert (len(train), len(test)) == (60, 40)
    assert train.class_names == [f"digit {label}" for label in range(10)]
    assert (np.diff(train.labels) >= 0).all()
    for index in (0, 31, 59):
        number = int(train.where(index)[-8:-4])
        assert encoded[number][1] == train.labels[index]
        assert (tmp_path / "train" / f"digit {train.labels[index]}" / f"{number:04}.png").samefile(train.where(index))
        assert train.image(index).size == (8, 8)


def test_split_folders_in_capitals_and_of_other_names(tmp_path, encoded, write_tree):
    for train, test in (("Train", "Test"), ("training_set", "test_set")):
        write_tree(tmp_path / train / train, encoded[:60])
        write_tree(tmp_path / train / test, encoded[60:100])
    capitals, others = (str(tmp_path / name) for name in ("Train", "training_set"))
    assert [len(open_dataset(capitals, split)) for split in ("train", "test")] == [60, 40]
    assert [len(open_dataset(others, split)) for split in ("training_set", "test_set")] == [60, 40]
    assert open_dataset(others, "test_set").class_names == open_dataset(capitals, "test").class_names


def test_classes_are_numbered_as_torchvision_numbers_them(tmp_path, encoded):
    """Capitals first, and digits as text: models of others were trained so."""
    for name in ("b", "Zebra", "apple", "n10", "n9"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.png").write_bytes(encoded[0][0])
    train = open_dataset(str(tmp_path), "train")
    assert train.class_names == ImageFolder(str(tmp_path / "train")).classes == ["Zebra", "apple", "b", "n10", "n9"]
    assert [train.where(index).split("/")[-2] for index in train.labels] == train.class_names


def test_images_may_lie_deeper_and_other_files_are_passed_over(tmp_path, encoded):
    for name, (image, _) in (("train/a/images/1.JPEG", encoded[0]), ("train/b/2.png", encoded[1])):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(image)
    (tmp_path / "train/a/boxes.txt").write_text("0 0 1 1")
    (tmp_path / "train/a/.hidden.png").write_bytes(b"")
    (tmp_path / "train/a/.thumbnails").mkdir()
    (tmp_path / "train/a/.thumbnails/1.png").write_bytes(encoded[0][0])
    train = open_dataset(str(tmp_path), "train")
    assert train.class_names == ["a", "b"]
    assert len(train) == 2


def test_a_tree_without_splits_is_divided_always_alike(tmp_path, encoded, write_tree, caplog):
    write_tree(tmp_path, encoded)
    train, test = open_dataset(str(tmp_path), "train"), open_dataset(str(tmp_path), "test")
    assert "has no splits" in caplog.text
    assert (len(train), len(test)) == (108, 12)
    files = [dataset.where(index) for dataset in (train, test) for index in range(len(dataset))]
    assert len(set(files)) == 120
    again = open_dataset(str(tmp_path), "test")
    assert [again.where(index) for index in range(12)] == files[108:]
    assert len(open_dataset(str(tmp_path), "all")) == 120
    with pytest.raises(DataError, match=r"no split 'extra' \(found: train, test, all\)"):
        open_dataset(str(tmp_path), "extra")


def test_images_without_labels_are_no_classes(tmp_path, encoded):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.png").write_bytes(encoded[0][0])
    with pytest.raises(DataError, match="test, train hold images without labels; give each class a folder"):
        open_dataset(str(tmp_path), "train")


def test_a_missing_split_is_named(tmp_path, encoded, write_tree):
    write_tree(tmp_path / "train", encoded[:20])
    with pytest.raises(DataError, match=r"no split 'test' \(found: train\); name one of them: --split,"):
        open_dataset(str(tmp_path), "test")


def test_a_folder_without_labels_is_no_split_to_judge_by(tmp_path, encoded, write_tree):
    write_tree(tmp_path / "train", encoded[:20])
    write_tree(tmp_path / "val", encoded[20:50])
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "1.png").write_bytes(encoded[0][0])  # as contests give theirs
    assert len(open_dataset(str(tmp_path), "test")) == 30
    (tmp_path / "val").rename(tmp_path / "extra")
    with pytest.raises(DataError, match="test: has no labels; give each class a folder in it"):
        open_dataset(str(tmp_path), "test")


def test_empty_class_folders_and_stray_images_are_named(tmp_path, encoded, write_tree):
    write_tree(tmp_path / "train", encoded[:20])
    (tmp_path / "train" / "digit x").mkdir()
    (tmp_path / "train" / "digit y").mkdir()
    with pytest.raises(DataError, match=r"digit x: no images in this class folder; .*digit y: no images"):
        open_dataset(str(tmp_path), "train")
    (tmp_path / "train" / "stray.png").write_bytes(encoded[0][0])
    with pytest.raises(DataError, match=r"1 images outside of class folders, such as stray\.png"):
        open_dataset(str(tmp_path), "train")


def test_a_class_may_want_images_to_be_tested_on(tmp_path, encoded, write_tree):
    write_tree(tmp_path / "train", encoded[:60])
    write_tree(tmp_path / "val", [pair for pair in encoded[60:] if pair[1] != 3])
    config = DataConfig(str(tmp_path), 8, channels=1, mean=(0.3,), std=(0.35,))
    with pytest.raises(
        DataError, match=r"only in 'train': digit 3; .* for each class, even if test has no images of it"
    ):
        check_dataset(config)
    (tmp_path / "val" / "digit 3").mkdir()
    check_dataset(config)
    test = open_dataset(str(tmp_path), "test")
    assert len(test.class_names) == 10 and 3 not in test.labels


def test_a_file_that_vanished_is_named(tmp_path, encoded, write_tree):
    write_tree(tmp_path / "train", encoded[:20])
    train = open_dataset(str(tmp_path), "train")
    file = train.where(3)
    (tmp_path / file).unlink()
    with pytest.raises(DataError, match=rf"{file}: cannot read: No such file"):
        train.image(3)


def test_tiny_imagenet_as_its_archive_has_it(tmp_path, encoded):
    for number, (image, label) in enumerate(encoded[:20]):
        file = tmp_path / "train" / f"n0{label}" / "images" / f"n0{label}_{number}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    images = tmp_path / "val" / "images"
    images.mkdir(parents=True)
    lines = []
    for number, (image, label) in enumerate(encoded[20:60]):
        (images / f"val_{number}.JPEG").write_bytes(image)
        lines.append(f"val_{number}.JPEG\tn0{label}\t0\t0\t7\t7\n")
    annotations = tmp_path / "val" / "val_annotations.txt"
    annotations.write_text("".join(lines))
    (tmp_path / "test" / "images").mkdir(parents=True)
    (tmp_path / "test" / "images" / "test_0.JPEG").write_bytes(encoded[0][0])  # whose labels nobody has
    train, val = open_dataset(str(tmp_path), "train"), open_dataset(str(tmp_path), "test")
    assert train.class_names == val.class_names == [f"n0{label}" for label in range(10)]
    assert val.labels.tolist() == [label for _, label in encoded[20:60]]
    assert val.where(7) == str(images / "val_7.JPEG")
    annotations.write_text("val_0.JPEG\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt: line 1 has no class"):
        open_dataset(str(tmp_path), "val")
    annotations.write_bytes("val_0.JPEG\tcaf\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=r"val_annotations\.txt: is not text in UTF-8"):
        open_dataset(str(tmp_path), "test")
