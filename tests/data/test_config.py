import pytest

from bcdnet.config import from_dict, to_dict
from bcdnet.data import AugmentConfig, DataConfig, preprocess_of
from bcdnet.errors import RecipeError

DATA = {"path": "digits", "image_size": 32}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"path": ""}, "path"),
        ({"image_size": 2}, "image_size"),
        ({"validation": -0.1}, "validation"),
        ({"validation": 1.5}, "validation"),
        ({"channels": 4}, "channels"),
        ({"channels": 1}, "mean"),
        ({"std": (0.2, 0.2, 0.0)}, "std"),
        ({"crop_pct": 1.2}, "crop_pct"),
        ({"interpolation": "lanczos"}, "interpolation"),
        ({"workers": -1}, "workers"),
    ],
)
def test_data_values_out_of_range_are_named(change, named):
    with pytest.raises(RecipeError, match=f"^{named}: must be"):
        DataConfig(**(DATA | change))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"crop": "centre"}, "crop"),
        ({"padding": 0}, "padding"),
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"color_jitter": (0.4,)}, "color_jitter"),
        ({"color_jitter": (0.4, 0.4, 1.4)}, "color_jitter"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, "color_jitter"),
        ({"policy": "autoaugment"}, "policy"),
        ({"policy_ops": 0}, "policy_ops"),
        ({"policy_magnitude": 31}, "policy_magnitude"),
        ({"erase": 1.1}, "erase"),
        ({"mixup": -1.0}, "mixup"),
        ({"cutmix": float("inf")}, "cutmix"),
    ],
)
def test_augmentation_values_out_of_range_are_named(change, named):
    with pytest.raises(RecipeError, match=f"^{named}: must be"):
        AugmentConfig(**change)


def test_recipes_read_and_write_both():
    data = from_dict(DataConfig, DATA | {"validation": 5000, "mean": [0.5, 0.5, 0.5]}, "data")
    assert data.validation == 5000
    assert from_dict(DataConfig, to_dict(data)) == data
    augment = from_dict(AugmentConfig, {"crop": "random_resized", "scale": [0.2, 1], "color_jitter": [0.4, 0.4, 0.4]})
    assert from_dict(AugmentConfig, to_dict(augment)) == augment
    with pytest.raises(RecipeError, match=r"data\.crop_pct: must be between 0\.1 and 1, got 3"):
        from_dict(DataConfig, DATA | {"crop_pct": 3}, "data")


def test_preprocessing_in_timm_keys():
    config = DataConfig("x", 224, crop_pct=0.875, interpolation="bicubic")
    assert config.resize_size == 256
    assert DataConfig("x", 32, crop_pct=0.9).resize_size == 36  # of 35.6
    assert preprocess_of(config) == {
        "input_size": [3, 224, 224],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
    }
