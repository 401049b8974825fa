"""What `bcdnet analyze` computes, against its definitions, and the command itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcdnet.analysis import binarisation, field, flips, thresholds
from bcdnet.cli.main import main
from bcdnet.errors import BcdnetError
from bcdnet.models import Network, build, configure, load_model, save_model
from bcdnet.nn import (
    BinaryConv2d,
    BinaryLayer,
    BinaryMLPBlock,
    ContextualEmbedding,
    RSign,
    ShortRangeShift,
    set_progress,
)
from bcdnet.training.flips import SignHistory
from bcdnet.training.recipe_file import resolve
from bcdnet.training.run import train

SETTINGS = {"num_classes": 3, "width": 1 / 16, "in_chans": 1}


def network(name: str = "bcdnet_b_r18_small", **changes: object) -> Network:
    torch.manual_seed(0)
    model = build(configure(name, **{**SETTINGS, **changes})).eval()
    for module in model.modules():
        if isinstance(module, RSign):
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, ContextualEmbedding):
            for head in filter(None, (module.to_alpha, module.to_beta, module.to_gain)):
                nn.init.normal_(head.weight, std=0.3)
    return model


def test_branch_error_is_what_no_scale_makes_good() -> None:
    torch.manual_seed(0)
    block = BinaryMLPBlock(8).eval()
    nn.init.normal_(block.binarize.bias)
    images = torch.randn(6, 8, 5, 5)
    found = {row.branch: row for row in binarisation.branch_errors(nn.Sequential(block), [images[:4], images[4:]])}
    assert list(found) == ["none", "short", "long"] and {row.block for row in found.values()} == {"0"}
    real = images + block.binarize.bias.view(1, -1, 1, 1)
    shift, conv = ShortRangeShift(), block.convs["short"]
    with torch.no_grad():
        wanted, got = conv(shift(real)).flatten(), conv(shift(block.binarize(images))).flatten()
    best = (wanted @ got) / (got @ got)
    expected = float((wanted - best * got).square().sum() / wanted.square().sum())
    assert found["short"].error == pytest.approx(expected, rel=1e-5) and 0 < expected < 1


def test_what_is_binary_already_loses_nothing() -> None:
    block = BinaryMLPBlock(8, ("none",)).eval()
    images = 3.0 * torch.randint(0, 2, (4, 8, 5, 5)).mul(2).sub(1)
    (row,) = binarisation.branch_errors(nn.Sequential(block), [images])
    assert row.error == pytest.approx(0, abs=1e-9)


def test_thresholds_are_those_of_the_embedding() -> None:
    model = network()
    images, labels = torch.randn(12, 1, 16, 16), torch.arange(12) % 3
    found = thresholds.thresholds(model, [(images[:7], labels[:7]), (images[7:], labels[7:])], 4)
    assert len(found.blocks) == sum(isinstance(module, ContextualEmbedding) for module in model.modules())
    block = model.stages[0][0]
    with torch.no_grad():
        x = model.stem(images)
        alpha = block.embedding(x)[0]
        turned = (block.binarize(x, alpha) != block.binarize(x)).double().mean()
    values = alpha.flatten(1).double().numpy()
    first = found.blocks[0]
    np.testing.assert_allclose(first.alpha.quantiles, np.quantile(values, thresholds.QUANTILES), rtol=1e-4, atol=1e-6)
    assert first.flipped == pytest.approx(float(turned), rel=1e-3) and first.flipped > 0
    assert first.alpha.image_std == pytest.approx(values.std(0).mean(), rel=1e-4)
    shares = {row.block: row.alpha.class_share for row in found.blocks}
    path, by_class = found.by_class["alpha"]
    assert shares[path] == max(shares.values()) > min(shares.values())
    assert np.isfinite(by_class[:3]).all() and np.isnan(by_class[3]).all()  # no image of that class
    means = np.stack([values[labels == k].mean(0) for k in range(3)])
    within = ((values - means[labels]) ** 2).sum() / (12 - 3)
    assert first.alpha.class_share == pytest.approx(max(0, 1 - within / values.var(0, ddof=1).sum()), abs=1e-3)


def test_classes_explain_nothing_of_noise_and_all_of_themselves() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 100, 500)
    assert thresholds._spread(rng.normal(size=(500, 16)), classes, 100).class_share < 0.05
    own = rng.normal(size=(100, 16))[classes]
    assert thresholds._spread(own, classes, 100).class_share == pytest.approx(1)
    assert thresholds._spread(own[:3], np.arange(3), 100).class_share is None  # one image each tells nothing


@pytest.mark.parametrize("kind", ["error", "thresholds", "field"])
def test_a_diverged_network_has_no_figures(
    kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_model(run)
    with torch.no_grad():
        loaded.model.stem[0].weight[0] = float("nan")
    path = save_model(
        tmp_path / "m.safetensors",
        loaded.model,
        labels=loaded.labels,
        preprocess=loaded.preprocess,
        provenance=loaded.provenance,
    )
    call(2, kind, path, "--data", "digits", "--images", "60", "--out", tmp_path / "out")
    message = capsys.readouterr().err
    assert "training diverged" in message and message.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_gain_has_figures_too(tmp_path: Path) -> None:
    model = network("reactnet_r18_small", embedding="full")
    images, labels = torch.randn(12, 1, 16, 16), torch.arange(12) % 3
    found = thresholds.thresholds(model, [(images, labels)], 3)
    assert list(found.by_class) == ["alpha", "beta", "gain"]
    with torch.no_grad():
        gain = model.stages[0][0].embedding(model.stem(images))[2].flatten(1).double().numpy()
    spread = found.blocks[0].gain
    np.testing.assert_allclose(spread.quantiles, np.quantile(gain, thresholds.QUANTILES), rtol=1e-4)
    thresholds.draw(found, list("abc"), tmp_path / "x.svg", "a title")
    assert "gain: 5 to 95" in (tmp_path / "x.svg").read_text()


def test_half_an_embedding_and_none() -> None:
    images = [(torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 0]))]
    model = build(configure("bcdnet_b_r18_small", embedding="beta", **SETTINGS)).eval()
    found = thresholds.thresholds(model, images, 3)
    assert all(row.alpha is None and row.beta is not None and row.flipped == 0 for row in found.blocks)
    with pytest.raises(BcdnetError, match="no dynamic embedding"):
        thresholds.thresholds(network("bcdnet_a_r18_small", embedding="none"), images, 3)
    for analysis in (binarisation.branch_errors, field.receptive_fields):
        with pytest.raises(BcdnetError, match="no MLP block"):
            analysis(network(mlp_blocks=0), [images[0][0]])
    with pytest.raises(BcdnetError, match="long-range"):
        field.receptive_fields(network(mlp_branches=("none", "short")), [images[0][0]])


@pytest.mark.parametrize("branches", [("none", "short", "long"), ("none", "long", "long")])
def test_the_long_range_widens_the_field(branches: tuple[str, ...]) -> None:
    # One convolution before the MLP block: without the long range, the middle sees what is near it and no more.
    class Far(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 8, 3, padding=1)
            self.block = BinaryMLPBlock(8, branches)

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(self.stem(x))

    torch.manual_seed(0)
    fields = field.receptive_fields(Far().eval(), [torch.randn(8, 1, 16, 16)])
    rows, columns = np.indices((16, 16))
    near = (abs(rows - 8) <= 2) & (abs(columns - 8) <= 2)
    assert fields["without"].map[~near].sum() == 0 and fields["with"].map[~near].sum() > 0.1
    assert fields["with"].pixels[0.9] > fields["without"].pixels[0.9]
    assert fields["with"].distance > fields["without"].distance > 0
    assert fields["with"].map.sum() == pytest.approx(1)


@pytest.mark.parametrize("estimator", ["tanh", "reste"])
def test_a_field_is_that_of_the_estimators_end(estimator: str) -> None:
    """A file does not say how far its estimators had come."""
    model = network("bcdnet_a_small", estimator=estimator)
    images, maps = torch.randn(1, 1, 32, 32), []
    for progress in (0.0, 0.5, 1.0):
        set_progress(model, progress)
        maps.append(field.receptive_fields(model, [images])["with"].map)
        assert {float(value) for name, value in model.named_buffers() if "progress" in name} == {progress}
    np.testing.assert_array_equal(maps[0], maps[2])
    np.testing.assert_array_equal(maps[1], maps[2])


class Sees(nn.Module):
    """A function of the image as the last map, beside a block that nothing reads."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function, self.block = function, BinaryMLPBlock(8)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def test_figures_of_a_field_that_is_known() -> None:
    # The middle of 8 x 8 windows is that of the pixels 8 and 9, whose own middle is 8.5.
    windows = Sees(lambda x: F.avg_pool2d(x[:, :1] - x[:, 1:], 2))
    found = field.receptive_fields(windows, [torch.rand(3, 2, 16, 16)])["with"]
    assert found.map[8:10, 8:10] == pytest.approx(np.full((2, 2), 0.25)) and found.map.sum() == pytest.approx(1)
    assert found.pixels == {0.5: 2 / 256, 0.9: 4 / 256} and found.distance == pytest.approx(0.5**0.5)


def test_a_field_is_the_mean_over_all_images() -> None:
    images = torch.zeros(2, 1, 16, 16)
    images[0, 0, 8, 8] = images[1, 0, 9, 9] = 1
    fields = field.receptive_fields(Sees(lambda x: F.max_pool2d(x, 2)), images.split(1))
    for found in fields.values():
        assert found.map[8, 8] == found.map[9, 9] == 0.5


def test_the_figures_that_are_written_weigh_layers_and_blocks() -> None:
    log = [
        ("epoch", "teacher", "1", "0.5"),
        ("epoch", "a", "1", "0.25"),
        ("epoch", "a", "2", ""),
        ("step", "a", "2", "1"),
    ]
    rows = [dict(zip(("event", "step", "epoch", "flip_rate"), row, strict=True)) for row in log]
    assert flips.epochs_of(rows) == [flips.EpochFlips("a", 1.0, 0.25)]
    layers = [flips.LayerFlips("x", 30, 0.1), flips.LayerFlips("y", 10, 0.5)]
    assert flips.to_json(flips.Flips([], layers, "a", "b"))["rate_between"] == pytest.approx(8 / 40)
    assert flips.to_json(flips.Flips([], [], "", ""))["rate_between"] is None
    errors = [binarisation.BranchError(*row) for row in (("x", "none", 0.2), ("x", "long", 0.5), ("y", "none", 0.4))]
    document = binarisation.to_json(errors)
    assert document["blocks"] == ["x", "y"] and document["branches"] == {"none": [0.2, 0.4], "long": [0.5]}
    assert document["mean"] == pytest.approx({"none": 0.3, "long": 0.5})


def test_flips_by_layer_and_by_epoch() -> None:
    before = nn.Sequential(BinaryConv2d(4, 4, 1), BinaryConv2d(4, 4, 1))
    after = nn.Sequential(BinaryConv2d(4, 4, 1), BinaryConv2d(4, 4, 1))
    after.load_state_dict(before.state_dict())
    history = SignHistory(after)
    with torch.no_grad():
        after[1].latent_weight[0].neg_()  # 4 of 16
    assert [(row.layer, row.weights, row.rate) for row in flips.flips_between(before, after)] == [
        ("0", 16, 0.0),
        ("1", 16, 0.25),
    ]
    assert history.rate() == 4 / 32 and history.rate() == 0
    assert SignHistory(nn.Linear(1, 1)).rate() is None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analyze") / "run"
    step = {"iterations": 4, "batch_size": 512, "lr": 4e-3}  # two epochs
    recipe = {
        "name": "tiny",
        "run_dir": str(folder),
        "model": {"name": "bcdnet_b_r18_small", "width": 1 / 16, "layers": [1, 1, 1, 2], "mlp_blocks": 3},
        "data": {"path": "digits", "image_size": 16, "channels": 1, "mean": [0.3], "std": [0.35]},
        "steps": [{"name": "step1", **step}, {"name": "step2", "weight_bits": 1, **step}],
        "trainer": {"accelerator": "cpu"},
    }
    train(resolve(recipe), say=lambda message: None)
    return folder


@pytest.mark.parametrize("kind", ["error", "flips", "thresholds", "field"])
def test_the_command_writes_figures_and_a_picture(kind: str, run: Path, tmp_path: Path) -> None:
    words = [] if kind == "flips" else ["--data", "digits", "--images", "60"]
    call(0, kind, run, *words, "--out", tmp_path)
    document = json.loads((tmp_path / f"{kind}.json").read_text())
    assert document["analysis"] == kind and document["model"] == "run"
    picture = next(path for path in tmp_path.iterdir() if path.suffix in (".svg", ".png"))
    assert picture.stat().st_size > 5000
    if kind == "flips":
        assert [(row["step"], row["epoch"]) for row in document["epochs"]] == [
            (step, float(epoch)) for step in ("step1", "step2") for epoch in (1, 2)
        ]
        assert all(0 < row["rate"] < 1 for row in document["epochs"])
        layers = [module for module in load_model(run).model.modules() if isinstance(module, BinaryLayer)]
        assert len(document["layers"]) == len(layers) and 0 < document["rate_between"] < 1
    else:
        assert document["images"] == 60


def call(expected: int, *words: object) -> None:
    with pytest.raises(SystemExit) as left:
        main(["analyze", *map(str, words)])
    assert (left.value.code or 0) == expected


def test_mistakes_name_the_remedy(run: Path, tmp_path: Path, capsys: Callable[..., object]) -> None:
    call(2, "error", run, "--out", tmp_path)
    assert "say which with --data DIR" in capsys.readouterr().err
    call(2, "flips", run / "model.safetensors", "--out", tmp_path)
    assert "not a run folder" in capsys.readouterr().err
    call(2, "field", run, "--data", tmp_path / "none", "--out", tmp_path)
    assert "no such folder" in capsys.readouterr().err
    call(2, "error", "bcdnet_b_r18_small", "--data", "digits", "--out", tmp_path)
    assert "bcdnet_b_r18_small: a network without training" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage", [lambda text: text.replace(b",epoch,1,", b",epoch,x,"), lambda text: text + b"\xff\n"]
)
def test_flips_of_a_damaged_log(
    damage: Callable[[bytes], bytes], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    rows = copy / "metrics.csv"
    rows.write_bytes(damage(rows.read_bytes()))
    call(2, "flips", copy)
    message = capsys.readouterr().err
    assert f"{rows}: damaged" in message and message.count("\n") == 1
