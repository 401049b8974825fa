"""Teachers from a recipe's `teacher` section: what they see, and what is said of them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from bcdnet.compiler import export
from bcdnet.data import DataConfig, preprocess_of
from bcdnet.errors import CheckpointError, DataError, RecipeError
from bcdnet.models import build, configure, load_model, save_model
from bcdnet.training import run
from bcdnet.training.data import RunData
from bcdnet.training.recipe import Recipe, TeacherConfig
from bcdnet.training.recipe_file import load_recipe
from bcdnet.training.run import train
from bcdnet.training.teacher import Teacher, examine, load_teacher

DATA = DataConfig("digits", 16, mean=(0.3,), std=(0.35,), channels=1)
LABELS = ["a", "b", "c"]
SMALL = {"layers": [1, 1, 1, 1], "width": 1 / 16}


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


def test_a_teacher_sees_images_of_its_size() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    pixels = torch.rand(4, 1, 8, 8)
    for size in (8, 20, 5):
        teacher = Teacher(network, preprocess_of(DATA), preprocess_of(DATA), size)
        resized = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)  # which enlarges as without
        torch.testing.assert_close(teacher(pixels), network(resized))


def test_a_teacher_that_knows_another_size_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = build(configure("resnet18_twin_small", num_classes=3, in_chans=1, **SMALL)).eval()
    preprocess = {**preprocess_of(DATA), "input_size": [1, 24, 24]}
    save_model(tmp_path / "ours", ours, labels=LABELS, preprocess=preprocess, provenance={})
    load_teacher(TeacherConfig(checkpoint=str(tmp_path / "ours"), image_size=24), None, DATA, LABELS)
    assert not caplog.messages
    load_teacher(TeacherConfig(checkpoint=str(tmp_path / "ours")), None, DATA, LABELS)
    assert caplog.messages == [
        f"teacher: {tmp_path / 'ours'} learned from images of size [24, 24], not 16; see teacher.image_size"
    ]


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
    averaged = {f"_orig_mod.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": {}, "state_dict_ema": averaged}, tmp_path / "averaged.pth")
    for name in ("theirs.pth", "theirs.safetensors", "averaged.pth"):
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
    torch.save({"model": tmp_path}, tmp_path / "objects.pth")
    said = error(TeacherConfig("resnet18_twin_small", dict(SMALL), str(tmp_path / "objects.pth")))
    assert said.endswith("save its state dict alone") and "weights_only" not in said
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


def test_a_teacher_from_elsewhere_is_evaluated_once(
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    begin_and_stop: Callable[[Recipe], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"model": "resnet18_twin_small", "kwargs": SMALL, "train": {"iterations": 3, "batch_size": 128, "lr": 1e-2}}
    steps = [{"name": "only", "iterations": 7, "batch_size": 128, "lr": 1e-3}]
    first = train(make_recipe("first", teacher=own, steps=steps))
    weights = str(tmp_path / "first" / "teacher.safetensors")
    theirs = {"model": "resnet18_twin_small", "kwargs": SMALL, "checkpoint": weights}
    recipe = make_recipe("second", teacher=theirs, steps=steps)
    begin_and_stop(recipe)

    def again(*args: Any) -> None:
        raise AssertionError("a run that goes on knows how good its teacher is")

    monkeypatch.setattr(run, "examine", again)
    second = train(recipe, resume=True)
    assert list(second) == ["teacher", "only"]
    for key in ("top1", "loss", "images"):
        assert second["teacher"][key] == pytest.approx(first["teacher"][key], rel=1e-5)
    told = load_model(tmp_path / "second").provenance["taught_by"]
    assert told["model"] == "resnet18_twin_small" and told["results"]["top1"] == second["teacher"]["top1"]


def test_a_teacher_that_knows_nothing_is_warned_of(
    make_recipe: Callable[..., Recipe], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe()
    always_zero = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    nn.init.zeros_(always_zero[1].weight)
    nn.init.zeros_(always_zero[1].bias)
    own = preprocess_of(recipe.data)
    found = examine(Teacher(always_zero, own, own), recipe, RunData(recipe))
    assert found.images == 360 and found.loss == pytest.approx(2.302585)
    assert caplog.messages[0].startswith(f"teacher: {found.top1:.2f} % top-1 is hardly better than chance")


@pytest.mark.slow
def test_the_example_makes_a_teacher_that_a_recipe_takes(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "timm.safetensors")
    written = tmp_path / "new" / "teacher.safetensors"
    section = f"teacher={{model: resnet10t, checkpoint: {written}, image_size: 32}}"
    recipe = root / "recipes" / "digits.yaml"
    words = [str(recipe), section, "--weights", str(tmp_path / "timm.safetensors"), "--frozen", "conv1", "bn1"]
    subprocess.run([sys.executable, root / "examples" / "teacher.py", *words, "--epochs", "2"], check=True)
    config = load_recipe(recipe, [section])
    assert config.teacher is not None
    teacher = load_teacher(config.teacher, None, config.data, [str(digit) for digit in range(10)])
    learned, began = teacher.network.state_dict(), load_file(tmp_path / "timm.safetensors")
    assert torch.equal(learned["conv1.3.weight"], began["conv1.3.weight"])
    assert not torch.equal(learned["layer1.0.conv1.weight"], began["layer1.0.conv1.weight"])


def test_a_teacher_that_cannot_see_the_images_leaves_no_folder(make_recipe: Any, tmp_path: Path) -> None:
    for settings, message in (
        ({"num_classes": 12}, r"teacher: gives \[1, 12\] for an image, not \[1, 10\] logits; see teacher\.kwargs"),
        ({"in_chans": 3}, r"teacher: cannot see images \[1, 16, 16\] \(.*channels.*\); see teacher\.image_size"),
    ):
        network = build(configure("resnet18_twin_small", **{"num_classes": 10, "in_chans": 1, **SMALL, **settings}))
        save_file(network.state_dict(), tmp_path / "teacher.safetensors")
        teacher = {"model": "resnet18_twin_small", "checkpoint": str(tmp_path / "teacher.safetensors")}
        with pytest.raises(RecipeError, match=message):
            train(make_recipe(teacher={**teacher, "kwargs": {**SMALL, **settings}}))
        assert not (tmp_path / "run").exists()
