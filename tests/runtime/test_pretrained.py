"""The models that come with the package."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")

from bcdnet.cli.main import main
from bcdnet.errors import ProgramError
from bcdnet.pretrained import is_packed, locate
from bcdnet.runtime import InferenceSession, list_pretrained

NAMES = list_pretrained()


def model_card(name: str) -> str:
    return locate(name).with_suffix(".md").read_text(encoding="utf-8")


def measured(name: str) -> dict[str, Any]:
    """What the card's header says of accuracy."""
    header = yaml.safe_load(model_card(name).split("---\n")[1])
    result: dict[str, Any] = header["model-index"][0]["results"][0]
    return result


def test_there_is_one() -> None:
    assert "bcdnet_b_r18_fashion_mnist" in NAMES and is_packed(NAMES[0]) and not is_packed("bcdnet_b")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_is_complete(name: str) -> None:
    assert locate(name).stat().st_size <= 3_000_000
    session = InferenceSession(name, threads=1)
    assert session.labels and session.preprocess is not None
    assert len(set(session.labels)) == session.get_outputs()[0].shape[1]
    channels, height, width = session.preprocess.input_size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    assert {row.label for row in session.predict([noise], topk=len(session.labels))[0]} == set(session.labels)
    text = model_card(name)
    assert f'InferenceSession("{name}")' in text and "Licence of the data: " in text
    assert {metric["name"] for metric in measured(name)["metrics"]} == {"top-1, packed", "top-1, PyTorch"}
    assert f"{locate(name).stat().st_size:,} bytes" in text
    # Where it was made is nobody's business.
    for words in (text, json.dumps(session.provenance)):
        assert "/tmp/" not in words and "/home/" not in words
        assert words.count("data.path=") == words.count("data.path=data/")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_the_cards(name: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = measured(name)
    data = shared / "data" / result["dataset"]["type"]
    if not data.is_dir():
        pytest.skip(f"no {data}")
    with pytest.raises(SystemExit) as left:
        main(["eval", name, "--data", str(data), "--split", result["dataset"]["split"], "--json"])
    assert not left.value.code
    figures = json.loads(capsys.readouterr().out)
    (packed,) = [metric["value"] for metric in result["metrics"] if metric["name"] == "top-1, packed"]
    assert figures["top1"] == pytest.approx(packed, abs=0.01)


def test_another_name_is_a_path() -> None:
    with pytest.raises(ProgramError, match="no such file"):
        InferenceSession("bcdnet_b_r18_fashion")
