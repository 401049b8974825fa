"""`bcdnet push` and `hf-hub:` names, against a stand-in for the hub on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import yaml
from safetensors.torch import load

from bcdnet.cli import push
from bcdnet.cli.model import find_model
from bcdnet.errors import BcdnetError
from bcdnet.hub import check_repository, download, upload
from bcdnet.models import build, configure, load_model, save_model
from bcdnet.nn import set_weight_bits
from bcdnet.pretrained import locate
from bcdnet.runtime import InferenceSession

pytest.importorskip("bcdnet.runtime._core", reason="the native core is not built")
sys.path.insert(0, str(Path(__file__).parent))

from hub import TOKEN, Hub, running_hub

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
Command = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = "from bcdnet.cli.main import main; main()"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


@pytest.fixture
def bcdnet(hub: Hub, tmp_path: Path) -> Command:
    """The command in a process of its own: the hub's client reads its environment once."""

    def call(
        *words: object,
        token: str = TOKEN,
        endpoint: str = hub.url,
        code: str = COMMAND,
    ) -> subprocess.CompletedProcess[str]:
        own = {"HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        arguments = [sys.executable, "-W", "ignore", "-c", code, *map(str, words)]
        return subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, **own}, timeout=120)

    return call


def saved(folder: Path, bits: int) -> Path:
    torch.manual_seed(0)
    model = build(configure("bcdnet_b_r18_small", width=1 / 16, num_classes=10, in_chans=1))
    set_weight_bits(model, bits)
    preprocess = {"input_size": [1, 16, 16], "mean": [0.3], "std": [0.35], "interpolation": "bilinear", "crop_pct": 1.0}
    provenance = {
        "model": "bcdnet_b_r18_small",
        "results": {"top1": 12.5, "top5": 50.0, "images": 360, "split": "validation"},
        "data": "digits",
    }
    labels = [str(k) for k in range(10)]
    return save_model(folder / "m.safetensors", model, labels=labels, preprocess=preprocess, provenance=provenance)


@pytest.mark.slow
def test_there_and_back(hub: Hub, bcdnet: Command, tmp_path: Path) -> None:
    model = saved(tmp_path, bits=1)
    done = bcdnet("push", model, "someone/digits-1bit")
    assert done.returncode == 0, done.stderr
    assert "it is called hf-hub:someone/digits-1bit" in done.stdout
    files = hub.repositories["someone/digits-1bit"]
    assert set(files) == {"model.safetensors", "model.bcdn", "config.json", "README.md"}
    assert "stem.0.weight" in load(files["model.safetensors"])
    config = json.loads(files["config.json"])
    assert config["architecture"] == "bcdnet_b_r18_small" and config["config"]["num_classes"] == 10
    card = files["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "bcdnet" and "Top-1 12.50 %" in card

    name = "hf-hub:someone/digits-1bit"
    figures = {}
    for which in (name, model):
        done = bcdnet("eval", which, "--data", "digits", "--json")
        assert done.returncode == 0, done.stderr
        figures[which] = json.loads(done.stdout)
        figures[which].pop("images_per_second")
    assert figures[name] == figures[model]
    for packed in (name, tmp_path / "local.bcdn"):
        if packed != name:
            assert bcdnet("export", model, "-o", packed).returncode == 0
        done = bcdnet("verify", name, packed, "--data", "digits", "--limit", 40)
        assert done.returncode == 0 and "the packed file and PyTorch agree" in done.stdout, done.stderr
    done = bcdnet("summary", f"{name}@main", "--json")
    assert json.loads(done.stdout)["input_size"] == [1, 16, 16], done.stderr
    done = bcdnet("export", name, "-o", tmp_path / "again.bcdn")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.bcdn").read_bytes() == files["model.bcdn"]
    words = (
        "model.width=0.0625",
        "model.layers=[4,4,4,4]",
        f"model.checkpoint={name}",
        "iterations=1",
        f"run_dir={tmp_path / 'run'}",
    )
    done = bcdnet("train", RECIPES / "digits.yaml", *words)
    assert done.returncode == 0, done.stderr
    assert load_model(tmp_path / "run").provenance["began_with"]["results"]["top1"] == 12.5


@pytest.mark.slow
def test_timm_finds_what_was_pushed(hub: Hub, bcdnet: Command, tmp_path: Path) -> None:
    model = saved(tmp_path, bits=1)
    assert bcdnet("push", model, "someone/for-timm").returncode == 0
    code = f"""
import bcdnet, timm, torch
from bcdnet.models import load_model
images = torch.randn(2, 1, 16, 16)
network = timm.create_model("hf-hub:someone/for-timm", pretrained=True).eval()
assert torch.equal(network(images), load_model({str(model)!r}).model(images))
assert network.pretrained_cfg["mean"] == [0.3] and network.pretrained_cfg["num_classes"] == 10
other = timm.create_model("hf-hub:someone/for-timm", pretrained=True, num_classes=3).eval()
assert other(images).shape == (2, 3)
assert torch.equal(other.forward_features(images), network.forward_features(images))
"""
    done = bcdnet(code=code)
    assert done.returncode == 0, done.stderr
    assert bcdnet("push", saved(tmp_path / "step1", bits=32), "someone/step1-for-timm").returncode == 0
    # timm would make its real-valued weights binary.
    assert "architecture" not in json.loads(hub.repositories["someone/step1-for-timm"]["config.json"])


@pytest.mark.slow
def test_a_shipped_model_goes_with_its_card(hub: Hub, bcdnet: Command) -> None:
    shipped = "bcdnet_b_r18_fashion_mnist"
    done = bcdnet("push", shipped, "someone/fashion", "--private")
    assert done.returncode == 0, done.stderr
    files = hub.repositories["someone/fashion"]
    assert set(files) == {"model.bcdn", "config.json", "README.md"} and "someone/fashion" in hub.private
    assert json.loads(files["config.json"])["label_names"][9] == "Ankle boot"
    assert files["README.md"].decode().count(shipped) > 2 and hub.messages[-1] == f"Push {shipped} with bcdnet"
    assert bcdnet("push", shipped, "someone/fashion", "--private").returncode == 0
    hub.repositories["someone/open"] = {**files}
    done = bcdnet("push", shipped, "someone/open", "--private")
    assert done.returncode == 2 and "it is there and public" in done.stderr and done.stderr.count("\n") == 1
    done = bcdnet("summary", "hf-hub:someone/open", "--json")  # packed alone, and a network all the same
    assert json.loads(done.stdout)["input_size"] == [1, 28, 28], done.stderr


@pytest.mark.slow
def test_real_valued_weights_are_not_packed(hub: Hub, bcdnet: Command, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# mine\n")
    done = bcdnet("push", saved(tmp_path, bits=32), "someone/step1", "--card", tmp_path / "card.md")
    assert done.returncode == 0, done.stderr
    files = hub.repositories["someone/step1"]
    assert set(files) == {"model.safetensors", "config.json", "README.md"} and files["README.md"] == b"# mine\n"


@pytest.mark.slow
def test_a_repository_holds_one_network(hub: Hub, bcdnet: Command, tmp_path: Path) -> None:
    for model, files in (
        (saved(tmp_path / "one", bits=1), {"model.safetensors", "model.bcdn"}),
        ("bcdnet_b_r18_fashion_mnist", {"model.bcdn"}),
        (saved(tmp_path / "many", bits=32), {"model.safetensors"}),
    ):
        done = bcdnet("push", model, "someone/again")
        assert done.returncode == 0, done.stderr
        assert set(hub.repositories["someone/again"]) == {*files, "config.json", "README.md"}


@pytest.mark.slow
def test_what_is_cached_needs_no_hub(hub: Hub, bcdnet: Command, tmp_path: Path) -> None:
    """A command asks for the packed file first or last; of this repository only the other one was ever there."""
    assert bcdnet("push", saved(tmp_path, bits=32), "someone/kept").returncode == 0
    name = "hf-hub:someone/kept"
    for endpoint in (hub.url, "http://127.0.0.1:9"):
        done = bcdnet("eval", name, "--data", "digits", "--json", endpoint=endpoint)
        assert done.returncode == 0, done.stderr
    done = bcdnet("bench", name, endpoint="http://127.0.0.1:9")
    assert "weight_bits is 32" in done.stderr, done.stderr


@pytest.mark.slow
def test_a_packed_file_goes_with_the_card_it_is_given(hub: Hub, bcdnet: Command, tmp_path: Path) -> None:
    packed, card = tmp_path / "d.bcdn", tmp_path / "mine.md"
    assert bcdnet("export", saved(tmp_path, bits=1), "-o", packed).returncode == 0
    card.write_text("# mine\n")
    assert "give one with --card" in bcdnet("push", packed, "someone/packed").stderr
    done = bcdnet("push", packed, "someone/packed", "--card", card)
    assert done.returncode == 0 and hub.repositories["someone/packed"]["README.md"] == b"# mine\n", done.stderr


@pytest.mark.slow
def test_mistakes_are_one_line(bcdnet: Command, tmp_path: Path) -> None:
    model = saved(tmp_path, bits=1)
    for words, options, message in (
        (("push", model, "alone"), {}, "'alone' is no repository; it is called ORG/REPO"),
        (("push", "hf-hub:a/b", "c/d"), {}, "hf-hub:a/b: is on the hub; give a run folder"),
        (("push", tmp_path / "none", "a/b"), {}, "no trained model is called"),
        (("push", "", "a/b"), {}, "no trained model is called ''"),
        (("push", "bcdnet_b_r18_fashion", "a/b"), {}, "did you mean bcdnet_b_r18_fashion_mnist?"),
        (("eval", "", "--data", "digits"), {}, "no trained model is called ''"),
        (("push", model, "a/b", "--card", tmp_path / "none.md"), {}, "no such file"),
        (("push", model, "a/b"), {"token": "another"}, "log in with `hf auth login`"),
        (("push", model, "a/b"), {"endpoint": "http://127.0.0.1:9"}, "cannot push to a/b"),
        (("eval", "hf-hub:a/none", "--data", "digits"), {}, "hf-hub:a/none: the hub has no such repository"),
        (("summary", "hf-hub:a/none"), {"endpoint": "http://127.0.0.1:9"}, "nothing came from the hub"),
        (("push", model, "others/a"), {}, "cannot push to others/a: You have no rights under the namespace others"),
        (("summary", "hf-hub:any/down"), {}, "500"),
        (("summary", "hf-hub:any/expired"), {}, "log in with `hf auth login`"),
    ):
        done = bcdnet(*words, **options)
        assert done.returncode == 2 and message in done.stderr, (words, done.stderr)
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a/b/c",
        "/b",
        "a/",
        "a/..",
        "a/b c",
        "a/ü",
        "a/b--c",
        "a/b..c",
        "a/-b",
        "a/b.",
        "a/b.git",
        "a/_",
        "a/" + "b" * 97,
    ],
)
def test_repositories_are_org_and_name(name: str) -> None:
    with pytest.raises(BcdnetError, match="ORG/REPO"):
        check_repository(name)
    with pytest.raises(BcdnetError, match="ORG/REPO"):
        download(f"hf-hub:{name}", ["x"])


@pytest.mark.parametrize("name", ["a/b", "A-1/b_2.c-3", "a/_b", "a/" + "b" * 96])
def test_names_that_the_hub_takes(name: str) -> None:
    check_repository(name)
    pytest.importorskip("huggingface_hub.utils").validate_repo_id(name)


def test_an_unfinished_run_is_not_pushed(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(BcdnetError, match=r"left no model\.safetensors yet; bcdnet train --resume finishes it"):
        push.trained_files(str(tmp_path), "a/b", tmp_path)


def test_an_empty_name_is_not_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, bits=1).rename(tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert find_model(".").input_size == (1, 16, 16)
    with pytest.raises(BcdnetError, match="an empty name means no model"):
        find_model("")
    with pytest.raises(BcdnetError, match="no trained model is called ''"):
        push.trained_files("", "a/b", tmp_path)


def test_a_repository_is_checked_before_the_model(tmp_path: Path) -> None:
    with pytest.raises(BcdnetError, match="hf-hub:a/b: a repository is called ORG/REPO; leave hf-hub: out"):
        push.run(str(tmp_path / "none"), "hf-hub:a/b")


def test_an_unreachable_hub_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = pytest.importorskip("huggingface_hub.errors")
    asked = []

    def fetch(_repository: str, file: str, *, local_files_only: bool, **_: object) -> str:
        asked.append((file, local_files_only))
        error = errors.LocalEntryNotFoundError("please check your connection")
        raise error from (None if local_files_only else RuntimeError("500 Server Error"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    with pytest.raises(BcdnetError, match="nothing came from the hub, and nothing is cached: 500 Server Error"):
        download("hf-hub:a/b", ["x", "y"])
    assert asked == [("x", False), ("y", True)]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "hf-hub:a/b@v1: its terms are to be accepted on its page first; then log in with"),
        ("RepositoryNotFoundError", "hf-hub:a/b@v1: the hub has no such repository, or not for everyone; log in with"),
        ("RevisionNotFoundError", "hf-hub:a/b@v1: a/b has no revision 'v1'"),
    ],
)
def test_what_the_hub_refuses_has_its_own_remedy(kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = getattr(pytest.importorskip("huggingface_hub.errors"), kind)
    # Without the answer of a server, which clients of different ages take in different forms.
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Mock(side_effect=error.__new__(error)))
    with pytest.raises(BcdnetError, match=message):
        download("hf-hub:a/b@v1", ["x", "y"])


@pytest.mark.parametrize(("name", "revision"), [("hf-hub:a/b", None), ("hf-hub:a/b@v1", "v1"), ("hf-hub:a/b@", None)])
def test_the_first_file_that_there_is_in_the_revision_that_was_named(
    name: str, revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = pytest.importorskip("huggingface_hub.errors")

    def fetch(repository: str, file: str, *, revision: str | None, local_files_only: bool) -> str:
        if file == "x":
            raise errors.EntryNotFoundError("no x")
        return f"{repository} {file} {revision} {local_files_only}"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert str(download(name, ["x", "y", "z"])) == f"a/b y {revision} False"
    with pytest.raises(BcdnetError, match=f"{name}: holds none of x, x"):
        download(name, ["x", "x"])


def test_a_session_finds_a_packed_file_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    shipped = locate("bcdnet_b_r18_fashion_mnist")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *asked, **_: {("a/b", "model.bcdn"): shipped}[asked])
    assert InferenceSession("hf-hub:a/b").labels == InferenceSession(shipped).labels


@pytest.mark.parametrize("private", [False, True])
def test_a_push_replaces_the_models_that_were_there(
    private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    done: list[object] = []

    class Api:
        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> str:
            done.append((name, private, exist_ok))
            return f"https://hub/{name}"

        def repo_info(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(private=name != "a/public")

        def file_exists(self, name: str, file: str) -> bool:
            return file == "model.safetensors"

        def create_commit(self, name: str, operations: list[object], *, commit_message: str) -> None:
            done.append((name, [(type(one).__name__[15:], one.path_in_repo) for one in operations], commit_message))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    (tmp_path / "m").write_bytes(b"m")
    assert upload("a/b", {"model.bcdn": tmp_path / "m", "README.md": b"#"}, "Push", private) == "https://hub/a/b"
    changes = [("Add", "model.bcdn"), ("Add", "README.md"), ("Delete", "model.safetensors")]
    assert done == [("a/b", private, True), ("a/b", changes, "Push")]
    done.clear()
    if private:  # the client makes nothing private that is there
        with pytest.raises(BcdnetError, match="cannot push to a/public: it is there and public"):
            upload("a/public", {"model.bcdn": tmp_path / "m"}, "Push", private)
        assert done == [("a/public", True, True)]


@pytest.mark.parametrize("results", [None, {"top1": 1}, {"top1": "a", "top5": "b", "images": 1}, [1]])
def test_a_card_of_any_file_s_results(results: object, tmp_path: Path) -> None:
    found = find_model(str(saved(tmp_path, bits=1)))
    odd = replace(found, labels=[], provenance={"results": results})
    text = push.generated_card(odd, "a/b", None)
    assert "10 classes" in text and "Top-1" not in text and "Classes:" not in text
    text = push.generated_card(found, "a/b", None)
    assert "Top-1 12.50 %, top-5 50.00 % of 360 images of digits (validation), evaluated" in text
    assert "Classes: 0, 1" in text and "kB" not in text


def test_a_model_without_labels_has_its_classes(tmp_path: Path) -> None:
    loaded = load_model(saved(tmp_path, bits=1))
    details = {"labels": [], "preprocess": loaded.preprocess, "provenance": {}}
    plain = save_model(tmp_path / "plain.safetensors", loaded.model, **details)
    files = push.trained_files(str(plain), "a/b", tmp_path)
    config = files["config.json"]
    assert isinstance(config, bytes) and json.loads(config)["num_classes"] == 10
    card = tmp_path / "card.md"
    card.write_text("# mine\n")
    config = push.packed_files(str(files["model.bcdn"]), "a/b", card)["config.json"]
    assert isinstance(config, bytes) and json.loads(config)["num_classes"] == 10


def test_cards_say_what_is_in_the_repository(tmp_path: Path) -> None:
    files = push.trained_files(str(saved(tmp_path, bits=1)), "a/b", tmp_path)
    packed = files["model.bcdn"]
    assert isinstance(packed, Path) and isinstance(files["README.md"], bytes)
    assert f"; model.bcdn has {packed.stat().st_size / 1e3:,.0f} kB." in files["README.md"].decode()
    mine = packed.rename(tmp_path / "mine.bcdn")
    mine.with_suffix(".md").write_text('InferenceSession("mine.bcdn"), `bcdnet eval mine.bcdn`')
    card = push.packed_files(str(mine), "a/b", None)["README.md"]
    assert card == b'InferenceSession("hf-hub:a/b"), `bcdnet eval hf-hub:a/b`'
