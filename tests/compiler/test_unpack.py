"""Packed programs back as networks: what they pack to again, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from bcdnet.compiler import compile_module, export, load_trained, unpack
from bcdnet.compiler.unpack import latent_weight
from bcdnet.errors import CheckpointError
from bcdnet.models import VARIANTS, describe, load_model, save_model
from bcdnet.nn import BinaryMLPBlock, binarize_weight, lacks_statistics
from bcdnet.pretrained import list_pretrained, locate
from bcdnet.program import execute, read_program
from bcdnet.program.schema import BinaryConv2d, Elementwise, Program

PREPROCESS: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": "bilinear", "crop_pct": 1.0}
LABELS = list("abcdefg")


def pack(module: torch.nn.Module) -> Program:
    return compile_module(
        module, input_size=(3, 32, 32), labels=LABELS, preprocess=PREPROCESS, provenance={"data": "letters"}
    )


def check_equal(ours: Program, theirs: Program) -> None:
    """To the last bit."""
    assert (ours.buffers, ours.ops, ours.outputs) == (theirs.buffers, theirs.ops, theirs.outputs)
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in ours.tensors.items():
        np.testing.assert_array_equal(tensor.view(np.uint32), theirs.tensors[name].view(np.uint32), err_msg=name)


def made(prepared: Any, name: str = "bcdnet_b_r18_small", **settings: Any) -> Any:
    """A small network without any number at its initial value."""
    if name.startswith("binary_mixer"):
        settings |= {"img_size": 32, "patch_size": 8, "depth": 2}
    model = prepared(timm.create_model(name, num_classes=7, width=0.125, **settings), 3, 32, 32)
    for embedding in (part for part in model.modules() if hasattr(part, "to_alpha")):
        for head in filter(None, (embedding.to_alpha, embedding.to_beta, embedding.to_gain)):
            torch.nn.init.normal_(head.weight, std=0.1)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_a_program_unpacks_to_a_network_that_packs_to_it(name: str, prepared: Any) -> None:
    model = made(prepared, name)
    program = pack(model)
    loaded = unpack(program)
    assert lacks_statistics(loaded.model) and not loaded.model.training
    assert (loaded.model.config, loaded.labels) == (model.config, LABELS)
    assert loaded.provenance == {"data": "letters"}
    again = compile_module(
        loaded.model, input_size=(3, 32, 32), labels=LABELS, preprocess=loaded.preprocess, provenance=loaded.provenance
    )
    check_equal(again, program)
    assert (again.preprocess, again.provenance) == (program.preprocess, program.provenance)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bcdnet_b_r18_small", {"embedding": "alpha", "mlp_branches": ("long", "none", "none")}),
        ("bcdnet_b_small", {"embedding": "beta", "mlp_branches": ("short",)}),
        ("reactnet_r18_small", {"embedding": "full"}),
        ("reactnet_a_small", {"distilled": True}),
        ("bcdnet_a_r18_small", {"distilled": False}),
    ],
)
def test_so_do_variations(name: str, settings: dict[str, Any], prepared: Any) -> None:
    program = pack(made(prepared, name, **settings))
    check_equal(pack(unpack(program).model), program)


def test_the_network_computes_what_the_program_does(prepared: Any) -> None:
    model = made(prepared)
    rebuilt = unpack(pack(model)).model
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        logits = rebuilt(images)
    torch.testing.assert_close(logits, model(images), rtol=0, atol=1e-4)
    np.testing.assert_allclose(execute(pack(model), images.numpy())[0], logits.numpy(), rtol=0, atol=1e-4)
    branches = [part.convs["short"].latent_weight for part in rebuilt.modules() if isinstance(part, BinaryMLPBlock)]
    originals = [part.convs["short"].latent_weight for part in model.modules() if isinstance(part, BinaryMLPBlock)]
    assert branches and all(torch.equal(a >= 0, b >= 0) for a, b in zip(branches, originals, strict=True))


@given(st.integers(1, 5000), st.integers(-20, 3), st.integers(0, 2**32 - 1))
def test_latent_weights_have_the_scale_for_their_mean(size: int, exponent: int, seed: int) -> None:
    """Any scale that is a mean of float32 weights, in any order of summation."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(4, size, generator=generator) * 2.0**exponent
    bits, scale = binarize_weight(latent)
    found = latent_weight(bits.numpy(), scale.view(-1).numpy())
    assert found.dtype == np.float32
    order = np.arange(size)
    for shuffled in (order, order[::-1].copy(), np.random.default_rng(seed).permutation(size)):
        again, mean = binarize_weight(torch.from_numpy(found.take(shuffled, axis=1)))
        assert torch.equal(mean, scale)
        assert torch.equal(again, bits[:, torch.from_numpy(shuffled)])
    assert np.ptp(np.abs(found), axis=1).max() <= np.abs(found).max() * 1e-3


def test_an_output_without_weights_stays_so() -> None:
    latent = latent_weight(np.ones((2, 3, 3, 3), np.float32), np.array([0, 0.5], np.float32))
    assert not latent[0].any() and (latent[1] > 0).all()
    assert torch.equal(binarize_weight(torch.from_numpy(latent))[0], torch.ones(2, 3, 3, 3))


@pytest.mark.parametrize("name", list_pretrained())
def test_shipped_models_unpack(name: str) -> None:
    loaded = load_trained(name)
    program = read_program(locate(name))
    again = compile_module(loaded.model, input_size=loaded.preprocess["input_size"])
    check_equal(again, program)
    assert loaded.labels == list(program.labels)
    assert loaded.provenance["model"] and "network" not in loaded.provenance


def test_files_of_either_kind_and_run_folders_are_found_by_their_names(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(prepared)
    run = tmp_path / "run"
    whole = PREPROCESS | {"input_size": [3, 32, 32]}
    save_model(run / "model.safetensors", model, labels=LABELS, preprocess=whole, provenance={})
    packed = export(model, tmp_path / "any.name", input_size=(3, 32, 32), labels=LABELS, preprocess=PREPROCESS)
    for path, found in ((run, False), (run / "model.safetensors", False), (packed, True), (str(packed), True)):
        assert lacks_statistics(load_trained(path).model) is found
    monkeypatch.chdir(tmp_path)
    run.rename("bcdnet_b_r18_cifar10")
    for name in ("./bcdnet_b_r18_cifar10", "bcdnet_b_r18_cifar10/"):
        assert load_trained(name).labels == LABELS
    assert "airplane" in load_trained("bcdnet_b_r18_cifar10").labels
    with pytest.raises(CheckpointError, match="bcdnet_b_r18_cifar1: no such model file; did you mean bcdnet_b_r18_ci"):
        load_trained("bcdnet_b_r18_cifar1")
    with pytest.raises(CheckpointError, match=r"nothing: no such model file"):
        load_trained(tmp_path / "nothing")
    packed.rename(tmp_path / "any.bcdn")
    with pytest.raises(CheckpointError, match=r"any\.bcdn: packed; bcdnet\.compiler\.load_trained reads it"):
        load_model(tmp_path / "any.bcdn")


def test_an_unpacked_network_that_is_saved_still_lacks_its_statistics(prepared: Any, tmp_path: Path) -> None:
    """Else a training that begins with that file would begin with another network."""
    loaded = unpack(pack(made(prepared)))
    path = save_model(tmp_path / "x", loaded.model, labels=LABELS, preprocess=loaded.preprocess, provenance={})
    assert lacks_statistics(load_model(path).model)


def test_a_program_says_its_own_network_whatever_its_provenance_said(prepared: Any) -> None:
    model = made(prepared)
    program = compile_module(model, input_size=(3, 32, 32), preprocess=PREPROCESS, provenance={"network": "another"})
    assert program.provenance["network"] == describe(model)


def test_what_cannot_be_unpacked_says_why(prepared: Any, tmp_path: Path, packed_file: Path) -> None:
    program = pack(made(prepared))
    network = program.provenance["network"]

    def refusal(**parts: Any) -> str:
        with pytest.raises(CheckpointError) as refused:
            unpack(replace(program, **parts))
        return str(refused.value)

    def described(**config: Any) -> dict[str, Any]:
        return {"network": {"family": "resnet", "config": {**network["config"], **config}}}

    with pytest.raises(CheckpointError, match=r"small\.bcdn: does not say which network it was made of, .*: pack it"):
        load_trained(packed_file)  # a module that is none of our networks
    assert "does not say its preprocessing" in refusal(preprocess=None)
    assert "does not describe a network of ours" in refusal(provenance={"network": {"family": "vit"}})
    assert "does not describe a network of ours" in refusal(provenance={"network": "resnet"})
    assert "unknown key" in refusal(provenance=described(colour="red"))
    assert "layers name the same stages" in refusal(provenance=described(layers=[1]))
    assert "is from stem.0 on not the network" in refusal(provenance=described(embedding="none"))
    assert "not the network" in refusal(provenance=described(widths=[16, 32, 64, 128]))
    assert "is in its sizes not the network" in refusal(provenance=described(num_classes=8))
    assert "parameters, the file at most" in refusal(provenance=described(widths=[2**20] * 4))
    for setting, value in (
        ("layers", [10**9] * 4), ("mlp_blocks", -9), ("mlp_branches", ["none"] * 2000), ("widths", [0] * 4),
        ("widths", [-4] * 4), ("widths", [2**62] * 4), ("num_classes", 10**30), ("in_chans", 10**30), ("reduction", 0),
    ):  # fmt: skip
        message = refusal(provenance=described(**{setting: value}))
        assert "does not describe a network of ours" in message and f"{setting}: from" in message and len(message) < 200
    name = next(op.branches[0].scale for op in program.ops if isinstance(op, BinaryConv2d))
    short = {**program.tensors, name: program.tensors[name][:1]}
    assert "is in its sizes not the network" in refusal(tensors=short)
    for scale in (-0.5, 1e38):
        strange = {**program.tensors, name: np.full_like(program.tensors[name], scale)}
        assert "has a scale that is negative, or beyond" in refusal(tensors=strange)


def test_constants_of_the_network_are_not_the_files_to_change(prepared: Any) -> None:
    """A twin's ReLU has slopes of 0: another number there would be lost without a word."""
    program = pack(made(prepared, "mobilenet_v1_twin_small"))
    slope = next(name for name in program.tensors if name.endswith("slope"))
    tensors = {**program.tensors, slope: program.tensors[slope] + 0.25}
    with pytest.raises(CheckpointError, match=f"its tensor {slope} has other constants"):
        unpack(replace(program, tensors=tensors))
    assert not any(isinstance(op, Elementwise) for op in program.ops)


def test_a_network_beyond_float32s_integers_is_refused(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    program = pack(made(prepared))
    monkeypatch.setattr(import_module("bcdnet.compiler.unpack"), "LAST", 2**11)
    with pytest.raises(CheckpointError, match=r"has [\d,]+ real-valued numbers; 1,024 can be told apart"):
        unpack(program)
