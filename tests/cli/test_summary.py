"""`bcdnet summary`: what it prints and which mistakes it names."""

import json
from itertools import takewhile
from pathlib import Path

import pytest

from bcdnet.analysis import count
from bcdnet.cli.main import main
from bcdnet.cli.summary import short
from bcdnet.models import build, configure, save_model


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Output of the command, or its error where it exits with `code` 2."""
    with pytest.raises(SystemExit) as stop:
        main(["summary", *words])
    assert stop.value.code == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_json_has_the_totals_and_the_stages(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "bcdnet_b_small", "--width", "0.25", "--num-classes", "10", "--json"))
    counts = count(build(configure("bcdnet_b_small", width=0.25, num_classes=10)), (3, 32, 32))
    assert document["model"] == "bcdnet_b_small"
    assert document["input_size"] == [3, 32, 32]  # its own
    assert {name: document[name] for name in counts.totals()} == json.loads(json.dumps(counts.totals()))
    assert sum(stage["bops"] for stage in document["stages"]) == document["bops"] == counts.bops
    assert "layers" not in document


def test_json_lists_layers_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(
        run(capsys, "birealnet18_small", "--width", "0.25", "--input-size", "1", "28", "28", "--layers", "--json")
    )
    first = document["layers"][0]
    assert (first["name"], first["kind"], first["output"]) == ("stem.0", "Conv2d", [16, 28, 28])
    assert first["macs"] == 16 * 28 * 28 * 9  # one input channel


@pytest.mark.parametrize("columns", [80, 100])
def test_table_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    table = run(capsys, "bcdnet_b")
    assert "…" not in table
    assert "4.82 G" in table
    assert "17.9 MB" in table


def test_table_of_layers_has_whole_names(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "bcdnet_a_small", "--width", "0.25", "--layers").splitlines()
    assert any(line.startswith(" stages.4.12.convs.short ") for line in lines)
    assert max(len(line) for line in takewhile(lambda line: not line.startswith("OPs "), lines)) <= 100


def test_model_files_say_their_own_input_size(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = build(configure("reactnet_r18_small", width=0.125, num_classes=3, in_chans=1))
    preprocess = {"input_size": [1, 28, 28], "mean": [0.5], "std": [0.5], "interpolation": "bilinear", "crop_pct": 1.0}
    path = save_model(tmp_path / "model.safetensors", model, labels=list("abc"), preprocess=preprocess, provenance={})
    for name in (path, tmp_path):  # the file, or the run folder that holds it
        document = json.loads(run(capsys, str(name), "--json"))
        assert document["input_size"] == [1, 28, 28]
        assert document["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert "leave width to named models" in run(capsys, str(path), "--width", "2", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bcdnet_b", "--width", "nan"], "width: expected a number, got float nan"),
        (["bcdnet_c"], "no model is called bcdnet_c, and there is no such file; did you mean bcdnet_"),
        (["no/such.safetensors"], "no/such.safetensors: no such model file"),
        (
            ["binary_mixer_small", "--width", "0.1", "--input-size", "3", "64", "64"],
            "does not run on an input of 3x64x64",
        ),
        (["resnet18", "--width", "2"], "resnet18 does not take width"),
        (["bcdnet_a", "--width", "-1"], "width multiplies channels"),
        (["bcdnet_a_small", "--input-size", "3", "0", "8"], "input_size is channels, height and width"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    error = run(capsys, *words, code=2)
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, ""),
        (7, "7"),
        (999, "999"),
        (1000, "1.00 k"),
        (9994, "9.99 k"),
        (9996, "10.0 k"),
        (99_960, "100 k"),
        (999_499, "999 k"),
        (999_600, "1.00 M"),
        (4_816_896_000, "4.82 G"),
    ],
)
def test_numbers_have_three_digits(number: int, text: str) -> None:
    assert short(number) == text


def test_units_follow_the_prefix() -> None:
    assert [short(number, "B") for number in (0, 12, 3712, 17_860_000)] == ["", "12 B", "3.71 kB", "17.9 MB"]
