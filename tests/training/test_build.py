"""Students and teachers from a recipe's sections."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from bcdnet.compiler import export
from bcdnet.data import DataConfig, preprocess_of
from bcdnet.errors import BcdnetError, CheckpointError, DataError, RecipeError
from bcdnet.models import Network, ResNetConfig, build, configure, save_model
from bcdnet.nn import lacks_statistics
from bcdnet.training.build import Teacher, design, initial_weights, load_teacher, with_name
from bcdnet.training.recipe import ModelConfig, TeacherConfig

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
        (ModelConfig("bcdnet_a_r18", {"mlp_branches": ["foo"]}), "model: "),
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
    assert caplog.messages == [f"model.checkpoint: {tmp_path} learned from images of std [0.35], not [0.2]"]
    with pytest.raises(CheckpointError, match=r"model\.checkpoint: none\.safetensors: no such model file"):
        initial_weights(ModelConfig("reactnet_r18_small", SMALL, checkpoint="none.safetensors"), same, DATA, LABELS)


def test_a_teacher_sees_images_as_it_knows_them() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    pixels = torch.rand(4, 1, 8, 8)
    own: dict[str, Any] = {"mean": [0.5], "std": [0.2], "input_size": [1, 8, 8]}
    teacher = Teacher(network, preprocess_of(DATA), own)
    expected = network((pixels - 0.5) / 0.2)
    torch.testing.assert_close(teacher((pixels - 0.3) / 0.35), expected)
    for key, other in (("mean", [0.5]), ("std", [0.2])):
        half = Teacher(network, preprocess_of(DATA), {**preprocess_of(DATA), key: other})
        assert not torch.allclose(half(pixels), network(pixels))
    assert not teacher.train().network.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(pixels).requires_grad


def test_teachers_from_our_files_and_from_timm_state_dicts(tmp_path: Path) -> None:
    ours = build(configure("resnet18_twin_small", num_classes=3, in_chans=1, **SMALL)).eval()
    path = tmp_path / "model.safetensors"
    save_model(path, ours, labels=LABELS, preprocess=preprocess_of(DATA), provenance={})
    x = torch.randn(2, 1, 16, 16)
    for place in (path, tmp_path):
        teacher = load_teacher(TeacherConfig(checkpoint=str(place)), None, DATA, LABELS)
        assert torch.equal(teacher(x), ours(x))
    theirs = timm.create_model("resnet18_twin_small", num_classes=3, in_chans=1, **SMALL).eval()
    wrapped = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "theirs.pth")
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    for name in ("theirs.pth", "theirs.safetensors"):
        config = TeacherConfig("resnet18_twin_small", dict(SMALL), str(tmp_path / name))
        assert torch.equal(load_teacher(config, None, DATA, LABELS)(x), theirs(x))


def test_timms_own_weights_see_images_as_they_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **settings: made(name, **settings))
    data = DataConfig("x", 32, mean=(0.5,) * 3, std=(0.5,) * 3)
    teacher = load_teacher(TeacherConfig("resnet18", pretrained=True), None, data, [f"{k}" for k in range(1000)])
    own = teacher.network.pretrained_cfg
    pixels, mean, std = torch.rand(2, 3, 32, 32), *(torch.tensor(own[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(teacher((pixels - 0.5) / 0.5), teacher.network((pixels - mean) / std))


def test_wrong_teachers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(config: TeacherConfig) -> str:
        with pytest.raises((RecipeError, CheckpointError, DataError)) as caught:
            load_teacher(config, None, DATA, LABELS)
        return str(caught.value)

    assert "teacher.model: resnet18_twinn: unknown model; did you mean" in error(
        TeacherConfig("resnet18_twinn", {}, "x")
    )
    assert "no such model file" in error(TeacherConfig(checkpoint=str(tmp_path / "none.safetensors")))
    assert "teacher.checkpoint: cannot read" in error(TeacherConfig("resnet18_twin_small", dict(SMALL), "none.pth"))
    torch.save({"state_dict": {"head.weight": torch.zeros(3, 3)}}, tmp_path / "other.pth")
    assert "Missing key" in error(TeacherConfig("resnet18_twin_small", dict(SMALL), str(tmp_path / "other.pth")))
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds no state dict" in error(TeacherConfig("resnet18_twin_small", dict(SMALL), str(tmp_path / "list.pth")))
    ours = build(configure("resnet18_twin_small", num_classes=2, in_chans=1, **SMALL))
    save_model(tmp_path / "two.safetensors", ours, labels=["a", "b"], preprocess=preprocess_of(DATA), provenance={})
    assert "knows 2 classes, the data has 3" in error(TeacherConfig(checkpoint=str(tmp_path / "two.safetensors")))
    nameless = export(ours.eval(), tmp_path / "x.bcdn", input_size=(1, 16, 16), preprocess=preprocess_of(DATA))
    assert "names no classes (pack it with labels), the data has 3" in error(TeacherConfig(checkpoint=str(nameless)))

    turned = build(configure("resnet18_twin_small", num_classes=3, in_chans=1, **SMALL))
    save_model(tmp_path / "bac", turned, labels=["b", "a", "c"], preprocess=preprocess_of(DATA), provenance={})
    assert "class 0 is 'b' in " in error(TeacherConfig(checkpoint=str(tmp_path / "bac")))

    made = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **settings: made(name, **settings))
    said = error(TeacherConfig("resnet18", pretrained=True))
    assert said == "teacher: resnet18 with timm's weights knows 1000 classes, the data has 3"
    with pytest.raises(RecipeError, match="it sees 3 channels, but the images have 1"):
        load_teacher(TeacherConfig("resnet18", pretrained=True), None, DATA, [str(number) for number in range(1000)])

    def no_network(*args: Any, **kwargs: Any) -> nn.Module:
        raise OSError("cannot reach the hub\nmore lines")

    monkeypatch.setattr(timm, "create_model", no_network)
    said = error(TeacherConfig("resnet18", pretrained=True))
    assert said.endswith("OSError: cannot reach the hub; without network access give teacher.checkpoint a file")
