"""Whole runs in this process, small enough to take seconds."""

import csv
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bcdnet.data import AugmentConfig, Images
from bcdnet.data.digits import Digits
from bcdnet.errors import BcdnetError, RecipeError
from bcdnet.models import load_model
from bcdnet.models.checkpoint import weight_bits_of
from bcdnet.training import run_folder
from bcdnet.training.checkpoint import newest_readable
from bcdnet.training.data import RunData
from bcdnet.training.recipe import Recipe, TeacherConfig
from bcdnet.training.recipe_file import load_recipe
from bcdnet.training.run import Run, train
from bcdnet.training.run_folder import portable

MakeRecipe = Callable[..., Recipe]

TEACHER = {
    "model": "resnet18_twin_small",
    "kwargs": {"width": 1 / 16, "layers": [1, 1, 1, 1]},
    "train": {"iterations": 3, "batch_size": 128, "lr": 1e-2},
}


@pytest.mark.curves
def test_teacher_and_both_steps_leave_a_complete_folder(
    make_recipe: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(teacher=TEACHER)
    said: list[str] = []
    results = train(recipe, say=said.append)
    assert any(line.startswith("step2 epoch 1/") for line in said) and not capsys.readouterr().out
    run = tmp_path / "run"
    assert list(results) == ["teacher", "step1", "step2"]
    assert json.loads((run / "metrics.json").read_text()) == results
    for name, bits in (("teacher", 32), ("step1", 32), ("step2", 1), ("model", 1)):
        loaded = load_model(run / f"{name}.safetensors")
        assert weight_bits_of(loaded.model) == bits
        assert loaded.labels == [str(digit) for digit in range(10)]
        assert loaded.preprocess["input_size"] == [1, 16, 16]
    assert loaded.provenance["step"] == "step2" and loaded.provenance["seed"] == 3
    assert {"top1", "top5", "loss", "images", "params", "train_seconds", "train_images_per_second"} <= set(
        results["step2"]
    )
    assert results["step2"]["images"] == 360 and loaded.provenance["results"]["split"] == "test"
    assert load_recipe(run / "recipe.yaml") == recipe
    record = json.loads((run / "environment.json").read_text())
    assert record["seed"] == 3 and "torch" in record["versions"] and record["machine"]["cpus"]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").glob("step2/events*"))
    with (run / "metrics.csv").open() as file:
        rows = [(row["step"], row["event"], int(row["iteration"])) for row in csv.DictReader(file)]
    assert rows[:2] == [("teacher", "train", 2), ("teacher", "epoch", 3)]
    assert rows[2:6] == [("step1", "train", 2), ("step1", "train", 4), ("step1", "train", 6), ("step1", "epoch", 6)]
    assert rows[6:] == [("step2", event, at) for _, event, at in rows[2:6]]

    with pytest.raises(RecipeError, match="is not empty; --resume continues the run in it"):
        train(recipe)
    with pytest.raises(RecipeError, match="is a file; give a folder"):
        train(replace(recipe, run_dir=str(run / "metrics.csv")))
    with pytest.raises(RecipeError, match=r"with another seed, steps\.0\.lr, steps\.0\.weight_decay"):
        train(
            replace(recipe, seed=4, steps=(replace(recipe.steps[0], lr=1, weight_decay=0), recipe.steps[1])),
            resume=True,
        )
    before = (run / "metrics.csv").read_text()
    assert train(recipe, resume=True, say=said.append) == results  # nothing is left to do
    assert (run / "metrics.csv").read_text() == before
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RecipeError, match=r"has model.safetensors, .* but no checkpoint to go on from; another"):
        train(recipe, resume=True)


STEPS = [{"name": "a", "iterations": 2, "batch_size": 128, "lr": 1e-3}]
TWIN = {"name": "resnet18_twin_small", "width": 1 / 16, "layers": [1, 1, 1, 1]}
DATA = {"path": "digits", "image_size": 16, "channels": 1, "mean": [0.3], "std": [0.35]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [*STEPS, {**STEPS[0], "name": "b", "batch_size": 4096}]}, "steps.b.batch_size: 4096 is more than"),
        (
            {"teacher": {**TEACHER, "train": {**TEACHER["train"], "batch_size": 4096}}},
            "teacher.train.batch_size: 4096 is more than",
        ),
        ({"model": {"name": "reactnet_r18_small", "num_classes": 5}}, "model.num_classes: 5, but the data has 10"),
        ({"model": {"name": "reactnet_r18_small", "in_chans": 3}}, "model: this network cannot take a batch of shape"),
        ({"model": {"name": "binary_mixer_small", "width": 1 / 16, "depth": 1}}, "model: this network cannot take"),
        (
            {"steps": [{**STEPS[0], "batch_size": 1}], "data": {**DATA, "image_size": 8}},
            r"model: this network cannot take a batch of shape \[1, 1, 8, 8\]",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_before_any_training(
    make_recipe: MakeRecipe, tmp_path, changes, message
) -> None:
    with pytest.raises(RecipeError, match=message):
        train(make_recipe(**changes))
    assert not (tmp_path / "run").exists()


def test_a_single_class_is_nothing_to_learn(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "data" / split / "only").mkdir(parents=True)
        Image.new("L", (16, 16)).save(tmp_path / "data" / split / "only" / "x.png")
    with pytest.raises(RecipeError, match="has one class alone"):
        train(make_recipe(data={**DATA, "path": str(tmp_path / "data")}, steps=[{**STEPS[0], "batch_size": 1}]))


def test_a_training_that_diverges_ends_and_keeps_the_weights_from_before(make_recipe: MakeRecipe, tmp_path) -> None:
    steps = [{"name": "only", "iterations": 12, "batch_size": 128, "lr": 1e30, "optimizer": "sgd"}]
    recipe = make_recipe(steps=steps, trainer={"accelerator": "cpu", "checkpoint_every": 1, "log_every": 100})
    with pytest.raises(BcdnetError, match="this training has diverged"):
        train(recipe)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    newest = newest_readable(tmp_path / "run" / "checkpoints", print)
    assert newest is not None and torch.isfinite(newest["running"]["epoch"]).all()


def test_a_run_goes_on_with_its_own_images_alone(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    source = Digits("train")
    for folder, names in (("own", "ab"), ("other", "ba"), ("fewer", "ab")):
        for split in ("train", "test"):
            for index in range(40 if folder != "fewer" else 36):
                place = tmp_path / folder / split / names[index % 2]
                place.mkdir(parents=True, exist_ok=True)
                source.image(index).save(place / f"{index:02}.png")
    steps = [{"name": "only", "iterations": 3, "batch_size": 16, "lr": 1e-3}]

    def recipe(folder: str) -> Recipe:
        trainer = {"accelerator": "cpu", "checkpoint_every": 1, "log_every": 1}
        return make_recipe(data={**DATA, "path": str(tmp_path / folder)}, steps=steps, trainer=trainer)

    train(recipe("own"))
    (tmp_path / "own").rename(tmp_path / "moved")
    before = (tmp_path / "run" / "metrics.csv").read_text()
    with pytest.raises(RecipeError, match="does not hold the training images and classes that the run began with"):
        train(recipe("fewer"), resume=True)
    assert (tmp_path / "run" / "metrics.csv").read_text() == before
    assert load_recipe(tmp_path / "run" / "recipe.yaml").data.path == str(tmp_path / "own")
    train(recipe("moved"), resume=True)
    assert load_recipe(tmp_path / "run" / "recipe.yaml").data.path == str(tmp_path / "moved")


def test_another_augmentation_reads_the_training_images_alone_again(make_recipe: MakeRecipe) -> None:
    data = RunData(make_recipe(data={**DATA, "crop_pct": 0.5}))
    test = data.evaluated
    cropped = data.train(AugmentConfig(crop="random_resized"))
    assert isinstance(cropped, Images) and cropped.images.shape[-1] == 32 and data.source is cropped
    assert data.evaluated is test


def test_a_home_folder_is_one_for_all_files(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    train(replace(make_recipe(steps=STEPS), run_dir="~/home"))
    assert (tmp_path / "home" / "model.safetensors").is_file() and (tmp_path / "home" / "tensorboard").is_dir()


def test_provenance_does_not_say_where_things_lay(make_recipe: MakeRecipe) -> None:
    recipe = replace(make_recipe(data={**DATA, "path": "/cifar10"}), run_dir="/home/me/runs/first")
    text = "train --data=/cifar10 run_dir=/home/me/runs/first see https://host/path"
    expected = "train --data=data/cifar10 run_dir=runs/first see https://host/path"
    assert portable({"a": [text, 1], "b": None}, recipe) == {"a": [expected, 1], "b": None}
    letters = replace(recipe, run_dir="/home/müller/runs/first")
    assert portable("in /home/müller/runs/second", letters) == "in runs/second"
    shards = replace(recipe, data=replace(recipe.data, path="wds:///home/me/set/train-{0..9}.tar"))
    assert portable("wds:///home/me/set/train-{0..9}.tar", shards) == "wds://data/train-{0..9}.tar"
    begun = replace(recipe, model=replace(recipe.model, checkpoint="/mnt/big/first/model.safetensors"))
    taught = replace(begun, teacher=TeacherConfig(checkpoint="/cifar10/twin"))
    said = portable("teacher={checkpoint: /cifar10/twin} model.checkpoint=/mnt/big/first/model.safetensors", taught)
    assert said == "teacher={checkpoint: runs/cifar10/twin} model.checkpoint=runs/first/model.safetensors"
    irish = replace(recipe, data=replace(recipe.data, path="/home/o'brien/data set/x"))
    line = shlex.join(["bcdnet", "train", "/home/o'brien/own.yaml", "data.path=/home/o'brien/data set/x", "seed=1"])
    expected = "bcdnet train recipes/own.yaml data.path=data/x seed=1"
    assert portable({"command": line, "seed": 1}, irish) == {"command": expected, "seed": 1}


def test_the_commit_is_this_projects_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x", *words], check=True)

    (tmp_path / "run_folder.py").touch()
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "a project that has bcdnet in its .venv")
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "run_folder.py"))
    assert run_folder.git_state() is None
    git("add", ".")
    git("commit", "-q", "-m", "the project itself")
    state = run_folder.git_state()
    assert state is not None and len(state["commit"]) == 40 and state["dirty"] is False


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def test_a_run_begins_with_the_weights_of_another(
    make_recipe: MakeRecipe, tmp_path: Path, begin_and_stop: Callable[[Recipe], None]
) -> None:
    still = [{"name": "only", "iterations": 1, "batch_size": 128, "lr": 0.0}]
    recipe = make_recipe("first", seed=5)
    train(recipe)
    model = {"name": "bcdnet_b_r18_small", **recipe.model.kwargs, "checkpoint": str(tmp_path / "first")}
    said: list[str] = []
    train(make_recipe("second", steps=still, teacher=TEACHER, model=model), say=said.append)
    assert f"only: begins with the weights of {tmp_path / 'first'}" in said
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    learned = [name for name in first if not name.rpartition(".")[2].startswith(("running", "num_batches"))]
    assert len(learned) > 50 and all(torch.equal(first[name], second[name]) for name in learned)
    provenance = load_model(tmp_path / "second").provenance
    assert provenance["began_with"]["data"] == "digits" and provenance["began_with"]["recipe"] == "tiny"
    assert "began_with" not in load_model(tmp_path / "second" / "teacher.safetensors").provenance
    assert "began_with" not in load_model(tmp_path / "first").provenance

    # What goes on needs that file no more, wherever it is.
    (tmp_path / "first").rename(tmp_path / "moved")
    longer = [{**still[0], "iterations": 6}, {**still[0], "name": "last"}]
    halves = make_recipe("halves", steps=longer, model={"checkpoint": str(tmp_path / "moved")})

    begin_and_stop(halves)
    assert load_recipe(tmp_path / "halves" / "recipe.yaml").model.name == "bcdnet_b_r18_small"
    gone = replace(halves, model=replace(halves.model, checkpoint=str(tmp_path / "none")))
    train(gone, resume=True)
    assert load_model(tmp_path / "halves").provenance["began_with"]["recipe"] == "tiny"
    (tmp_path / "moved").rename(tmp_path / "first")

    wide = {**model, "width": 1 / 8}
    with pytest.raises(RecipeError, match=r"model\.checkpoint: the network of .*first is not of the shape of bcdnet_b"):
        train(make_recipe("wide", model=wide))
    assert not (tmp_path / "wide").exists()


def test_the_network_and_its_teacher_are_called_through_the_compiler(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str, bool]] = []

    def compile_(network: torch.nn.Module, mode: str, dynamic: bool) -> torch.nn.Module:
        calls.append((type(network).__name__, mode, dynamic))
        return network

    monkeypatch.setattr(torch, "compile", compile_)
    trainer = {"accelerator": "cpu", "compile": True, "compile_mode": "reduce-overhead"}
    steps = [{"name": "only", "iterations": 1, "batch_size": 128, "lr": 1e-3}]
    train(make_recipe(teacher=TEACHER, steps=steps, trainer=trainer))
    assert calls == [(name, "reduce-overhead", False) for name in ("Network", "Network", "Teacher")]


def test_options_of_the_machine_change_rounding_alone(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """channels_last computes the same sums in another order; two parts of a batch differ by batch norm alone."""
    step = [{"name": "only", "iterations": 2, "batch_size": 128, "lr": 1e-4, "optimizer": "sgd", "clip_norm": 1.0}]
    plain = train(make_recipe("plain", steps=step, model=TWIN, augment={}))
    for name, trainer in (("last", {"channels_last": True}), ("bf16", {"precision": "bf16"})):
        other = train(make_recipe(name, steps=step, model=TWIN, augment={}, trainer={"accelerator": "cpu", **trainer}))
        assert other["only"]["loss"] == pytest.approx(plain["only"]["loss"], rel=2e-2 if name != "last" else 1e-4)
    a, b = weights(tmp_path / "plain"), weights(tmp_path / "last")
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_parts_of_a_batch_and_bf16_move_weights_as_the_whole_does(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    step = {"name": "only", "iterations": 1, "batch_size": 128, "optimizer": "sgd", "momentum": 0.0}
    for name, lr, trainer in (("begin", 0.0, {}), ("whole", 0.1, {}), ("parts", 0.1, {"accumulate": 2}),
                              ("bf16", 0.1, {"precision": "bf16"})):  # fmt: skip
        steps, trainer = [{**step, "lr": lr}], {"accelerator": "cpu", **trainer}
        train(make_recipe(name, steps=steps, model=TWIN, augment={}, trainer=trainer))
    begin = weights(tmp_path / "begin")
    learned = [name for name in begin if name.rpartition(".")[2] in ("weight", "bias")]
    whole, *others = (
        torch.cat([(weights(tmp_path / run)[name] - begin[name]).flatten() for name in learned])
        for run in ("whole", "parts", "bf16")
    )
    seen = next(name for name in begin if name.endswith("num_batches_tracked"))
    assert [int(weights(tmp_path / run)[seen]) for run in ("whole", "parts", "bf16")] == [1, 2, 1]
    for other in others:
        assert torch.cosine_similarity(whole, other, dim=0) > 0.9
        assert 0.8 < other.norm() / whole.norm() < 1.25


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_step_moves_all_that_an_uncompiled_one_moves(
    make_recipe: MakeRecipe, tmp_path: Path, mode: str
) -> None:
    """A compiler once gave no gradient to what lies before a sign, and training went on. Sizes alone are compared:
    rounding turns some signs over, and with them directions.
    """
    step = {"iterations": 1, "batch_size": 128, "optimizer": "sgd", "momentum": 0.0, "weight_bits": 1}
    for name, lr, compiled in (("begin", 0.0, False), ("eager", 0.1, False), ("compiled", 0.1, True)):
        trainer = {"accelerator": "cpu", "channels_last": True, "compile": compiled, "compile_mode": mode}
        train(make_recipe(name, steps=[{"name": "only", "lr": lr, **step}], teacher=TEACHER, trainer=trainer))
    begin, eager, compiled = (weights(tmp_path / name) for name in ("begin", "eager", "compiled"))
    learned = [name for name in begin if name.endswith(("latent_weight", "bias"))]
    assert len(learned) > 20
    for name in learned:
        expected, moved = ((end[name] - begin[name]).norm() for end in (eager, compiled))
        assert expected / 3 < moved < 3 * expected, name


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_gradients_are_clipped(make_recipe: MakeRecipe, tmp_path: Path, precision: str) -> None:
    """At rate 1 a step of SGD is as long as the norm that clips, so two of them from one start lie 0.02 apart."""
    step = {"name": "only", "iterations": 1, "batch_size": 128, "lr": 1.0, "optimizer": "sgd", "momentum": 0.0}
    trainer = {"accelerator": "cpu", "precision": precision}
    for name, limit in (("short", 0.01), ("long", 0.03)):
        train(make_recipe(name, steps=[{**step, "clip_norm": limit}], trainer=trainer))
    short, long = weights(tmp_path / "short"), weights(tmp_path / "long")
    apart = sum(float((long[name].double() - value.double()).square().sum()) for name, value in short.items()) ** 0.5
    assert apart == pytest.approx(0.02, rel=1e-3)


def test_checkpoints_come_at_their_interval_and_after_every_evaluation(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11 iterations are an epoch: 22 is due for both, 30 for neither but that the step ends there."""
    written: list[int] = []
    monkeypatch.setattr("bcdnet.training.run.write_checkpoint", lambda *given: written.append(given[-1]["iteration"]))
    steps = [{"name": "only", "iterations": 30, "batch_size": 128, "lr": 1e-3}]
    trainer = {"accelerator": "cpu", "checkpoint_every": 8}
    train(make_recipe(steps=steps, validation={"every": 2}, trainer=trainer))
    assert written == [8, 16, 22, 24, 30]


def test_a_damaged_newest_checkpoint_changes_nothing_but_the_message(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(trainer={"accelerator": "cpu", "checkpoint_every": 2})
    train(recipe)
    run, expected = tmp_path / "run", weights(tmp_path / "run")
    newest = max((run / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    (run / "model.safetensors").unlink()
    said: list[str] = []
    train(recipe, resume=True, say=said.append)
    assert "truncated or damaged" in said[0] and "resuming" in said[1] and "step2 at iteration 4" in said[1]
    assert all(torch.equal(value, expected[name]) for name, value in weights(run).items())


def test_a_step_begins_with_latent_weights_of_the_size_it_asks_for(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    step = {"iterations": 2, "batch_size": 128, "lr": 0.0}
    steps = [{"name": "real", **step, "latent_rms": 0.02}, {"name": "kept", **step, "weight_bits": 1}]
    train(make_recipe(steps=[*steps, {"name": "small", **step, "weight_bits": 1, "latent_rms": 0.001}]))
    for name, size in (("real", 0.02), ("kept", 0.02), ("small", 0.001)):
        weights = load_file(tmp_path / "run" / f"{name}.safetensors")
        latent = weights["stages.0.0.conv.latent_weight"]
        assert latent.square().mean().sqrt().item() == pytest.approx(size)


def test_a_head_that_nothing_teaches_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The network predicts with the mean of both heads; one of them once stayed at its random beginning."""
    steps = [{"name": "step1", "lr": 1e-3, "iterations": 1, "batch_size": 128, "label_weight": 0}]
    with pytest.raises(RecipeError, match=r"steps\.step1\.label_weight: 0 leaves .* untrained; model\.distilled=false"):
        train(make_recipe(teacher=TEACHER, steps=steps))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("there", "said"), [(0, "none; trainer.accelerator=cpu trains"), (1, "1")])
def test_devices_that_are_not_there_leave_no_folder(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(RecipeError, match=rf"trainer\.devices: 2 x cuda, but this machine has {said}$"):
        train(make_recipe(trainer={"accelerator": "cuda", "devices": 2}))
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_reads_its_images_from_where_it_read_them(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    train(recipe)
    elsewhere = replace(recipe, data=replace(recipe.data, in_memory=False))
    with pytest.raises(RecipeError, match=r"from memory, here they would come from disk .* add data\.in_memory=true"):
        train(elsewhere, resume=True)
    assert load_recipe(tmp_path / "run" / "recipe.yaml") == recipe  # what is refused leaves no trace
    assert train(recipe, resume=True)


@pytest.mark.parametrize(("variable", "first"), [("NODE_RANK", False), ("GROUP_RANK", False), (None, True)])
def test_one_process_of_all_nodes_is_the_first(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, variable: str | None, first: bool
) -> None:
    """Lightning's launcher gives rank 0 to the process that was started on each node, until it starts the others."""
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    said: list[str] = []
    run = Run(make_recipe(), said.append)
    run.say("here")
    assert run.first_process == first and said == ["here"] * first
