import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bcdnet.data import AugmentConfig, Batches, DataConfig, Stream, load_images
from bcdnet.errors import DataError

GREY = {"channels": 1, "mean": (0.5,), "std": (0.25,)}
CROPPED = AugmentConfig(crop="random_resized", flip=True)


def epoch_of(source, epoch=0, start=0, seed=7):
    return list(Batches(source, 16, seed=seed)(epoch, start=start))


def equal(left, right):
    return len(left) == len(right) and all(
        torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True)
    )


@pytest.fixture
def stream(parquet_folder):
    config = DataConfig(str(parquet_folder), 8, in_memory=False, workers=0, **GREY)
    return load_images(config.path, "train", config)


def test_a_stream_gives_what_memory_gives(parquet_folder, stream):
    config = DataConfig(str(parquet_folder), 8, **GREY)
    memory = load_images(config.path, "train", config)
    streamed = list(Batches(stream, 16, shuffle=False)(0))
    assert equal(streamed, list(Batches(memory, 16, shuffle=False)(0)))
    assert stream.class_names == memory.class_names
    assert torch.equal(stream.labels, memory.labels)


def test_an_epoch_is_every_image_once_in_its_own_order(stream):
    first, second = epoch_of(stream, 0), epoch_of(stream, 1)
    assert equal(first, epoch_of(stream, 0))
    assert not equal(first, second)
    for batches in (first, second):
        labels = torch.cat([labels for _, labels in batches])
        assert torch.equal(labels.sort().values, stream.labels.sort().values)
    assert equal(epoch_of(stream, 1, start=4), second[4:])
    assert not equal(first, epoch_of(stream, 0, seed=8))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 40), st.integers(0, 3))
def test_a_streamed_order_stays_within_its_window(sizes, window, epoch):
    class Grouped:
        groups = np.cumsum([0, *sizes])
        labels = np.zeros(sum(sizes), dtype=np.int64)
        class_names = ("class",)

    Grouped.window = window
    order = Stream(Grouped(), DataConfig("x", 8), AugmentConfig()).order(3, epoch)
    assert np.array_equal(np.sort(order), np.arange(sum(sizes)))
    # A window holds whole groups and at most one broken one at either end.
    for start in range(0, len(order), window):
        inside = np.bincount(np.searchsorted(Grouped.groups, order[start : start + window], side="right") - 1)
        broken = [group for group in np.flatnonzero(inside) if inside[group] < sizes[group]]
        assert len(broken) <= 2


def test_a_streamed_order_mixes_the_groups_and_what_a_window_holds():
    class Grouped:
        groups, window = np.arange(0, 1001, 10), 50
        labels, class_names = np.zeros(1000, dtype=np.int64), ("class",)

    order = Stream(Grouped(), DataConfig("x", 8), AugmentConfig()).order(3, 0)
    assert (np.diff(order) == 1).mean() < 0.1
    assert np.ptp(order.reshape(-1, 50), axis=1).mean() > 400  # a window's five groups lie anywhere


def test_random_crops_are_made_by_whoever_decodes(parquet_folder):
    config = DataConfig(str(parquet_folder), 12, in_memory=False, workers=0)
    stream = load_images(config.path, "train", config, CROPPED)
    assert stream.augment == AugmentConfig(crop="none", flip=True)
    first = epoch_of(stream)
    assert first[0][0].shape == (16, 3, 12, 12)
    assert equal(first, epoch_of(stream))
    # The crop belongs to (seed, epoch, image): another batch size gives the same pixels.
    alone = torch.cat([images for images, _ in Batches(stream, 1, seed=7)(0)])
    assert torch.equal(alone, torch.cat([images for images, _ in first]))
    # Another seed or epoch crops the same image in another way.
    by_image = [
        dict(zip(batches.indices(epoch, 0), next(batches(epoch))[0], strict=True))
        for batches, epoch in ((Batches(stream, 100, seed=seed), epoch) for seed, epoch in ((7, 0), (7, 1), (8, 0)))
    ]
    for other in by_image[1:]:
        assert sum(torch.equal(by_image[0][index], other[index]) for index in range(100)) < 20


def test_a_streamed_crop_has_the_ratio_asked_for():
    """Twice as wide as high, and as large as it can be: the whole of one image, the middle of a square one."""

    class Ramps:
        class_names, labels, groups, window = ["class"], np.zeros(2, dtype=np.int64), None, 2

        def image(self, index):
            return Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (32 if index == 0 else 64, 1)))

    augment = AugmentConfig(crop="random_resized", scale=(1, 1), ratio=(2, 2))
    stream = Stream(Ramps(), DataConfig("x", 32, workers=0, **GREY), augment)
    wide, square = next(Batches(stream, 2, shuffle=False)(0))[0][:, 0].int()
    assert torch.equal(wide, square) and wide[7].diff()[:-1].eq(2).all()


def test_memory_is_pinned_for_a_gpu_alone(stream, monkeypatch):
    """Whoever fetched before: a few batches on the CPU must not slow down what goes to a GPU."""
    made = []
    monkeypatch.setattr(
        torch.utils.data, "DataLoader", lambda *_, **settings: made.append(settings) or Loader(settings)
    )

    class Loader(list):
        def __init__(self, settings):
            self.pin_memory = settings["pin_memory"]

    for kind in ("cpu", "cpu", "cuda", "cuda"):
        list(stream.fetch([], 0, 0, torch.device(kind)))
    assert [settings["pin_memory"] for settings in made] == [False, True]


def test_worker_processes_change_nothing(parquet_folder, stream):
    config = DataConfig(str(parquet_folder), 8, in_memory=False, workers=2, **GREY)
    parallel = load_images(config.path, "train", config)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches = Batches(parallel, 16, seed=7)
    assert equal(list(batches(0)), epoch_of(stream, 0))
    next(batches(1))  # an epoch that is left in its middle
    assert equal(list(batches(1, start=2)), epoch_of(stream, 1, start=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_that_are_killed_are_replaced(parquet_folder, stream, caplog):
    """As by a scheduler that sends SIGTERM to all processes of a run, which has a checkpoint to write yet."""
    config = DataConfig(str(parquet_folder), 8, in_memory=False, workers=2, **GREY)
    batches = Batches(load_images(config.path, "train", config), 16, seed=7)
    before = set(multiprocessing.active_children())
    begun = batches(0)
    read = [next(begun)]
    for worker in set(multiprocessing.active_children()) - before:
        worker.terminate()
        worker.join()
    assert equal([*read, *begun], epoch_of(stream, 0))
    assert "others take their place" in caplog.text
    assert set(multiprocessing.active_children()) - before


def test_workers_end_with_a_process_that_is_killed(parquet_folder):
    """Else each training that runs out of memory would leave its own behind, in the memory that the next one wants."""
    code = (
        "import time; from bcdnet.data import Batches, DataConfig, load_images; "
        f"path = {str(parquet_folder)!r}; config = DataConfig(path, 8, in_memory=False, workers=2); "
        "batches = Batches(load_images(path, 'train', config), 16)(0); next(batches); "
        "print('begun', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.kill()
        process.communicate(timeout=60)  # until its output is closed, which the workers have too


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_in_one_line(tmp_path, encoded, write_parquet, workers):
    rows = list(encoded[:40])
    rows[33] = (rows[33][0][:40], rows[33][1])
    write_parquet(tmp_path / "train.parquet", rows)
    config = DataConfig(str(tmp_path), 8, in_memory=False, workers=workers)
    batches = Batches(load_images(config.path, "train", config), 16, shuffle=False)(0)
    with pytest.raises(DataError, match=r"^\S+train\.parquet, row 33: is not an image[^\n]*; with data\.check[^\n]*$"):
        list(batches)


def test_shards_stream_in_a_seeded_order(tmp_path, encoded, write_tar):
    for number in range(3):
        write_tar(tmp_path / f"train-{number}.tar", encoded[number * 40 : number * 40 + 40], first=number * 40)
    config = DataConfig(f"wds://{tmp_path}/train-{{0..2}}.tar", 8, workers=0, **GREY)
    stream = load_images(config.path, "train", config)
    whole = epoch_of(stream, 2)
    assert sum(len(labels) for _, labels in whole) == len(stream) == 120
    assert equal(epoch_of(stream, 2, start=3), whole[3:])


def test_images_that_lie_side_by_side_do_not_come_so(tmp_path, stream, encoded, write_tar):
    """Files of one class often do."""
    for number in range(3):
        write_tar(tmp_path / f"train-{number}.tar", encoded[number * 40 : number * 40 + 40], first=number * 40)
    config = DataConfig(f"wds://{tmp_path}/train-{{0..2}}.tar", 8, workers=0, **GREY)
    for source in (stream, load_images(config.path, "train", config)):
        assert (np.diff(source.order(7, 0)) == 1).mean() < 0.1


class Repeated:
    """One picture, thirty times."""

    class_names, groups, window = ["class"], None, 30
    labels = np.zeros(30, dtype=np.int64)

    def __init__(self, picture):
        self.picture = picture

    def image(self, index):
        return self.picture


def test_each_streamed_image_is_cropped_in_its_own_way():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8))
    config = DataConfig("x", 16, workers=0, channels=1, mean=(0.5,), std=(0.25,))
    stream = Stream(Repeated(picture), config, AugmentConfig(crop="random_resized"))
    (images, _), *_ = Batches(stream, 30, shuffle=False)(0)
    assert len(images.flatten(1).unique(dim=0)) > 25


def test_a_streamed_crop_is_interpolated_as_the_recipe_says():
    """The nearest pixel's value is one that the image has."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 2, (48, 48), np.uint8) * 255)
    shades = {}
    for interpolation in ("nearest", "bilinear"):
        config = DataConfig("x", 16, workers=0, interpolation=interpolation, **GREY)
        stream = Stream(Repeated(picture), config, AugmentConfig(crop="random_resized"))
        (images, _), *_ = Batches(stream, 30, shuffle=False)(0)
        shades[interpolation] = len(images.unique())
    assert shades["nearest"] == 2 < shades["bilinear"]
