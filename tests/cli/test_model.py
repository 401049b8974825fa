"""What the commands take for MODEL."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bcdnet.cli.eval import evaluate_packed
from bcdnet.cli.main import main
from bcdnet.cli.model import check_trained, find_model, packed_file
from bcdnet.errors import BcdnetError, ImageTooLargeError
from bcdnet.evaluation import Evaluation
from bcdnet.models import build, configure, save_model
from bcdnet.pretrained import locate
from bcdnet.program import read_program
from bcdnet.runtime import InferenceSession


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    model = build(configure("bcdnet_b_r18_small", width=0.125, num_classes=3, in_chans=1))
    preprocess = {"input_size": [1, 16, 16], "mean": [0.5], "std": [0.5], "interpolation": "bilinear", "crop_pct": 1.0}
    save_model(tmp_path / "model.safetensors", model, labels=list("abc"), preprocess=preprocess, provenance={"seed": 3})
    return tmp_path


def test_a_trained_model_is_packed_for_the_while(run_folder: Path) -> None:
    with packed_file(str(run_folder)) as path:
        session = InferenceSession(path)
        assert session.labels == ("a", "b", "c")
        assert session.provenance["seed"] == 3
    assert not path.exists()


def test_a_packed_file_is_taken_as_it_is(tmp_path: Path) -> None:
    with packed_file(str(tmp_path / "any.bcdn")) as path:
        assert path == tmp_path / "any.bcdn"


def test_a_file_in_this_folder_is_not_the_shipped_model_of_its_name(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "bcdnet_b_r18_cifar10").write_bytes(locate("reactnet_r18_cifar10").read_bytes())
    monkeypatch.chdir(tmp_path)
    with packed_file("./bcdnet_b_r18_cifar10") as path:
        assert InferenceSession(path).provenance["model"] == "reactnet_r18_small"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of Unix")
def test_a_pipe_is_not_said_to_be_missing(tmp_path: Path) -> None:
    for name in ("pipe", "pipe.bcdn"):
        os.mkfifo(tmp_path / name)
        problem = f"{name}: is a pipe or a device; write it to a file"
        with pytest.raises(BcdnetError, match=problem), packed_file(str(tmp_path / name)) as path:
            read_program(path)


def test_mistakes_name_the_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(BcdnetError, match=r"no trained model is called 'bcdnet_a', .*give a packed file"),
        packed_file("bcdnet_a"),
    ):
        pass
    with pytest.raises(BcdnetError, match=r"x\.bcdn: no such file"):
        find_model("x.bcdn")
    with pytest.raises(BcdnetError, match=r"bcdnet_b_r18_fashion_mnist is a file with a fixed network: leave width"):
        find_model("bcdnet_b_r18_fashion_mnist", width=0.5)
    with pytest.raises(BcdnetError, match="did you mean bcdnet_"):
        find_model("bcdnet_c")
    with pytest.raises(BcdnetError, match=r"test_model\.py: is no packed file, model file or run folder"):
        check_trained(__file__)
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(BcdnetError, match=r"left no model\.safetensors yet; bcdnet train --resume finishes it"):
        check_trained(str(tmp_path))
    for tag in ("bcdnet_b.bcdm", "resnet18.none"):
        with pytest.raises(BcdnetError, match=f"no model is called {tag}, and there is no such file"):
            find_model(tag)


def test_a_model_of_the_hub_is_evaluated_under_its_name_there(monkeypatch, capsys) -> None:
    shipped = locate("bcdnet_b_r18_fashion_mnist")
    monkeypatch.setattr("bcdnet.hub.download", lambda _name, _files: shipped)
    figures = Evaluation(90.0, 99.0, 0.1, 1, 1.0, 0.0, {"shirt": 90.0}, np.ones((1, 1), np.int64))
    monkeypatch.setattr("bcdnet.cli.eval.evaluate_packed", lambda *_: figures)
    with pytest.raises(SystemExit):
        main(["eval", "hf-hub:a/b", "--data", "digits"])
    assert capsys.readouterr().out.startswith("hf-hub:a/b on digits (test)\n")


def test_an_image_that_cannot_be_resized_is_named(tmp_path: Path) -> None:
    for label in InferenceSession("reactnet_r18_cifar10").labels:
        (tmp_path / label).mkdir()
        Image.new("RGB", (1, 90_000) if label == "cat" else (32, 32), 7).save(tmp_path / label / "0.png")
    with pytest.raises(ImageTooLargeError, match=r"cat/0\.png: is too long for its width"):
        evaluate_packed("reactnet_r18_cifar10", str(tmp_path), "all", 256)
