import io
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from bcdnet.data.open import open_dataset
from bcdnet.data.webdataset import expand
from bcdnet.errors import DataError


@pytest.fixture
def shards(tmp_path, encoded, write_tar):
    """Four training shards of 20 samples, one test shard of 40, beside each other."""
    for number in range(4):
        write_tar(tmp_path / f"train-{number:03}.tar", encoded[number * 20 : number * 20 + 20], first=number * 20)
    write_tar(tmp_path / "test-0.tar", encoded[80:], label_suffix="json")
    return tmp_path


def test_samples_in_order_with_their_labels(shards, encoded, pixels):
    train = open_dataset(f"wds://{shards}/train-{{000..003}}.tar", "train")
    assert len(train) == 80
    assert train.labels.tolist() == [label for _, label in encoded[:80]]
    assert train.groups.tolist() == [0, 20, 40, 60, 80]
    assert train.class_names == [str(label) for label in range(10)]
    for index in (0, 19, 20, 79):
        assert np.array_equal(np.asarray(train.image(index)), pixels[index, 0])
    assert train.where(41).startswith(f"{shards}/train-002.tar, sample 1 (byte ")
    assert pickle.loads(pickle.dumps(train)).image(50).tobytes() == train.image(50).tobytes()


def test_the_image_of_a_sample_is_the_one_whose_suffix_says_no_more(tmp_path, encoded):
    def write(*names):
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for content, name in zip((image for image, _ in encoded), names, strict=False):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            entry = tarfile.TarInfo("0.cls")
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"1"))
        return open_dataset(f"wds://{tmp_path}/a.tar", "all")

    names = ["0.seg.png", "0.png", "0.depth.png"]
    assert write(*names).image(0).tobytes() == Image.open(io.BytesIO(encoded[1][0])).tobytes()
    assert len(write("0.seg.png")) == 1
    with pytest.raises(DataError, match=r"a\.tar: 0: several images \(\.png, \.jpg\)"):
        write("0.png", "0.jpg")


def test_class_names_beside_the_shards(shards):
    names = [f"digit {label}" for label in reversed(range(10))]
    (shards / "classes.txt").write_text("\n".join(names))
    assert open_dataset(f"wds://{shards}/train-*.tar", "train").class_names == names
    (shards / "classes.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes\.txt: is not text in UTF-8"):
        open_dataset(f"wds://{shards}/train-*.tar", "train")


@pytest.mark.parametrize(
    ("pattern", "split"),
    [
        ("train-{000..003}.tar", "test"),
        ("{split}-*.tar", "test"),
        ("{split}-{000..003}.tar", "test"),
        ("train-{000..003}.tar", "test-0.tar"),
        ("train-{000..003}.tar", "test-{0..0}.tar"),
    ],
)
def test_ways_to_name_the_test_shards(shards, encoded, pattern, split):
    test = open_dataset(f"wds://{shards}/{pattern}", split)
    assert test.labels.tolist() == [label for _, label in encoded[80:]]


def test_all_shards_of_a_split_are_read(shards):
    for pattern in ("{split}-*.tar", "{split}-{0..9}.tar", "train-{000..003}.tar"):
        assert len(open_dataset(f"wds://{shards}/{pattern}", "train")) == 80


def test_shards_are_counted(tmp_path, encoded, write_tar):
    for number in (11, 2):
        write_tar(tmp_path / f"train-{number}.tar", encoded[number : number + 1])
    labels = open_dataset(f"wds://{tmp_path}/train-*.tar", "train").labels
    assert labels.tolist() == [encoded[2][1], encoded[11][1]]


def test_shards_without_splits_are_divided(tmp_path, encoded, write_tar):
    for number in range(2):
        write_tar(tmp_path / f"shard-{number}.tar", encoded[number * 50 : number * 50 + 50])
    path = f"wds://{tmp_path}/shard-{{0..1}}.tar"
    assert (len(open_dataset(path, "train")), len(open_dataset(path, "test"))) == (90, 10)


def test_missing_shards_are_named(shards):
    with pytest.raises(DataError, match=r"shards missing: .*train-004\.tar, .*train-005\.tar"):
        open_dataset(f"wds://{shards}/train-{{000..005}}.tar", "train")
    with pytest.raises(DataError, match="no file matches"):
        open_dataset(f"wds://{shards}/*-train.tar", "train")
    with pytest.raises(DataError, match=r"no shards for split 'extra'.*: --split, .* data\.test_split$"):
        open_dataset(f"wds://{shards}/train-{{000..003}}.tar", "extra")
    with pytest.raises(DataError, match="no split 'extra'"):
        open_dataset(f"wds://{shards}/{{split}}-*.tar", "extra")
    with pytest.raises(DataError, match="only local shards"):
        open_dataset("wds://https://example.org/train-{000..146}.tar", "train")


def test_every_truncated_shard_is_named(shards):
    whole = (shards / "train-001.tar").read_bytes()
    end = len(whole) - len(whole.rstrip(b"\0"))
    (shards / "train-000.tar").write_bytes(b"")
    (shards / "train-001.tar").write_bytes(whole[: len(whole) // 2])
    (shards / "train-002.tar").write_bytes(whole[: -(end // 512 * 512)])  # cut after the last file
    with pytest.raises(DataError) as caught:
        open_dataset(f"wds://{shards}/train-{{000..003}}.tar", "train")
    message = str(caught.value)
    assert "train-000.tar: empty file" in message
    assert "train-001.tar: not a whole tar file" in message
    assert "train-002.tar: not a whole tar file" in message
    assert "train-003" not in message


def test_an_archive_of_nothing_is_an_empty_split(tmp_path, write_tar):
    write_tar(tmp_path / "shard-0.tar", [])
    for split in ("train", "test", "all"):
        assert len(open_dataset(f"wds://{tmp_path}/shard-*.tar", split)) == 0


def test_samples_without_a_label_are_named(tmp_path, encoded, write_tar):
    write_tar(tmp_path / "train-0.tar", encoded[:3], label_suffix="txt")
    with pytest.raises(DataError, match=r"000000: no label \(\.cls or \.json\); .*000001: no label"):
        open_dataset(f"wds://{tmp_path}/train-0.tar", "train")


@pytest.mark.parametrize(
    ("suffix", "text", "label"),
    [("cls", "007", 7), ("cls", " 3\n", 3), ("json", '{"label": 4}', 4), ("cls", "1.7", None), ("cls", "1e400", None),
     ("cls", "9" * 30, None), ("cls", str(-(2**31)), None), ("json", '{"label": 1.0}', None),
     ("json", '{"label": true}', None), ("cls", "cat", None)],
)  # fmt: skip
def test_a_label_is_a_whole_number(tmp_path, encoded, suffix, text, label):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name, content in (("x.png", encoded[0][0]), (f"x.{suffix}", text.encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    if label is not None:
        assert open_dataset(f"wds://{tmp_path}/train-0.tar", "train").labels.tolist() == [label]
    else:
        with pytest.raises(DataError, match=rf"x: its \.{suffix} holds no label that is a whole number"):
            open_dataset(f"wds://{tmp_path}/train-0.tar", "train")


def test_expand_counts_as_it_is_written():
    assert [path.name for path in expand("/x/s-{008..011}.tar")] == [f"s-{number:03}.tar" for number in range(8, 12)]
    assert [str(path) for path in expand("{0..1}/s-{9..10}.tar")] == [
        "0/s-9.tar",
        "0/s-10.tar",
        "1/s-9.tar",
        "1/s-10.tar",
    ]


def test_a_slip_in_the_braces_is_refused_at_once():
    with pytest.raises(DataError, match="names more than 1,000,000 shards"):
        expand("train-{0..9999999999}.tar")


def test_brackets_in_a_folders_name_are_no_wildcard(shards):
    there = shards / "shards [v2]"
    there.mkdir()
    for shard in shards.glob("*.tar"):
        shard.rename(there / shard.name)
    assert len(open_dataset(f"wds://{there}/train-{{000..003}}.tar", "test")) == 40
    assert len(open_dataset(f"wds://{there}/train-*.tar", "train")) == 80


def test_class_names_that_begin_with_a_byte_order_mark(shards):
    """As Windows' editors write them."""
    names = [f"digit {label}" for label in range(10)]
    (shards / "classes.txt").write_text("\n".join(names), encoding="utf-8-sig")
    assert open_dataset(f"wds://{shards}/train-*.tar", "train").class_names == names


def test_samples_of_one_name_in_two_folders_are_two(tmp_path, encoded):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for folder, label in (("a", b"3"), ("b", b"5")):
            for suffix, content in (("png", encoded[0][0]), ("cls", label)):
                entry = tarfile.TarInfo(f"{folder}/0.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    assert open_dataset(f"wds://{tmp_path}/train-0.tar", "train").labels.tolist() == [3, 5]


def test_suffixes_in_capitals(tmp_path, encoded):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name, content in (("x.PNG", encoded[0][0]), ("x.CLS", b"3")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    train = open_dataset(f"wds://{tmp_path}/train-0.tar", "train")
    assert train.labels.tolist() == [3] and train.image(0).size == (8, 8)


def test_of_two_labels_the_first_kind_counts(tmp_path, encoded):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name, content in (("x.json", b'{"label": 4}'), ("x.png", encoded[0][0]), ("x.cls", b"3")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    assert open_dataset(f"wds://{tmp_path}/train-0.tar", "train").labels.tolist() == [3]
