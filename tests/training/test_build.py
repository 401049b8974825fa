"""Networks and their first weights from a recipe's `model` section."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bcdnet.compiler import export
from bcdnet.data import DataConfig, preprocess_of
from bcdnet.errors import BcdnetError, CheckpointError, RecipeError
from bcdnet.models import Network, ResNetConfig, build, configure, save_model
from bcdnet.nn import lacks_statistics
from bcdnet.training.build import design, initial_weights, with_name
from bcdnet.training.recipe import ModelConfig

DATA = DataConfig("digits", 16, mean=(0.3,), std=(0.35,), channels=1)
LABELS = ["a", "b", "c"]
SMALL = {"layers": [1, 1, 1, 1], "width": 1 / 16}


def _network(config: ModelConfig, classes: int, channels: int) -> Network:
    return build(design(config, classes, channels).config)


def test_classes_and_channels_come_from_the_data_unless_given() -> None:
    network = design(ModelConfig("reactnet_r18_small", SMALL), 3, 1).config
    assert (network.num_classes, network.in_chans) == (3, 1)
    network = design(ModelConfig("reactnet_r18_small", {**SMALL, "num_classes": 7}), 3, 1).config
    assert network.num_classes == 7


def test_a_checkpoint_alone_is_its_own_network_unless_settings_change_it(tmp_path: Path) -> None:
    settings = {**SMALL, "embedding": "both", "reduction": 8}
    config = configure("bcdnet_b_r18_small", **settings, mlp_blocks=0, num_classes=3, in_chans=1)
    save_model(tmp_path / "x", build(config), labels=LABELS, preprocess=preprocess_of(DATA), provenance={})
    alone = with_name(ModelConfig(checkpoint=str(tmp_path / "x")))
    assert alone.checkpoint == str(tmp_path / "x")
    assert design(alone, 3, 1).config == config
    assert design(alone, 5, 3).config == replace(config, num_classes=5, in_chans=3)
    changed = with_name(ModelConfig(kwargs={"distilled": False}, checkpoint=str(tmp_path / "x")))
    assert design(changed, 3, 1).config == replace(config, distilled=False)
    assert with_name(changed) is changed
    with pytest.raises(CheckpointError, match=r"^model\.checkpoint: nowhere"):
        with_name(ModelConfig(checkpoint="nowhere"))


def test_a_network_without_a_name_is_refused(tmp_path: Path) -> None:
    network = build(ResNetConfig(num_classes=3, in_chans=1, widths=(8, 12), layers=(1, 1), stem="small"))
    save_model(tmp_path / "x", network, labels=LABELS, preprocess=preprocess_of(DATA), provenance={})
    with pytest.raises(CheckpointError, match=r"^model\.checkpoint: .*x: no name and settings"):
        with_name(ModelConfig(checkpoint=str(tmp_path / "x")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig("bcdnet_c"), "model: unknown model 'bcdnet_c': did you mean 'bcdnet_"),
        (
            ModelConfig("bcdnet_b_r18_cifar10"),
            "model: bcdnet_b_r18_cifar10 is a trained model: give it as model",
        ),
        (
            ModelConfig("bcdnet_b_r18_small", {"widht": 1}),
            "model: unknown setting of bcdnet_b_r18_small 'widht': did you mean 'width'",
        ),
        (ModelConfig("bcdnet_b_r18_small", {"mlp_blocks": 4}), "model: mlp_blocks"),
        (ModelConfig("bcdnet_b_r18_small", {"width": "wide"}), "model.width: expected a number, got str 'wide'"),
        (ModelConfig("bcdnet_b_r18_small", {"layers": 4}), "model.layers: expected a list, got int 4"),
        (ModelConfig("bcdnet_b_r18_small", {"small": "maybe"}), "model.small: expected true or false, got str 'maybe'"),
        (ModelConfig("bcdnet_b_r18_small", {"reduction": 0}), r"model\.reduction: from 1"),
        (ModelConfig("bcdnet_b_r18_small", {"layers": []}), "model: layers is empty"),
        (ModelConfig("reactnet_a", {"real_groups": 5}), "model: .* divisible by groups"),
        (ModelConfig("bcdnet_a_r18", {"mlp_branches": ["foo"]}), r"model\.mlp_branches: one or more of none, short"),
        (ModelConfig("binary_mixer_small", {"img_size": 2**20, "patch_size": 1, "depth": 1}), "model: Storage size"),
    ],
)
def test_wrong_models_are_named(config: ModelConfig, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        design(config, 3, 1)


def test_initial_weights_are_all_that_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ModelConfig("reactnet_r18_small", SMALL, checkpoint=str(tmp_path))
    trained = _network(config, 3, 1)
    said = {"data": "letters"}
    save_model(tmp_path / "model.safetensors", trained, labels=LABELS, preprocess=preprocess_of(DATA), provenance=said)
    with torch.device("meta"):
        same, more = _network(config, 3, 1), _network(config, 5, 1)
        two_heads = _network(ModelConfig("reactnet_r18_small", {**SMALL, "distilled": True}), 3, 1)
        wide = _network(ModelConfig("reactnet_r18_small", {**SMALL, "width": 1 / 8}), 3, 1)
        bireal = _network(ModelConfig("birealnet18_small", SMALL), 3, 1)
    weights, loaded = initial_weights(config, same, DATA, LABELS)
    assert weights.keys() == trained.state_dict().keys() and loaded.provenance == said
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in weights.items())
    body = {name for name in weights if not name.startswith("head")}
    for model, labels in ((same, ["a", "c", "b"]), (more, list("abcde")), (two_heads, LABELS)):
        assert initial_weights(config, model, DATA, labels)[0].keys() == body
    with pytest.raises(RecipeError, match=r"^model\.checkpoint: .*: widths is \(4, .*\) there, \(8, .*\) here$"):
        initial_weights(config, wide, DATA, LABELS)
    with pytest.raises(RecipeError, match=r"settings: kind is reactnet there, bireal here$"):
        initial_weights(config, bireal, DATA, LABELS)
    packed = export(
        trained.eval(), tmp_path / "packed.bcdn", input_size=(1, 16, 16), labels=LABELS, preprocess=preprocess_of(DATA)
    )
    weights, loaded = initial_weights(replace(config, checkpoint=str(packed)), same, DATA, LABELS)
    assert weights.keys() == trained.state_dict().keys() and lacks_statistics(loaded.model)
    packed.write_bytes((tmp_path / "model.safetensors").read_bytes())
    with pytest.raises(BcdnetError, match="not a packed program"):
        initial_weights(replace(config, checkpoint=str(packed)), same, DATA, LABELS)
    assert not caplog.messages
    initial_weights(config, same, replace(DATA, std=(0.2,)), LABELS)
    learned = f"model.checkpoint: {tmp_path} learned from images of "
    assert caplog.messages == [f"{learned}std [0.35], not [0.2]; to keep those: data.std=[0.35]"]
    caplog.clear()
    initial_weights(config, same, replace(DATA, image_size=24), LABELS)
    assert caplog.messages == [f"{learned}input_size [1, 16, 16], not [1, 24, 24]"]  # which may well be meant
    with pytest.raises(CheckpointError, match=r"model\.checkpoint: none\.safetensors: no such model file"):
        initial_weights(ModelConfig("reactnet_r18_small", SMALL, checkpoint="none.safetensors"), same, DATA, LABELS)
