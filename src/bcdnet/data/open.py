"""Find out what a path is, and open one of its splits."""

from pathlib import Path

from bcdnet.data.dataset import Dataset
from bcdnet.data.folder import class_folders, open_folder
from bcdnet.errors import DataError
from bcdnet.image_files import is_image

KINDS = "train.parquet and test.parquet, folders of images per class, hf://NAME, wds://….tar, or digits"


def open_dataset(path: str, split: str) -> Dataset:
    """Open a split of the dataset at `path`, whose kind is found by looking.

    - `digits`: scikit-learn's 8x8 digits (`Digits`);
    - `hf://NAME[:config]`: the Hugging Face hub (`HubDataset`);
    - `wds://…{000..146}.tar`: WebDataset shards (`open_shards`);
    - a folder with `train.parquet`, or `train-00000-of-0000N.parquet`, maybe in its `data/` (`ParquetDataset`);
    - a folder with `train/<class>/image` or `<class>/image` (`open_folder`).

    `train` is also found as `training`, `test` as `testing`, `val`, `valid` or `validation`. Raises DataError: nothing
    there, an unknown kind, a missing split, files that are truncated.
    """
    if path in ("", "hf://"):
        raise DataError(f"{path!r} names no dataset (which is {KINDS})")
    # Each kind is imported when it is met: folders of images need neither pyarrow nor scikit-learn.
    if path == "digits":
        from bcdnet.data.digits import Digits

        return Digits(split)
    if path.startswith("hf://"):
        from bcdnet.data.hub import HubDataset

        return HubDataset(path.removeprefix("hf://"), split)
    if path.startswith("wds://"):
        from bcdnet.data.webdataset import open_shards

        return open_shards(path.removeprefix("wds://"), split)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = "is a file; give its folder" if folder.exists() else "no such folder"
        raise DataError(f"{path}: {what} (a dataset is {KINDS})")
    if any(True for place in (folder, folder / "data") for _ in place.glob("*.parquet")):
        from bcdnet.data.parquet import ParquetDataset

        return ParquetDataset(folder, split)
    if class_folders(folder):
        return open_folder(folder, split)
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        raise DataError(f"{path}: empty folder (a dataset is {KINDS})")
    if any(is_image(name) for name in names):
        raise DataError(f"{path}: images without labels; put them in one folder per class")
    if any(name.endswith(".tar") for name in names):
        raise DataError(f"{path}: tar shards; name them, as in wds://{path}/train-{{000..009}}.tar")
    raise DataError(f"{path}: not a dataset (which is {KINDS}); found {', '.join(names[:5])}")
