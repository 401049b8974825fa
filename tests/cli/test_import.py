"""`bcdnet import`: published checkpoints in the file formats they come in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bcdnet.cli.main import main
from bcdnet.models import load_model, weight_bits_of

NAME = "bcdnet_a_official_small.npz"


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, torch.Tensor]:
    path = shared / "golden" / NAME
    if not path.is_file():
        pytest.skip(f"no {path}")
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def state(golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "state_dict/"
    return {name.removeprefix(prefix): tensor for name, tensor in golden.items() if name.startswith(prefix)}


def run(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """Output of the command, or its error where it exits with `code` 2."""
    with pytest.raises(SystemExit) as stop:
        main(["import", *map(str, words)])
    captured = capsys.readouterr()
    assert stop.value.code == code, captured.err
    return captured.err if code else captured.out


def test_every_format_gives_the_published_logits(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    shared: Path,
    golden: dict[str, torch.Tensor],
    state: dict[str, torch.Tensor],
) -> None:
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "model_best.pth.tar"
    )
    save_file(state, tmp_path / "plain.safetensors")
    for source in (shared / "golden" / NAME, tmp_path / "model_best.pth.tar", tmp_path / "plain.safetensors"):
        output = tmp_path / "out" / "model.safetensors"
        assert "10 classes" in run(capsys, source, "-o", output, "--image-size", 112)
        loaded = load_model(output)
        assert weight_bits_of(loaded.model) == 1
        assert loaded.labels == [str(index) for index in range(10)]
        assert loaded.preprocess["input_size"] == [3, 112, 112]
        assert loaded.provenance["source"] == source.name
        with torch.no_grad():
            logits = loaded.model(golden["input"])
        torch.testing.assert_close(logits, golden["logits"], rtol=1e-4, atol=1e-5)


def test_first_step_and_class_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    torch.save(state, tmp_path / "step1.pth")
    (tmp_path / "names.txt").write_text("\n".join(f"class {index}" for index in range(10)) + "\n")
    output = tmp_path / "model.safetensors"
    run(capsys, tmp_path / "step1.pth", "-o", output, "--weight-bits", 32, "--labels", tmp_path / "names.txt")
    loaded = load_model(output)
    assert weight_bits_of(loaded.model) == 32
    assert loaded.labels[9] == "class 9"
    error = run(capsys, tmp_path / "step1.pth", "-o", output, "--labels", "imagenet-1k", code=2)
    assert "imagenet-1k names 1000 classes, the network has 10" in error


class Harmful:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("the checkpoint's code ran",)


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No golden file is needed: that no checkpoint's code runs is tested everywhere."""
    files = {
        "no such file": tmp_path / "none.pth",
        "text.pth: not a checkpoint": tmp_path / "text.pth",
        "which are not loaded because that can run code": tmp_path / "harmful.pth",
        "holds Tensor, not a state dict": tmp_path / "tensor.pth",
        "cut.safetensors: not a checkpoint, or a damaged one": tmp_path / "cut.safetensors",
        "objects.npz: not a checkpoint, or a damaged one": tmp_path / "objects.npz",
    }
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"state_dict": Harmful()}, tmp_path / "harmful.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    np.savez(tmp_path / "objects.npz", harmful=np.array([Harmful()], object))
    save_file({"fc.weight": torch.zeros(1000)}, tmp_path / "cut.safetensors")
    with open(tmp_path / "cut.safetensors", "r+b") as file:
        file.truncate(1000)
    for message, path in files.items():
        error = run(capsys, path, "-o", tmp_path / "out.safetensors", code=2)
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()
    before = (tmp_path / "tensor.pth").read_bytes()
    assert "would write over" in run(capsys, tmp_path / "tensor.pth", "-o", tmp_path / "tensor.pth", code=2)
    assert (tmp_path / "tensor.pth").read_bytes() == before
    assert "ends in .safetensors" in run(capsys, tmp_path / "tensor.pth", "-o", tmp_path / "out.bcdn", code=2)


def test_a_tensor_that_is_missing_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    torch.save({name: tensor for name, tensor in state.items() if name != "fc_dist.bias"}, tmp_path / "partial.pth")
    error = run(capsys, tmp_path / "partial.pth", "-o", tmp_path / "out.safetensors", code=2)
    assert "missing: fc_dist.bias" in error and error.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()
