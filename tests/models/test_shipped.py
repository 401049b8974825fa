"""The models that ship with the package, as timm's pretrained ones."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from bcdnet.compiler import load_trained
from bcdnet.models import VARIANTS, Network
from bcdnet.nn import restore_statistics
from bcdnet.pretrained import list_pretrained

NAME = "bcdnet_b_r18_cifar10"


@pytest.mark.parametrize("name", list_pretrained())
def test_timm_makes_each_by_its_name(name: str) -> None:
    loaded = load_trained(name)
    model = timm.create_model(name, pretrained=True).eval()
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None and cfg.num_classes == len(loaded.labels) and list(cfg.label_names or ()) == loaded.labels
    for key in ("input_size", "mean", "std", "interpolation", "crop_pct"):
        value = getattr(cfg, key)
        assert (list(value) if isinstance(value, tuple) else value) == loaded.preprocess[key]
        assert model.pretrained_cfg[key] == value == loaded.model.pretrained_cfg[key]
    assert timm.data.resolve_model_data_config(loaded.model) == timm.data.resolve_model_data_config(model)
    images = torch.randn(2, *cfg.input_size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), loaded.model(images))
    assert "state_dict" not in model.pretrained_cfg


def test_timm_lists_them_apart_from_the_networks() -> None:
    listed = set(timm.list_models(pretrained=True))
    assert set(list_pretrained()) <= listed and not listed & VARIANTS.keys()


def test_other_classes_and_features() -> None:
    images = torch.randn(2, 3, 32, 32)
    whole, other = (timm.create_model(NAME, pretrained=True, num_classes=k).eval() for k in (10, 7))
    assert other(images).shape == (2, 7)
    assert torch.equal(other.forward_features(images), whole.forward_features(images))
    maps = timm.create_model(NAME, pretrained=True, features_only=True).eval()(images)
    assert torch.equal(maps[-1], whole.forward_features(images))
    assert isinstance(maps, list) and len(maps) == len(whole.stages)


def test_without_pretrained_the_weights_are_fresh() -> None:
    fresh, trained = (timm.create_model(NAME, pretrained=flag) for flag in (False, True))
    assert fresh.config == trained.config
    assert not torch.equal(fresh.stem[0].weight, trained.stem[0].weight)
    fresh.train()  # without a warning


def test_the_settings_of_the_name_can_be_overridden_where_the_shape_stays() -> None:
    assert timm.create_model(NAME, pretrained=True, estimator="reste").config.estimator == "reste"


def test_weights_from_elsewhere(tmp_path: Path) -> None:
    state = {name: torch.zeros_like(value) for name, value in timm.create_model(NAME).state_dict().items()}
    save_file(state, tmp_path / "mine.safetensors")
    mine = {"file": str(tmp_path / "mine.safetensors")}
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=mine)
    assert not any(value.any() for value in model.state_dict().values())


def test_train_mode_warns_until_the_statistics_are_there() -> None:
    model = timm.create_model(NAME, pretrained=True)
    assert isinstance(model, Network)
    for wrapped in (model, nn.Sequential(model)):
        with pytest.warns(UserWarning, match=r"call bcdnet\.nn\.restore_statistics"):
            wrapped.train()
    images = torch.randn(16, 3, 32, 32)
    restore_statistics(model, [images])
    model.train()
