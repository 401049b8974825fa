"""Every ablation of the MLP block and the embedding packs, and the session computes the oracle's bits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from bcdnet.compiler import compile_module
from bcdnet.models import build, configure
from bcdnet.program import execute, write_program

SETTINGS = {"num_classes": 5, "width": 0.125}


@pytest.mark.parametrize(
    "branches",
    [
        ("none", "none", "none"),
        ("short", "short", "short"),
        ("long", "long", "long"),
        ("long", "none", "long"),
        ("short",),
        ("none", "short", "short", "long", "long"),  # more than one op holds: sums of maps
    ],
    ids="-".join,
)
@pytest.mark.parametrize("name", ["bcdnet_a_r18_small", "bcdnet_b_small"])
def test_any_branches(name, branches, prepared, tmp_path) -> None:
    model = prepared(build(configure(name, mlp_branches=branches, **SETTINGS)), 3, 32, 32)
    program = compile_module(model, input_size=(3, 32, 32))
    shifts = Counter(branch.shift for op in program.ops if op.type == "binary_conv2d" for branch in op.branches)
    mlp = [op for op in program.ops if op.type == "binary_conv2d" and ".convs." in op.name]
    blocks = sum(1 for path, _ in model.named_modules() if path.endswith(".convs"))
    assert len(mlp) == blocks * (1 if len(branches) <= 3 else 3)
    for kind in ("short", "long"):
        assert shifts[kind] == blocks * branches.count(kind)
    images = torch.randn(3, 3, 32, 32)
    (ours,) = execute(program, images.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(ours, model(images).numpy(), rtol=0, atol=1e-4)
    session = pytest.importorskip("bcdnet.runtime.session")
    if len(branches) == 3:
        path = write_program(program, tmp_path / "x.bcdn")
        (packed,) = session.InferenceSession(path, threads=2).run(None, {"image": images.numpy()})
        np.testing.assert_array_equal(packed, ours)


@pytest.mark.parametrize("embedding", ["alpha", "beta", "both", "full"])
@pytest.mark.parametrize("mlp_blocks", [0, 9])
def test_any_embedding_with_and_without_mlp_blocks(embedding, mlp_blocks, prepared, tmp_path) -> None:
    settings = {**SETTINGS, "embedding": embedding, "mlp_blocks": mlp_blocks, "reduction": 16}
    model = prepared(build(configure("bcdnet_b_r18_small", **settings)), 3, 32, 32)
    images = torch.randn(3, 3, 32, 32)
    program = compile_module(model, input_size=(3, 32, 32))
    gains = [op.name for op in program.ops if op.type == "binary_conv2d" and op.epilogue.gain is not None]
    assert len(gains) == (embedding == "full") * sum(hasattr(module, "embedding") for module in model.modules())
    (ours,) = execute(program, images.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(ours, model(images).numpy(), rtol=0, atol=1e-4)
    session = pytest.importorskip("bcdnet.runtime.session")
    path = write_program(program, tmp_path / "x.bcdn")
    (packed,) = session.InferenceSession(path, threads=2).run(None, {"image": images.numpy()})
    np.testing.assert_array_equal(packed, ours)
