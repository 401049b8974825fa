import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bcdnet.errors import CheckpointError, RecipeError
from bcdnet.models import VARIANTS, build, configure, load_model, save_model, weight_bits_of
from bcdnet.nn import set_weight_bits

PREPROCESS = {
    "input_size": [3, 32, 32],
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "interpolation": "bilinear",
    "crop_pct": 1,
}


@pytest.fixture
def saved(tmp_path):
    model = build(configure("bcdnet_b_r18_small", width=0.0625, num_classes=3)).eval()
    path = save_model(
        tmp_path / "model.safetensors", model, labels=["a", "b", "c"], preprocess=PREPROCESS, provenance={"seed": 1}
    )
    return model, path


def rewrite(path, change):
    """Change the header or the tensors of a model file in place."""
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()["bcdnet"])
    tensors = load_file(path)
    change(header, tensors)
    save_file(tensors, path, metadata={"bcdnet": json.dumps(header)})


@pytest.mark.parametrize("bits", [1, 32])
def test_round_trip_keeps_everything(tmp_path, bits):
    torch.manual_seed(0)
    model = build(configure("bcdnet_b_small", width=0.125, num_classes=3))
    set_weight_bits(model, bits)
    model(torch.randn(4, 3, 32, 32))  # statistics of its own
    save_model(
        tmp_path / "model.safetensors", model, labels=["a", "b", "c"], preprocess=PREPROCESS, provenance={"s": 1}
    )
    loaded = load_model(tmp_path)  # a run folder
    assert weight_bits_of(loaded.model) == bits and not loaded.model.training
    assert (loaded.labels, loaded.preprocess, loaded.provenance) == (["a", "b", "c"], PREPROCESS, {"s": 1})
    assert loaded.model.config == model.config
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.model(x), model.eval()(x))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_compiled_network_is_written_as_what_it_is(tmp_path, saved):
    model, path = saved
    rest = {"labels": ["a", "b", "c"], "preprocess": PREPROCESS, "provenance": {"seed": 1}}
    compiled = save_model(tmp_path / "compiled.safetensors", torch.compile(model), **rest)
    assert compiled.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_a_file(tmp_path, name):
    model = build(configure(name, width=0.125, num_classes=2))
    save_model(tmp_path / "m.safetensors", model, labels=[], preprocess=PREPROCESS, provenance={})
    assert load_model(tmp_path / "m.safetensors").model.config == model.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a"]}, "labels: 1, but there are 3 classes"),
        ({"labels": [0, 1, 2]}, "labels.*: expected a string"),
        ({"labels": 5}, "labels: expected a list"),
        ({"preprocess": None}, "preprocess: expected a mapping"),
        ({"preprocess": {}}, "preprocess.input_size: required"),
        ({"preprocess": PREPROCESS | {"mean": "x"}}, "preprocess.mean: expected"),
        ({"preprocess": PREPROCESS | {"mean": [0.5]}}, "mean, std: one number for each of 3 channels"),
        ({"preprocess": PREPROCESS | {"mean": [0.5], "std": [0.2]}}, "mean, std: one number for each of 3 channels"),
        ({"preprocess": PREPROCESS | {"input_size": [3, 32]}}, "preprocess.input_size: expected"),
        ({"preprocess": PREPROCESS | {"input_size": [3, 16.5, 32]}}, "preprocess.input_size.*: expected"),
        ({"preprocess": PREPROCESS | {"input_size": [3, 0, 32]}}, "input_size: from 1 on"),
        ({"provenance": None}, "provenance: expected a mapping"),
        ({"provenance": []}, "provenance: expected a mapping"),
    ],
)
def test_what_a_file_says_beside_its_network_is_checked(tmp_path, saved, change, message):
    model, path = saved
    details = {"labels": ["a", "b", "c"], "preprocess": PREPROCESS, "provenance": {}}
    with pytest.raises(RecipeError, match=message):
        save_model(tmp_path / "other.safetensors", model, **details | change)
    rewrite(path, lambda header, _: header.update(change))
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{message}"):
        load_model(path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match="no such model file"):
        load_model(tmp_path)
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="bcdnet import"):
        load_model(path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_model(path)


@pytest.mark.parametrize("header", ["{", "[" * 100_000, "9" * 5_000], ids=["cut", "brackets", "digits"])
def test_a_header_that_no_reader_of_json_takes(tmp_path, header):
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"bcdnet": header})
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: not a readable safetensors file"):
        load_model(path)


def test_a_truncated_file(saved):
    _, path = saved
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable"):
        load_model(path)


def test_a_newer_format(saved):
    rewrite(saved[1], lambda header, tensors: header.update(format=2))
    with pytest.raises(CheckpointError, match="format 2, this version reads 1"):
        load_model(saved[1])


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda header, tensors: header.update(family="vgg"), "vgg"),
        (lambda header, tensors: header.pop("labels"), "labels"),
        (lambda header, tensors: header["config"].update(depth=3), "depth"),
        (lambda header, tensors: header["config"].update(widths="wide"), "widths"),
        (lambda header, tensors: header["config"].update(widths=[2**20] * 4), "parameters, the file at most"),
        (
            lambda header, tensors: header["config"].update(layers=[10**9] * 4),
            "layers: from 0 to 1,000, not 4000000000",
        ),
        (lambda header, tensors: header["config"].update(widths=[-4] * 4), "widths: from 1 to 1,048,576, not -4"),
        (lambda header, tensors: header.update(family=[]), "unhashable"),
        (lambda header, tensors: header.update(weight_bits=2), "not 2"),
        (lambda header, tensors: tensors.pop("stem.0.weight"), "Missing key.*stem.0.weight"),
        (lambda header, tensors: tensors.update(extra=torch.zeros(1)), "Unexpected key.*extra"),
        (lambda header, tensors: tensors.update({"stem.0.weight": torch.zeros(1)}), "size mismatch for stem.0.weight"),
    ],
)
def test_what_does_not_fit_is_named(saved, change, message):
    rewrite(saved[1], change)
    with pytest.raises(CheckpointError, match=message):
        load_model(saved[1])


def test_a_model_between_the_steps_is_not_saved(saved):
    model, path = saved
    set_weight_bits(model.stages[0], 32)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="whole model"):
        save_model(path, model, labels=[], preprocess=PREPROCESS, provenance={})
    assert path.read_bytes() == before


def test_a_network_in_channels_last_is_saved_as_any_other(tmp_path, saved):
    model, path = saved
    rest = {"labels": ["a", "b", "c"], "preprocess": PREPROCESS, "provenance": {"seed": 1}}
    last = save_model(tmp_path / "last.safetensors", model.to(memory_format=torch.channels_last), **rest)
    assert last.read_bytes() == path.read_bytes()


def test_a_network_without_binary_layers_has_32_bits():
    assert weight_bits_of(build(configure("resnet18_twin_small", width=0.125))) == 32
