"""An ImageFolder tree: `train/<class>/*.jpg` and `val|test|validation/<class>/*.jpg`, or `<class>/*.jpg` alone.

Classes are the folders' names in sorted order, as torchvision numbers them. A tree without split folders has no test
images of its own, so it is divided by `holdout`: 10 % stratified, always the same.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcdnet.data.dataset import ALIASES, Dataset, decode, find_split, holdout, missing_split, read_lines
from bcdnet.data.problems import raise_for
from bcdnet.errors import DataError
from bcdnet.image_files import is_image, walk_images

# Tiny-ImageNet's own archive keeps the images of `val` in one folder, and says here which class each has.
ANNOTATIONS = "val_annotations.txt"
CALLED_SO = {name for names in ALIASES.values() for name in names}  # what folders of splits are called


class FolderDataset:
    """Images under `root/<class>/`, at any depth below the class, or listed in Tiny-ImageNet's `val_annotations.txt`.

    Files that begin with a dot are passed over. Raises DataError that names one for images beside the class folders.
    """

    def __init__(self, root: Path) -> None:
        if (root / ANNOTATIONS).is_file():
            self.class_names, names, labels = _annotated(root)
        else:
            self.class_names, names, labels = _by_class(root)
        self._root = str(root)
        # An array of fixed-width strings is one block of memory that workers copy quickly; a list of a million is not.
        self._names = np.array(names, dtype=np.str_)
        self.labels: NDArray[np.int64] = np.array(labels, dtype=np.int64)
        self.groups: NDArray[np.int64] | None = None
        self.window = len(names)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Decode one image. Raises DataError that names the file."""
        file = self.where(index)
        try:
            encoded = Path(file).read_bytes()
        except OSError as error:
            raise DataError(f"{file}: cannot read: {error.strerror}") from None
        return decode(encoded, file)

    def where(self, index: int) -> str:
        """The file's path."""
        return os.path.join(self._root, str(self._names[index]))


def open_folder(path: Path, split: str) -> Dataset:
    """One split of the tree at `path`.

    Raises DataError for a missing split and, where it may be for training, for each class folder without images.
    """
    splits = split_folders(path)
    if not splits:
        folders = class_folders(path)
        if folders and CALLED_SO.issuperset(name.casefold() for name in folders):
            raise DataError(
                f"{path}: {', '.join(folders)} hold images without labels; give each class a folder in them"
            )
        if (path / split).is_dir() and class_folders(path / split):
            return _complete(path / split)  # a name of the user's own, as in data.train_split=training_set
        return holdout(_complete(path), split, str(path))
    name = find_split(split, splits)
    if name is None and (unlabelled := find_split(split, class_folders(path))):
        raise DataError(f"{path / unlabelled}: has no labels; give each class a folder in it")
    if name is None:
        raise missing_split(str(path), split, splits)
    # A class may want images to be judged on, but not to be learned from.
    return FolderDataset(path / name) if find_split("train", [name]) is None else _complete(path / name)


def _complete(root: Path) -> FolderDataset:
    dataset = FolderDataset(root)
    empty = np.flatnonzero(np.bincount(dataset.labels, minlength=len(dataset.class_names)) == 0)
    raise_for([f"{root / dataset.class_names[label]}: no images in this class folder" for label in empty])
    return dataset


def _by_class(root: Path) -> tuple[list[str], list[str], list[int]]:
    # Class names, files relative to `root`, and the label of each file.
    stray = [entry.name for entry in os.scandir(root) if entry.is_file() and is_image(entry.name)]
    if stray:
        raise DataError(f"{root}: {len(stray)} images outside of class folders, such as {min(stray)}")
    class_names = class_folders(root)
    names: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(class_names):
        found = sorted(str(file.relative_to(root)) for file in walk_images(root / class_name))
        names += found
        labels += [label] * len(found)
    return class_names, names, labels


def _annotated(root: Path) -> tuple[list[str], list[str], list[int]]:
    rows = [line.split("\t") for line in read_lines(root / ANNOTATIONS)]
    raise_for([f"{root / ANNOTATIONS}: line {n} has no class" for n, row in enumerate(rows, start=1) if len(row) < 2])
    class_names = sorted({row[1] for row in rows})
    number = {name: label for label, name in enumerate(class_names)}
    return class_names, [os.path.join("images", row[0]) for row in rows], [number[row[1]] for row in rows]


def split_folders(path: Path) -> list[str]:
    """The split folders of a tree: all with labels, if one that is called like a split has folders in it; else none."""
    folders = class_folders(path)
    if not any(name.casefold() in CALLED_SO and class_folders(path / name) for name in folders):
        return []
    return [name for name in folders if not _without_labels(path / name)]


def _without_labels(folder: Path) -> bool:
    # As Tiny-ImageNet's `test`: all in one place, and no table of their classes.
    return class_folders(folder) in ([], ["images"]) and not (folder / ANNOTATIONS).is_file()


def class_folders(root: Path) -> list[str]:
    """Names of the folders directly under `root`, sorted, hidden ones left out."""
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
