"""`wds://DIR/shard-{000..146}.tar`: WebDataset shards, for sets that do not fit in memory.

A sample is the files of a shard that share a name up to the first dot: an image (`.jpg`, `.png`, …) and its label, as
`.cls` (a number) or `.json` (key `label`). Class names: `classes.txt` beside the shards, one a line, else the numbers.

The shards are local files, so their headers are read once (about 25 us a file) and samples are found by offset. That
gives what a pure stream cannot: an exact length, an order that is a function of seed and epoch, and a resume that reads
nothing it skips. Shards are taken in an order shuffled per epoch, samples are shuffled within a window of `WINDOW`.
"""

import json
import math
import os
import re
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcdnet.data.dataset import ALIASES, Dataset, decode, holdout, missing_split, natural_key, read_lines, spellings
from bcdnet.data.problems import raise_for
from bcdnet.data.progress import track
from bcdnet.errors import DataError
from bcdnet.image_files import is_image

MAX_SHARDS = 1_000_000
# Samples among which a shuffled order may jump: about seven shards of ImageNet.
WINDOW = 65536


class ShardDataset:
    """The samples of `shards`, in their order.

    Raises DataError that names each truncated shard and each sample without an image or a label.
    """

    def __init__(self, shards: list[Path]) -> None:
        self._shards = shards
        self.window = WINDOW
        problems: list[str] = []
        entries: list[NDArray[np.int64]] = []
        for shard in track(shards, "reading shards", total=len(shards)):
            try:
                state = shard.stat()
                entries.append(_index(shard, state.st_size, state.st_mtime_ns))
            except DataError as error:
                problems.append(str(error))
        raise_for(problems)
        table = np.concatenate(entries)
        self._offsets, self._sizes = table[:, 0].copy(), table[:, 1].copy()
        self.labels: NDArray[np.int64] = table[:, 2].copy()
        lengths = [len(shard) for shard in entries]
        self.groups: NDArray[np.int64] | None = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.class_names = _class_names(shards[0].parent, self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Decode one image. Raises DataError that names shard and sample."""
        with open(self._shards[self._shard(index)], "rb") as file:
            file.seek(int(self._offsets[index]))
            encoded = file.read(int(self._sizes[index]))
        return decode(encoded, self.where(index))

    def where(self, index: int) -> str:
        """`SHARD, sample S (byte B)`, S counted within the shard."""
        assert self.groups is not None
        shard = self._shard(index)
        return f"{self._shards[shard]}, sample {index - int(self.groups[shard])} (byte {self._offsets[index]})"

    def _shard(self, index: int) -> int:
        assert self.groups is not None
        return int(np.searchsorted(self.groups, index, side="right")) - 1


def open_shards(pattern: str, split: str) -> Dataset:
    """One split of the shards that `pattern` (the part after `wds://`) names.

    The pattern holds braces `{000..146}` or a `*`. In this order, the shards of a split are:

    - `split` itself, if it ends in `.tar`: a pattern, relative to the folder of the path's;
    - the pattern with its `{split}` replaced, and any numbers in place of its braces;
    - for `train`, a pattern that says `train`; for another split the same with that word replaced and any numbers;
    - a fixed part of the shards (`holdout`), if the pattern says neither.

    Raises DataError for shards that are not there.
    """
    if "://" in pattern or pattern.startswith("pipe:"):
        raise DataError(f"wds://{pattern}: only local shards are read; mount or download them first")
    pattern = os.path.expanduser(pattern)
    if split.endswith(".tar"):
        return ShardDataset(_existing(os.path.join(os.path.dirname(pattern), split)))
    if "{split}" in pattern:
        for name in spellings(split):
            if shards := expand(_any_number(pattern.replace("{split}", name)), existing=True):
                return ShardDataset(shards)
        raise missing_split(f"wds://{pattern}", split, [])
    # The word may stand in the file's name or in its folder's; further up it says nothing about the shards.
    said = re.fullmatch(r"(.*)train([^/]*(?:/[^/]*)?)", pattern)
    if not said:
        return holdout(ShardDataset(_existing(pattern)), split, f"wds://{pattern}")
    if split in ALIASES["train"]:
        return ShardDataset(_existing(pattern))
    for name in spellings(split):
        if shards := expand(f"{said[1]}{name}{_any_number(said[2])}", existing=True):
            return ShardDataset(shards)
    raise DataError(
        f"wds://{pattern}: no shards for split {split!r} beside those of train; "
        f"name them, as '{split}-{{000..009}}.tar': --split, or in a recipe data.test_split"
    )


def expand(pattern: str, existing: bool = False) -> list[Path]:
    """The paths that a pattern with braces `{000..146}` (zero-padded as written) and `*`, `?` names, in order.

    With `existing`, only if all of them are files; else an empty list. Raises DataError for more than a million.
    """
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    bounds = list(zip(parts[1::3], parts[2::3], strict=True))
    if math.prod(int(last) - int(first) + 1 for first, last in bounds) > MAX_SHARDS:
        raise DataError(f"wds://{pattern}: names more than {MAX_SHARDS:,} shards")
    ranges = [[str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)] for first, last in bounds]
    paths: list[Path] = []
    for numbers in product(*ranges):
        name = parts[0] + "".join(number + text for number, text in zip(numbers, parts[3::3], strict=True))
        if "*" in name or "?" in name:
            anchor = Path(name).anchor or "."
            relative = os.path.relpath(name, anchor).replace("[", "[[]")  # which is no wildcard here
            paths += sorted(Path(anchor).glob(relative), key=lambda path: natural_key(str(path)))
        else:
            paths.append(Path(name))
    return paths if not existing or all(path.is_file() for path in paths) else []


def _any_number(pattern: str) -> str:
    # Splits have different numbers of shards.
    return re.sub(r"\{\d+\.\.\d+\}", "*", pattern)


def _existing(pattern: str) -> list[Path]:
    shards = expand(pattern)
    lacking = [str(shard) for shard in shards if not shard.is_file()]
    if not shards or lacking:
        shown = ", ".join(lacking[:10]) + (f" and {len(lacking) - 10} more" if len(lacking) > 10 else "")
        raise DataError(f"wds://{pattern}: shards missing: {shown or 'no file matches'}")
    return shards


@lru_cache(maxsize=10_000)  # a run opens its shards to check them, and again to read them
def _index(shard: Path, size: int, _changed: int) -> NDArray[np.int64]:
    # [n, 3]: offset, size and label of each sample in order; the two or three files of a sample stand together.
    if size == 0:
        raise DataError(f"{shard}: empty file")
    samples: list[tuple[int, int, int]] = []
    problems: list[str] = []
    try:
        with open(shard, "rb") as file:
            # A whole archive ends with two blocks of zeros; tarfile does not miss them if it is cut between two files.
            file.seek(-min(size, 2 * tarfile.BLOCKSIZE), os.SEEK_END)
            if any(file.read()):
                raise tarfile.ReadError("truncated: no end-of-archive blocks")
        with tarfile.open(shard, "r:") as tar:
            for key, members in _by_sample(tar):
                image, label = _image(members), _label(tar, members)
                if isinstance(image, str) or isinstance(label, str):
                    problems.append(f"{shard}: {key}: {image if isinstance(image, str) else label}")
                else:
                    samples.append((image.offset_data, image.size, label))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{shard}: not a whole tar file ({error})") from None
    raise_for(problems)
    return np.array(samples, dtype=np.int64).reshape(-1, 3)


def _by_sample(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    key = ""
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
        folder, name = os.path.split(member.name)
        if not member.isfile() or name.startswith("."):
            continue
        stem, _, suffix = name.partition(".")
        if members and os.path.join(folder, stem) != key:
            yield key, members
            members = {}
        key = os.path.join(folder, stem)
        members[suffix.lower()] = member
    if members:
        yield key, members


def _image(members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | str:
    # The image, or what is wrong with it. Beside `x.jpg` there may be an `x.seg.png`, which is another thing.
    images = [suffix for suffix in members if is_image(f"x.{suffix}")]
    images = [suffix for suffix in images if "." not in suffix] or images
    if len(images) == 1:
        return members[images[0]]
    return f"several images (.{', .'.join(images)})" if images else "no image"


def _label(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> int | str:
    # The label, or what is wrong with it.
    problem = "no label (.cls or .json)"
    for suffix in ("cls", "json"):
        if suffix in members:
            file = tar.extractfile(members[suffix])
            assert file is not None  # a regular file
            text = file.read()
            try:
                label = int(text) if suffix == "cls" else json.loads(text)["label"]
            except (ValueError, KeyError, TypeError):
                label = None
            if type(label) is int and abs(label) < 2**31:
                return label
            problem = f"its .{suffix} holds no label that is a whole number"
    return problem


def _class_names(folder: Path, labels: NDArray[np.int64]) -> list[str]:
    listed = folder / "classes.txt"
    if listed.is_file():
        return [line.strip() for line in read_lines(listed)]
    return [str(label) for label in range(int(labels.max(initial=-1)) + 1)]
