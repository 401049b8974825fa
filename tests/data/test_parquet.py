import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcdnet.data.parquet import ParquetDataset, _columns
from bcdnet.errors import DataError


def test_reads_images_labels_and_names(parquet_folder, encoded, pixels):
    train = ParquetDataset(parquet_folder, "train")
    assert len(train) == 100
    assert train.class_names == [f"digit {label}" for label in range(10)]
    assert train.labels.tolist() == [label for _, label in encoded[:100]]
    assert train.groups.tolist() == [0, 25, 50, 75, 100]
    for index in (0, 24, 25, 99):
        assert np.array_equal(np.asarray(train.image(index)), pixels[index, 0])
    assert train.where(30) == f"{parquet_folder}/train.parquet, row 30"


def test_shards_in_a_data_folder_in_order(tmp_path, encoded, pixels, write_parquet):
    for number in range(3):
        write_parquet(
            tmp_path / "data" / f"train-{number:05}-of-00003.parquet", encoded[number * 10 : number * 10 + 10], hub=True
        )
    train = ParquetDataset(tmp_path, "train")
    assert train.labels.tolist() == [label for _, label in encoded[:30]]
    assert train.class_names[3] == "digit 3"
    assert train.where(12).endswith("train-00001-of-00003.parquet, row 2")
    assert np.array_equal(np.asarray(train.image(25)), pixels[25, 0])
    for number, file in enumerate(sorted((tmp_path / "data").iterdir())):  # as older versions of datasets named them
        file.rename(file.with_stem(f"{file.stem}-{number:x}42a775f407cee45"))
    assert ParquetDataset(tmp_path, "train").labels.tolist() == train.labels.tolist()
    (tmp_path / "data" / "train-00001-of-00003-142a775f407cee45.parquet").unlink()
    with pytest.raises(DataError, match="shards missing: 1"):
        ParquetDataset(tmp_path, "train")


def test_shards_are_counted(tmp_path, encoded, write_parquet):
    for number in (11, 2):
        write_parquet(tmp_path / f"train-{number}.parquet", encoded[number : number + 1])
    assert ParquetDataset(tmp_path, "train").labels.tolist() == [encoded[2][1], encoded[11][1]]


def test_a_place_is_that_within_its_file_and_all_broken_files_are_named(tmp_path, encoded, write_parquet):
    for number in range(2):
        write_parquet(tmp_path / f"train-{number}.parquet", encoded[:10])
    assert ParquetDataset(tmp_path, "train").where(10) == f"{tmp_path}/train-1.parquet, row 0"
    for number in range(2):
        (tmp_path / f"train-{number}.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-0\.parquet: empty file; .*train-1\.parquet: empty file"):
        ParquetDataset(tmp_path, "train")


@pytest.mark.parametrize("other", ["train.parquet", "train-00000-of-00002.parquet"])
def test_a_set_that_lies_there_twice_is_not_read_twice(tmp_path, encoded, write_parquet, other):
    for name in ("train-00000-of-00001.parquet", other):
        write_parquet(tmp_path / name, encoded[:5])
    with pytest.raises(DataError, match=rf"files of different sets: .*{other}"):
        ParquetDataset(tmp_path, "train")


@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_a_shard_that_is_not_there_is_named_wherever_it_belongs(tmp_path, encoded, write_parquet, lacking):
    for number in {0, 1, 2} - {lacking}:
        write_parquet(tmp_path / f"train-{number:05}-of-00003.parquet", encoded[:5])
    with pytest.raises(DataError, match=rf"train-\*\.parquet: shards missing: {lacking}$"):
        ParquetDataset(tmp_path, "train")


@pytest.mark.parametrize("hub", [False, True])
def test_classes_stay_in_the_order_of_their_numbers(tmp_path, encoded, write_parquet, hub):
    names = ["zebra", "Ape", "ape", "10", "9"]
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
    metadata = {"huggingface": json.dumps(features)} if hub else {"class_names": json.dumps(names)}
    file = write_parquet(tmp_path / "train.parquet", [(encoded[0][0], 4)])
    pq.write_table(pq.read_table(file).replace_schema_metadata(metadata), file)
    assert ParquetDataset(tmp_path, "train").class_names == names


def test_shards_have_the_same_classes(tmp_path, encoded, write_parquet):
    for number in range(2):
        write_parquet(tmp_path / f"train-{number}.parquet", encoded[:5], names=number == 0)
    with pytest.raises(DataError, match=r"train-1\.parquet: other classes, .* than .*train-0\.parquet"):
        ParquetDataset(tmp_path, "train")


def test_without_names_classes_are_numbered(tmp_path, encoded, write_parquet):
    write_parquet(tmp_path / "train.parquet", encoded[:50], names=False)
    assert ParquetDataset(tmp_path, "train").class_names == [str(label) for label in range(10)]
    write_parquet(tmp_path / "train.parquet", [(encoded[0][0], 0), (encoded[1][0], 3)], names=False)
    assert ParquetDataset(tmp_path, "train").class_names == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("image", "label"), [("img", "fine_label"), ("image", "labels")])
def test_columns_as_well_known_sets_call_them(tmp_path, encoded, pixels, image, label):
    columns = {image: [png for png, _ in encoded[:5]], label: [number for _, number in encoded[:5]]}
    pq.write_table(pa.table({"coarse_label": [0] * 5, **columns}), tmp_path / "train.parquet")
    train = ParquetDataset(tmp_path, "train")
    assert train.labels.tolist() == [number for _, number in encoded[:5]]
    assert np.array_equal(np.asarray(train.image(4)), pixels[4, 0])


def test_a_copy_for_a_worker_reads_the_same(parquet_folder):
    train = ParquetDataset(parquet_folder, "train")
    train.image(0)
    copy = pickle.loads(pickle.dumps(train))
    assert copy.image(60).tobytes() == train.image(60).tobytes()


def test_few_row_groups_stay_in_memory(parquet_folder, monkeypatch):
    monkeypatch.setattr("bcdnet.data.parquet.WINDOW", 25)
    train = ParquetDataset(parquet_folder, "train")
    for index in (0, 30, 60, 90, 0):
        train.image(index)
    assert list(train._cache) == [3, 0]


def test_every_truncated_file_is_named(parquet_folder):
    train = parquet_folder / "train.parquet"
    whole = train.read_bytes()
    for broken in (whole[:-100], whole[: len(whole) // 2], b"PAR1", b"not parquet at all"):
        train.write_bytes(broken)
        with pytest.raises(DataError, match=rf"{train}: not readable as Parquet, truncated or corrupt"):
            ParquetDataset(parquet_folder, "train")
    train.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{train}: empty file"):
        ParquetDataset(parquet_folder, "train")


def test_corrupt_pages_are_named_with_their_row(parquet_folder):
    train = parquet_folder / "train.parquet"
    metadata = pq.ParquetFile(train).metadata.row_group(2).column(0)
    content = bytearray(train.read_bytes())
    content[metadata.data_page_offset : metadata.data_page_offset + 200] = bytes(200)
    train.write_bytes(content)
    dataset = ParquetDataset(parquet_folder, "train")
    dataset.image(0)
    with pytest.raises(DataError, match=rf"{train}, row 55: cannot read"):
        dataset.image(55)


def test_missing_split_and_columns(tmp_path, parquet_folder):
    with pytest.raises(DataError, match=r"no split 'extra' \(found: test, train\)"):
        ParquetDataset(parquet_folder, "extra")
    for columns, message in (
        ({"image": [b"x"], "name": ["a"]}, "needs columns `image` and `label`, has image, name"),
        ({"image": ["x"], "label": [1]}, "column `image` must be"),
        ({"image": [b"x"], "label": ["cat"]}, "column `label` must be an integer"),
    ):
        pq.write_table(pa.table(columns), tmp_path / "train.parquet")
        with pytest.raises(DataError, match=message):
            ParquetDataset(tmp_path, "train")


def test_what_could_be_read_in_two_ways_is_refused(tmp_path, encoded, write_parquet):
    file = write_parquet(tmp_path / "train.parquet", encoded[:3])
    table = pq.read_table(file)
    pq.write_table(table.append_column("label", table["label"]), file)
    with pytest.raises(DataError, match="has more than one column `label`"):
        ParquetDataset(tmp_path, "train")
    pq.write_table(table.replace_schema_metadata({"class_names": '{"1": "cat", "0": "dog"}'}), file)
    with pytest.raises(DataError, match="class_names is no JSON list"):
        ParquetDataset(tmp_path, "train")


def test_images_of_the_newer_binary_type(tmp_path, encoded, pixels):
    columns = {"image": pa.array([image for image, _ in encoded[:3]], pa.binary_view()), "label": [0, 1, 2]}
    assert _columns(pa.table(columns).schema) == ("image", "label")
    try:
        pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    except pa.ArrowNotImplementedError:
        pytest.skip("this version of pyarrow writes no binary_view")
    train = ParquetDataset(tmp_path, "train")
    assert np.array_equal(np.asarray(train.image(2)), pixels[2, 0])


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint64"])
def test_labels_may_be_integers_of_any_kind(tmp_path, encoded, write_parquet, kind):
    file = write_parquet(tmp_path / "train.parquet", [*encoded[:3], (encoded[3][0], None)])
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "label", table["label"].cast(kind)), file)
    assert ParquetDataset(tmp_path, "train").labels.tolist() == [*(label for _, label in encoded[:3]), -1]


def test_missing_bytes_and_labels_are_named(tmp_path, encoded, write_parquet):
    write_parquet(tmp_path / "train.parquet", [encoded[0], (None, 2), (encoded[2][0], None)])
    train = ParquetDataset(tmp_path, "train")
    assert train.labels[2] == -1
    with pytest.raises(DataError, match="row 1: empty image"):
        train.image(1)


def test_images_of_several_files_with_several_row_groups_are_told_apart(tmp_path, encoded, pixels, write_parquet):
    for number in range(3):
        write_parquet(tmp_path / f"train-{number}.parquet", encoded[number * 20 : number * 20 + 20], group=5)
    train = ParquetDataset(tmp_path, "train")
    for index in [*np.random.default_rng(0).permutation(60), *range(60)]:
        assert np.array_equal(np.asarray(train.image(index)), pixels[index, 0]), index
