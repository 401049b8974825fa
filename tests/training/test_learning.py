"""What reaches the network, the loss and the exported file of a run."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from bcdnet.errors import RecipeError
from bcdnet.models import load_model
from bcdnet.models import network as network_module
from bcdnet.nn import recomputed
from bcdnet.nn.sign import AnnealedEstimator
from bcdnet.training import phase as phase_module
from bcdnet.training.checkpoint import newest_readable
from bcdnet.training.log import read_rows
from bcdnet.training.loss import TrainingLoss
from bcdnet.training.module import Augmentation, Plan, StepModule
from bcdnet.training.recipe import Recipe, StepConfig, TrainerConfig
from bcdnet.training.recipe_file import load_recipe
from bcdnet.training.run import shortened, train

MakeRecipe = Callable[..., Recipe]
STEP = {"name": "only", "iterations": 4, "batch_size": 128, "lr": 2e-3}
TWIN = {"name": "resnet18_twin_small", "width": 1 / 16, "layers": [1, 1, 1, 1]}


def test_an_average_is_what_is_evaluated_and_exported(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[dict[str, torch.Tensor]] = []
    evaluate = phase_module.evaluate

    def watched(model: torch.nn.Module, *arguments: Any) -> Any:
        evaluated.append({name: value.clone() for name, value in model.state_dict().items()})
        return evaluate(model, *arguments)

    monkeypatch.setattr(phase_module, "evaluate", watched)
    train(make_recipe(steps=[{**STEP, "ema": 0.9}], model=TWIN))
    exported = load_file(tmp_path / "run" / "model.safetensors")
    state = newest_readable(tmp_path / "run" / "checkpoints", print)
    assert state is not None
    average, last = state["average"]["average"], state["model"]
    assert any(not torch.equal(average[name], last[name]) for name in last)
    for name, value in exported.items():
        assert torch.equal(value, average[name]) and torch.equal(value, evaluated[-1][name]), name


def test_blocks_computed_twice_change_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.nn.Module] = []

    def watched(block: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        calls.append(block)
        return recomputed(block, x)

    monkeypatch.setattr(network_module, "recomputed", watched)
    for name, enable in (("plain", False), ("again", True)):
        trainer = {"accelerator": "cpu", "grad_checkpointing": enable}
        train(make_recipe(name, steps=[{**STEP, "ema": 0.9, "weight_bits": 1}], trainer=trainer))
        assert bool(calls) == enable
    plain, again = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "again"))
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_images_held_out_are_what_is_evaluated(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(steps=[STEP], model=TWIN)
    data = {"path": "digits", "image_size": 16, "channels": 1, "mean": [0.3], "std": [0.35], "validation": 100}
    assert train(recipe)["only"]["images"] == 360
    assert train(make_recipe("held", steps=[STEP], model=TWIN, data=data))["only"]["images"] == 100


def test_estimators_are_annealed_and_a_teacher_has_a_head_of_its_own(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress: list[float] = []
    heads: list[bool] = []
    training_step, loss = StepModule.training_step, TrainingLoss.forward

    def stepped(self: StepModule, *arguments: Any) -> Any:
        progress.extend({float(m.progress) for m in self.model.modules() if isinstance(m, AnnealedEstimator)})
        return training_step(self, *arguments)

    def judged(self: TrainingLoss, logits: Any, *arguments: Any) -> Any:
        heads.append(isinstance(logits, tuple))
        return loss(self, logits, *arguments)

    monkeypatch.setattr(StepModule, "training_step", stepped)
    monkeypatch.setattr(TrainingLoss, "forward", judged)
    model = {
        "name": "bcdnet_b_r18_small",
        "width": 1 / 16,
        "layers": [1, 1, 1, 2],
        "mlp_blocks": 3,
        "estimator": "tanh",
    }
    layers = {"width": 1 / 16, "layers": [1, 1, 1, 1]}
    teacher = {"model": TWIN["name"], "kwargs": layers, "train": {**STEP, "name": "teacher"}}
    train(make_recipe(steps=[STEP], model=model))
    assert progress == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert 0 < float(read_rows(tmp_path / "run" / "metrics.csv")[-1]["flip_rate"]) < 1
    assert heads == [False] * 4
    heads.clear()
    train(make_recipe("taught", steps=[STEP], model=model, teacher=teacher))
    assert heads == [False] * 4 + [True] * 4


def test_no_two_iterations_draw_the_same(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    orders: list[list[int]] = []
    augmentation = phase_module.augmentation

    def watched(*arguments: Any) -> Any:
        augment = augmentation(*arguments)

        def apply(images: torch.Tensor, labels: torch.Tensor, seed: int) -> Any:
            seeds.append(seed)
            orders.append(labels.tolist())
            return augment(images, labels, seed)

        return apply

    monkeypatch.setattr(phase_module, "augmentation", watched)
    train(make_recipe(steps=[STEP, {**STEP, "name": "again"}], model=TWIN))
    assert len(set(seeds)) == len(seeds) == 8
    assert len({tuple(order) for order in orders}) == 8


def test_rows_are_means_of_what_came_since_the_last(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11 iterations, of two parts each, are an epoch."""
    losses: list[float] = []
    loss = TrainingLoss.forward

    def watched(self: TrainingLoss, *arguments: Any) -> torch.Tensor:
        result = loss(self, *arguments)
        losses.append(result.item())
        return result

    monkeypatch.setattr(TrainingLoss, "forward", watched)
    trainer = {"accelerator": "cpu", "accumulate": 2, "log_every": 4}
    results = train(make_recipe(steps=[{**STEP, "iterations": 13, "ema": 0.9}], model=TWIN, trainer=trainer))["only"]
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    spans = [("train", 0, 4), ("train", 4, 8), ("epoch", 0, 11), ("train", 8, 12), ("epoch", 11, 13)]
    for row, (event, first, last) in zip(rows, spans, strict=True):
        assert (row["event"], int(row["iteration"])) == (event, last)
        own = losses[2 * first : 2 * last]
        assert float(row["train_loss"]) == pytest.approx(sum(own) / len(own), rel=1e-5)
        assert float(row["epoch"]) == pytest.approx(last / 11, rel=1e-5)
    for key in ("loss", "top1", "top5"):
        assert float(rows[-1][f"val_{key}"]) == pytest.approx(results[key], rel=1e-5)
    assert results["epochs"] == 2
    state = newest_readable(tmp_path / "run" / "checkpoints", print)
    assert state is not None and state["average"]["updates"] == 13


def module_of(model: torch.nn.Module, augment: Augmentation, seed: int = 0) -> StepModule:
    step = StepConfig("only", 1.0, iterations=1)
    return StepModule(model, step, Plan(1, 1), TrainerConfig(), augment, index=0, seed=seed)


def test_accuracy_in_training_is_that_of_both_heads_mean() -> None:
    class TwoHeads(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor([[2.0, 0], [0, 1], [3, 0]]), torch.tensor([[0.0, 3], [0, 1], [0, 1]])

    for targets in (torch.tensor([1, 0, 0]), torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4]])):
        module = module_of(TwoHeads(), lambda images, labels, seed: (images, labels))
        loss = module.training_step((torch.zeros(3), targets, 0), 0)
        assert module.epoch.sums.tolist() == pytest.approx([3 * float(loss), 2, 3])


def test_each_process_and_seed_augments_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def augment(images: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        seeds.append(seed)
        return images, labels

    for rank, seed in ((0, 0), (1, 0), (0, 1)):
        monkeypatch.setattr(StepModule, "global_rank", rank)
        module = module_of(torch.nn.Linear(1, 1), augment, seed)
        module.on_after_batch_transfer((torch.zeros(1, 1, 1, 1), torch.zeros(1), 0), 0)
    assert len(set(seeds)) == 3


def test_fresh_weights_depend_on_the_seed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for seed in (1, 2):
        train(make_recipe(str(seed), steps=[{**STEP, "iterations": 1, "lr": 0.0}], model=TWIN, seed=seed))
    one, two = (load_file(tmp_path / name / "model.safetensors")["stem.0.weight"] for name in "12")
    assert not torch.allclose(one, two)


def test_a_teacher_may_move_but_not_change(
    make_recipe: MakeRecipe, tmp_path: Path, begin_and_stop: Callable[[Recipe], None]
) -> None:
    for name, seed in (("first", 1), ("second", 2)):
        train(make_recipe(name, steps=[{**STEP, "iterations": 1}], model=TWIN, seed=seed))

    def taught(by: str) -> Recipe:
        return make_recipe(steps=[{**STEP, "iterations": 6}], teacher={"checkpoint": str(tmp_path / by)})

    begin_and_stop(taught("first"))
    (tmp_path / "first").rename(tmp_path / "moved")
    with pytest.raises(RecipeError, match=r"teacher\.checkpoint: this is not the network that taught"):
        train(taught("second"), resume=True)
    assert load_recipe(tmp_path / "run" / "recipe.yaml").teacher == taught("first").teacher
    train(taught("moved"), resume=True)
    assert load_model(tmp_path / "run").provenance["taught_by"]["model"] == TWIN["name"]


def test_a_network_knows_a_few_of_those_that_it_goes_back_to() -> None:
    known: dict[str, Any] = {}
    for number in range(9):
        known = {"model": number, "began_with": known, "versions": {}}
    kept, models = shortened(known), []
    while kept:
        models.append(kept["model"])
        kept = kept.get("began_with", {})
    assert models == [8, 7, 6, 5]


def test_a_network_trained_on_in_many_runs_still_knows_its_first_data() -> None:
    known: dict[str, Any] = {"model": "net", "data": "first"}
    for teacher in [None] * 5 + ["twin"] * 5:
        known = {"model": "net", "data": "second", "began_with": known, "results": {}}
        known |= {"taught_by": {"model": teacher}} if teacher else {}
    kept, data = shortened(known), []
    while kept:
        data.append((kept["data"], kept.get("taught_by", {}).get("model")))
        kept = kept.get("began_with", {})
    assert data == [("second", "twin"), ("second", None), ("first", None)]


def test_a_folder_belongs_to_one_process(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(steps=[STEP], model=TWIN)
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(RecipeError, match="another process is training in"):
        train(recipe)
    results = train(recipe)
    file = tmp_path / "run" / "environment.json"
    begun = json.loads(file.read_text())
    assert train(recipe, resume=True) == results
    record = json.loads(file.read_text())
    assert len(record.pop("resumed")) == 1 and record == begun


def test_a_file_system_without_locks_is_no_hindrance(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlocked(self: FileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", unlocked)
    assert train(make_recipe(steps=[STEP], model=TWIN))["only"]["iterations"] == 4
