"""Accuracy, calibration and the command `bcdnet eval`, against plain numpy."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torch import nn
from typer.testing import CliRunner

from bcdnet.cli.main import app
from bcdnet.data import DataConfig, preprocess_of
from bcdnet.data.imagenet_classes import descriptions
from bcdnet.errors import BcdnetError, DataError
from bcdnet.evaluation import evaluate_logits
from bcdnet.models import build, configure, load_model, save_model
from bcdnet.training.assess import assess, check_classes, data_config, own_data
from bcdnet.training.evaluate import evaluate
from bcdnet.training.recipe import Recipe
from bcdnet.training.run import train

MakeRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")

NAMES = ["zero", "one", "two", "three", "four", "five", "never"]


class Lookup(nn.Module):
    """Pixel value i -> row i of a table of logits."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[x[:, 0, 0, 0].long()]


def test_convolutions_are_evaluated_in_float32_on_a_gpu_too() -> None:
    allowed = []

    class Asking(Lookup):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            allowed.append(torch.backends.cudnn.allow_tf32)
            return super().forward(x)

    before = torch.backends.cudnn.allow_tf32
    batch = (torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    evaluate(Asking(torch.randn(1, len(NAMES))), [batch], lambda x: x, NAMES, CPU)
    assert set(allowed) == {False} and torch.backends.cudnn.allow_tf32 == before


def test_figures_equal_those_of_plain_numpy() -> None:
    generator = np.random.default_rng(0)
    images, classes = 200, len(NAMES)
    logits = generator.normal(size=(images, classes)).astype(np.float32) * 2
    labels = generator.integers(0, classes - 1, images)
    pixels = torch.arange(images, dtype=torch.uint8).view(-1, 1, 1, 1)
    batches = [(pixels[i : i + 64], torch.tensor(labels[i : i + 64])) for i in range(0, images, 64)]
    model = Lookup(torch.tensor(logits))
    batches.insert(2, (pixels[:0], torch.zeros(0, dtype=torch.int64)))  # a process's share may be empty
    model.norm.eval()
    result = evaluate(model, batches, lambda x: x, NAMES, torch.device("cpu"))
    assert model.training and not model.norm.training

    ranks = (-logits).argsort(1)
    hit = ranks[:, 0] == labels
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence = probabilities.max(1)
    assert result.images == images
    assert result.top1 == pytest.approx(100 * hit.mean(), abs=1e-4)
    assert result.top5 == pytest.approx(100 * (ranks[:, :5] == labels[:, None]).any(1).mean(), abs=1e-4)
    assert result.loss == pytest.approx(-np.log(probabilities[range(images), labels]).mean(), rel=1e-5)
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(hit[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    assert result.ece == pytest.approx(sum(gaps), abs=1e-5)
    assert result.per_class["two"] == pytest.approx(100 * hit[labels == 2].mean())
    assert result.per_class["never"] is None
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, ranks[:, 0]), 1)
    assert (result.confusion == confusion).all()


def test_top_5_of_three_classes_is_all() -> None:
    model = Lookup(torch.eye(3))
    batch = (torch.tensor([0, 1, 2], dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor([0, 1, 0]))
    result = evaluate(model, [batch], lambda x: x, ["a", "b", "c"], torch.device("cpu"))
    assert (result.top1, result.top5) == (pytest.approx(200 / 3, abs=1e-4), 100)


def test_a_network_that_diverged_has_no_figures() -> None:
    model = Lookup(torch.tensor([[1.0, 0.0], [0.0, float("nan")]]))
    batches = [(torch.tensor([row], dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor([0])) for row in (0, 1)]
    with pytest.raises(BcdnetError, match="the logits of 1 images are not finite"):
        evaluate(model, batches, lambda x: x, ["a", "b"], torch.device("cpu"))
    with pytest.raises(BcdnetError, match="the logits of 1 images are not finite"):
        evaluate_logits(np.array([[0, 1], [np.nan, 0]], np.float32), np.array([0, 1]), ["a", "b"], 1.0)


def test_modes_are_restored_whatever_happens() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 2).eval())
    modes, seen = [module.training for module in model.modules()], []
    model[1].register_forward_hook(lambda module, *_: seen.append(module.training))

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])
        raise DataError("the disk is gone")

    with pytest.raises(DataError, match="gone"):
        evaluate(model, batches(), torch.Tensor.float, ["a", "b"], CPU)
    assert seen == [False, False]  # the first batch goes through twice
    assert [module.training for module in model.modules()] == modes


def test_the_order_of_classes_is_that_of_the_logits() -> None:
    """Softmax gives the last seven of these 0 alike, and the first two 0.5."""
    logits = torch.tensor([[1e3, 1e3 + 1e-4, -200.0, -300, -400, -100, -150]])
    batch = (torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.tensor([1]))
    for label, top1, top5 in ((1, 100, 100), (0, 0, 100), (2, 0, 100), (3, 0, 0), (6, 0, 100)):
        result = evaluate(Lookup(logits), [(batch[0], torch.tensor([label]))], lambda x: x, list("abcdefg"), CPU)
        assert (result.top1, result.top5) == (top1, top5), label


def test_a_network_that_is_certain_is_held_to_it() -> None:
    """Of logits that exp cannot take; a confidence of 1 belongs to the last bin."""
    logits = np.array([[1000, 0], [1000, 0]], np.float32)
    found = evaluate_logits(logits, np.array([0, 1]), ["a", "b"], 1.0)
    assert (found.top1, found.ece, found.loss) == (50, 0.5, 500)


def test_certainty_is_calibrated_alike_in_both_ways() -> None:
    """Half of them certain, 96 % of those right; the others right, and sure by 96 %: one bin, which is calibrated."""
    logits = torch.tensor([[30.0, 0.0]] * 50 + [[float(np.log(0.96 / 0.04)), 0.0]] * 50)
    labels = torch.tensor([1, 1] + [0] * 98)
    pixels = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1)
    ours = evaluate(Lookup(logits), [(pixels, labels)], lambda x: x, ["a", "b"], CPU).ece
    packed = evaluate_logits(logits.numpy(), labels.numpy(), ["a", "b"], 1.0).ece
    assert ours == pytest.approx(0, abs=1e-5) and packed == pytest.approx(0, abs=1e-5)


def test_classes_of_one_name_are_told_apart() -> None:
    logits = np.eye(3, dtype=np.float32)
    result = evaluate_logits(logits, np.array([0, 1, 1]), ["crane", "ox", "crane"], 1.0)
    assert result.per_class == {"crane (0)": 100.0, "ox": 50.0, "crane (2)": None}


def saved(path: Path, labels: list[str], num_classes: int = 0, channels: int = 1, **changes: Any) -> Path:
    torch.manual_seed(0)
    classes = num_classes or len(labels)
    model = build(configure("reactnet_r18_small", width=1 / 16, num_classes=classes, in_chans=channels))
    config = DataConfig("digits", 16, mean=(0.3,) * channels, std=(0.35,) * channels, channels=channels, **changes)
    save_model(path, model, labels=labels, preprocess=preprocess_of(config), provenance={})
    return path


def test_images_are_prepared_as_the_file_says(tmp_path: Path) -> None:
    loaded = load_model(saved(tmp_path / "x", ["a", "b"], crop_pct=0.875, interpolation="bicubic"))
    config = data_config(loaded, "somewhere", "val")
    assert preprocess_of(config) == loaded.preprocess
    assert (config.path, config.test_split) == ("somewhere", "val")


def test_the_command_on_a_run_folder(tmp_path: Path) -> None:
    saved(tmp_path / "model.safetensors", [str(digit) for digit in range(10)])
    runner = CliRunner()
    result = runner.invoke(app, ["eval", str(tmp_path), "--data", "digits", "--json"], catch_exceptions=False)
    figures = json.loads(result.stdout)
    assert figures["images"] == 360
    assert 0 <= figures["top1"] <= figures["top5"] <= 100
    assert 0 <= figures["ece"] <= 1
    assert figures["images_per_second"] > 0
    assert list(figures["per_class"]) == [str(digit) for digit in range(10)]
    assert json.loads((tmp_path / "eval.json").read_text()) == figures
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")

    arguments = ["eval", str(tmp_path / "model.safetensors"), "--data", "digits", "--split", "train"]
    result = runner.invoke(
        app, [*arguments, "--out", str(tmp_path / "out"), "--batch-size", "100"], catch_exceptions=False
    )
    assert "1,437" in result.stdout and "calibration error" in result.stdout
    assert (tmp_path / "out" / "confusion.png").is_file()


def test_other_classes_than_the_models_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    three = saved(tmp_path / "three.safetensors", ["a", "b", "c"])
    with pytest.raises(DataError, match="knows 3 classes, digits has 10: not the data of this model"):
        assess(three, "digits", "test", 64, torch.device("cpu"))
    with pytest.raises(DataError, match="class 1 is 'b' in model, 'c' in data"):
        check_classes(["a", "b", "c"], ["a", "c", "b"], "model", "data")
    check_classes(["a", "b"], ["a", "b"], "model", "data")
    assert not caplog.messages
    check_classes(["a", "b"], ["0", "1"], "model", "data")
    check_classes(["0", "1", "2"], ["0", "1"], "model", "data")
    with pytest.raises(DataError, match="model knows 2 classes, data has 3"):
        check_classes(["a", "b"], ["0", "1", "2"], "model", "data")
    check_classes(["0", "1"], ["a", "b"], "model", "data")
    assert caplog.messages == [
        f"{whose} numbers its classes: taking 0 for 'a', 1 for 'b'" for whose in ("data", "model")
    ]


def test_numbers_that_folders_sort_as_text_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    counted = [str(label) for label in range(12)]
    for model, data in ((counted, sorted(counted)), (sorted(counted), counted), (sorted(counted), counted[:11])):
        with pytest.raises(DataError, match=r"class 2 is '(10|2)' in model, '(10|2)' in data: .* in another order"):
            check_classes(model, data, "model", "data")
    check_classes(counted, [f"{label:02}" for label in range(12)], "model", "data")
    assert caplog.messages == ["model numbers its classes: taking 0 for '00', 11 for '11'"]


def test_imagenets_folders_are_its_classes_in_words(caplog: pytest.LogCaptureFixture) -> None:
    folders = ImageNetInfo("imagenet-1k").label_names()
    check_classes(descriptions(), folders, "model", "data")
    check_classes(folders, descriptions(), "model", "data")
    assert descriptions()[0] == "tench, Tinca tinca" and not caplog.messages
    with pytest.raises(DataError, match="class 0 is 'tench, Tinca tinca' in model, 'n01443537' in data"):
        check_classes(descriptions(), folders[1:] + folders[:1], "model", "data")


def test_the_two_evaluations_agree() -> None:
    """torchmetrics, which adds processes together, and plain numpy, which packed files use."""
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(300, 7)).astype(np.float32) * 3
    labels = generator.integers(0, 6, 300)
    pixels = torch.arange(300).view(-1, 1, 1, 1)
    theirs = evaluate(Lookup(torch.tensor(logits)), [(pixels, torch.tensor(labels))], lambda x: x, NAMES, CPU)
    ours = evaluate_logits(logits, labels, NAMES, seconds=2.0)
    assert (ours.confusion == theirs.confusion).all() and ours.images_per_second == 150
    expected, found = theirs.to_json(), ours.to_json()
    for figures in (expected, found):
        figures.pop("images_per_second")
    per_class = found.pop("per_class")
    assert per_class == pytest.approx(expected.pop("per_class")) and per_class["never"] is None
    assert found == pytest.approx(expected, abs=2e-6)


def test_another_dataset_leaves_the_runs_files_alone(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(steps=[{"name": "only", "weight_bits": 1, "iterations": 1, "batch_size": 64, "lr": 1e-3}])
    train(recipe)
    run = tmp_path / "run"
    assert own_data(run, "digits") and own_data(run / "only.safetensors", "/elsewhere/digits")
    assert not own_data(run, "digits2")
    other = numbered_folder(tmp_path / "other", classes=10)
    runner = CliRunner()
    for words in (["--data", str(other), "--split", "all"], ["--data", "digits", "--split", "train"]):
        result = runner.invoke(app, ["eval", str(run), *words], catch_exceptions=False)
        assert "so that its files stay as they are; --out FOLDER" in result.stderr
        assert not (run / "eval.json").exists()
    runner.invoke(app, ["eval", str(run), "--data", "digits"], catch_exceptions=False)
    assert (run / "eval.json").exists()


def numbered_folder(folder: Path, classes: int, mode: str = "L") -> Path:
    for k in range(classes):
        (folder / str(k)).mkdir(parents=True)
        Image.new(mode, (8, 8), "red").save(folder / str(k) / "0.png")
    return folder


def test_channels_have_to_fit(tmp_path: Path) -> None:
    model = saved(tmp_path / "grey.safetensors", [str(digit) for digit in range(10)])
    colour = numbered_folder(tmp_path / "colour", 10, "RGB")
    with pytest.raises(DataError, match=r"sees grey images, those of .*colour are colour"):
        assess(model, str(colour), "all", 64, CPU)
    assert assess(model, str(numbered_folder(tmp_path / "alpha", 10, "LA")), "all", 64, CPU).images == 10
    Image.new("RGB", (8, 8), (9, 9, 9)).save(colour / "3" / "0.png")  # a grey one, stored as colours
    assert assess(model, str(colour), "all", 64, CPU).images == 10
    sees_colour = saved(tmp_path / "colour.safetensors", [str(digit) for digit in range(10)], channels=3)
    with pytest.raises(DataError, match=r"sees colour images, those of .*alpha are grey"):
        assess(sees_colour, str(tmp_path / "alpha"), "all", 64, CPU)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "alpha" / "9" / "0.png")
    assert assess(sees_colour, str(tmp_path / "alpha"), "all", 64, CPU).images == 10


def test_a_model_without_names_numbers_its_classes_and_a_strange_recipe_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "recipe.yaml").write_text("title: soup")
    model = saved(tmp_path / "model.safetensors", [], num_classes=10)
    assert list(assess(model, "digits", "test", 64, CPU).per_class) == [str(digit) for digit in range(10)]
    assert "recipe.yaml is passed over: title: unknown key" in caplog.text


def test_a_packed_file_is_evaluated_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("bcdnet.runtime._core")
    checkpoint = saved(tmp_path / "model.safetensors", [str(digit) for digit in range(10)])
    packed = tmp_path / "x.bcdn"
    runner = CliRunner()
    runner.invoke(app, ["export", str(checkpoint), "-o", str(packed)], catch_exceptions=False)
    code = (
        "import sys; from bcdnet.cli.main import main\n"
        f"try: main(['eval', {str(packed)!r}, '--data', 'digits', '--json'])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"
    figures = json.loads(done.stdout)
    expected = assess(checkpoint, "digits", "test", 64, CPU).to_json()
    assert list(figures) == list(expected)
    assert (figures["top1"], figures["per_class"]) == (expected["top1"], expected["per_class"])
    assert figures["loss"] == pytest.approx(expected["loss"], abs=1e-4)
