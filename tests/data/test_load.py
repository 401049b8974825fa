import numpy as np
import pytest
import torch
from PIL import Image

from bcdnet.data import AugmentConfig, DataConfig, Images, Stream, load_images, load_train
from bcdnet.data.dataset import Subset
from bcdnet.data.load import load, memory_budget
from bcdnet.data.open import open_dataset
from bcdnet.errors import DataError, RecipeError

GREY = {"channels": 1, "mean": (0.5,), "std": (0.25,)}
CROPPED = AugmentConfig(crop="random_resized")


def test_images_are_decoded_into_memory(parquet_folder, pixels):
    config = DataConfig(str(parquet_folder), 8, **GREY)
    train = load_images(config.path, "train", config)
    assert isinstance(train, Images)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    assert np.array_equal(train.images.numpy(), pixels[:100])
    assert train.class_names[9] == "digit 9"
    assert load_images(config.path, "train", config, CROPPED).augment == CROPPED


def test_a_real_set(shared):
    fashion = DataConfig(str(shared / "data" / "fashion-mnist"), 28, **GREY)
    images = load_images(fashion.path, "test", fashion)
    assert images.images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(images.labels).tolist() == [1000] * 10
    assert images.class_names[9] == "Ankle boot"
    # The mean of Fashion-MNIST's test split, as published with the common normalisation (0.286, train and test).
    assert images.images.float().mean().item() / 255 == pytest.approx(0.2868, abs=2e-3)


def test_validation_is_held_out_of_train(parquet_folder, pixels):
    for validation, count in ((20, 20), (0.1, 10)):
        config = DataConfig(str(parquet_folder), 8, validation=validation, **GREY)
        train, held_out = load_train(config)
        assert (len(train), len(held_out)) == (100 - count, count)
        chosen = [held_out.image(index) for index in range(count)]
        seen = [*map(bytes, train.images.numpy()), *(image.tobytes() for image in chosen)]
        assert sorted(seen) == sorted(map(bytes, pixels[:100]))
        assert torch.equal(load_train(config)[0].images, train.images)
    train, held_out = load_train(DataConfig(str(parquet_folder), 8, validation=0.29, **GREY))
    assert (len(train), len(held_out)) == (71, 29)  # although 0.29 * 100 is a little less in float64
    assert load_train(DataConfig(str(parquet_folder), 8, **GREY))[1] is None
    with pytest.raises(RecipeError, match="validation: 100 holds 100 of 100 training images out"):
        load_train(DataConfig(str(parquet_folder), 8, validation=100))


def test_a_set_that_is_cropped_at_random_is_kept_larger(parquet_folder, tmp_path, encoded, write_tree):
    config = DataConfig(str(parquet_folder), 14, crop_pct=0.875)
    assert load_train(config, CROPPED)[0].images.shape[-2:] == (16, 16)
    assert load_images(config.path, "test", config).images.shape[-2:] == (14, 14)
    # At the stored size there is nothing to enlarge, but for one of several images.
    same = DataConfig(str(parquet_folder), 8, crop_pct=0.5)
    assert load_train(same, CROPPED)[0].images.shape[-2:] == (8, 8)
    write_tree(tmp_path / "tree" / "train", encoded[:6])
    Image.new("L", (64, 64)).save(next((tmp_path / "tree" / "train").glob("*")) / "large.png")
    assert load_train(DataConfig(str(tmp_path / "tree"), 8, crop_pct=0.5), CROPPED)[0].images.shape[-2:] == (16, 16)


def test_what_does_not_fit_is_streamed(parquet_folder, monkeypatch):
    config = DataConfig(str(parquet_folder), 8, **GREY)
    monkeypatch.setattr("bcdnet.data.load.memory_budget", lambda: 100 * 64 - 1)
    assert isinstance(load_images(config.path, "train", config), Stream)
    assert isinstance(load_images(config.path, "test", config), Images)
    monkeypatch.setattr("bcdnet.data.load.memory_budget", lambda: 100 * 64 * 3 - 1)
    assert isinstance(load_images(config.path, "train", config), Images)
    assert isinstance(load_images(config.path, "train", DataConfig(config.path, 8)), Stream)  # in colour
    for in_memory, kind in ((True, Images), (False, Stream)):
        forced = DataConfig(str(parquet_folder), 8, in_memory=in_memory, **GREY)
        assert isinstance(load_images(config.path, "train", forced), kind)


def test_the_budget_is_shared_by_processes(parquet_folder, monkeypatch):
    config = DataConfig(str(parquet_folder), 8, **GREY)
    monkeypatch.setattr("bcdnet.data.load.memory", lambda: 4 * 100 * 64)
    assert memory_budget() == 100 * 64
    assert isinstance(load_train(config)[0], Images)
    assert isinstance(load_train(config, processes=2)[0], Stream)


def test_shards_are_streamed(tmp_path, encoded, write_tar):
    write_tar(tmp_path / "train-0.tar", encoded)
    config = DataConfig(f"wds://{tmp_path}/train-{{0..0}}.tar", 8)
    assert isinstance(load_images(config.path, "train", config), Stream)


def test_all_broken_images_and_labels_are_named(tmp_path, encoded, write_parquet):
    rows = list(encoded[:30])
    rows[4] = (rows[4][0][:40], rows[4][1])
    rows[28] = (b"", rows[28][1])
    config = DataConfig(str(tmp_path), 8)
    write_parquet(tmp_path / "train.parquet", rows)
    with pytest.raises(DataError, match=r"row 4: is not an image.*; .*row 28: empty image"):
        load_images(config.path, "train", config)
    write_parquet(tmp_path / "train.parquet", [(rows[0][0], 3), (rows[0][0], 10), (rows[0][0], -2)])
    with pytest.raises(DataError, match=r"row 1: label 10 is not one of 10 classes; .*row 2: label -2"):
        load_images(config.path, "train", config)
    write_parquet(tmp_path / "train.parquet", [(b"x", 0)] * 50)
    with pytest.raises(DataError, match="; and 30 more"):
        load_images(config.path, "train", config)
    write_parquet(tmp_path / "train.parquet", [])
    with pytest.raises(DataError, match="split 'train': empty"):
        load_images(config.path, "train", config)


def test_large_images_are_decoded_by_threads_in_order(shared, monkeypatch):
    config = DataConfig(str(shared / "data" / "imagenette-160"), 32)
    some = Subset(open_dataset(config.path, "test"), np.arange(0, 3000, 30))
    threaded = load(some, config, AugmentConfig(), "test")
    monkeypatch.setattr("bcdnet.data.load.THREADED_PIXELS", 1 << 30)
    assert torch.equal(load(some, config, AugmentConfig(), "test").images, threaded.images)
