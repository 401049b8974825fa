import subprocess
import sys

import pytest

from bcdnet.data.digits import Digits
from bcdnet.data.folder import FolderDataset
from bcdnet.data.open import open_dataset
from bcdnet.data.parquet import ParquetDataset
from bcdnet.errors import DataError


def test_kinds_are_found_by_looking(tmp_path, parquet_folder, encoded, write_tree):
    write_tree(tmp_path / "tree" / "train", encoded[:20])
    assert isinstance(open_dataset("digits", "test"), Digits)
    assert isinstance(open_dataset(str(parquet_folder), "train"), ParquetDataset)
    assert isinstance(open_dataset(str(tmp_path / "tree"), "train"), FolderDataset)


def test_what_is_no_dataset_says_what_one_is(tmp_path, encoded):
    def message(path):
        with pytest.raises(DataError) as caught:
            open_dataset(str(path), "train")
        return str(caught.value)

    assert "no such folder (a dataset is train.parquet" in message(tmp_path / "nowhere")
    assert "empty folder" in message(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert "not a dataset" in message(tmp_path)
    assert "is a file; give its folder" in message(tmp_path / "notes.txt")
    (tmp_path / "a.tar").write_bytes(b"")
    assert f"wds://{tmp_path}" in message(tmp_path)
    (tmp_path / "a.png").write_bytes(encoded[0][0])
    assert "images without labels" in message(tmp_path)


def test_folders_of_images_need_no_other_package(tmp_path, encoded, write_tree):
    write_tree(tmp_path / "test", encoded[:20])
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'sklearn', 'torch', 'datasets'): sys.modules[name] = None\n"
        "from bcdnet.data import open_dataset\n"
        f"print(len(open_dataset({str(tmp_path)!r}, 'test')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "20\n"
