"""Recognising, unwrapping and loading published state dicts; what is refused, and by which name."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcdnet.errors import InteropError
from bcdnet.interop import from_reference
from bcdnet.models import weight_bits_of


def sample(reference: SimpleNamespace, family: str, flat: bool = False) -> dict[str, Tensor]:
    if family == "bcdnet":
        return reference.mobilenet(doubles=(True, True), groups=1, distilled=True, flat=flat)
    return getattr(reference, family)(flat=flat)


def values(tensors: dict[str, Tensor]) -> Tensor:
    """Every value, sorted: two state dicts with the same ones hold the same numbers, each as often."""
    return torch.cat([tensor.float().flatten() for name, tensor in tensors.items() if "tracked" not in name]).sort()[0]


FAMILY = pytest.mark.parametrize("family", ["mobilenet", "bcdnet", "resnet"])


@settings(max_examples=12)
@given(
    stem=st.sampled_from([4, 8]),
    doubles=st.lists(st.booleans(), min_size=1, max_size=4),
    groups=st.integers(0, 2),
    classes=st.integers(1, 12),
    in_chans=st.integers(1, 4),
    distilled=st.booleans(),
    flat=st.booleans(),
    seed=st.integers(0, 99),
)
def test_mobilenets_of_any_width_keep_every_value(
    reference: SimpleNamespace, stem: int, doubles: list[bool], groups: int, classes: int, in_chans: int, **rest: Any
) -> None:
    tensors = reference.mobilenet(stem, doubles, groups, classes, in_chans, **rest)
    model = from_reference(tensors)
    assert torch.equal(values(model.state_dict()), values(tensors))
    widths = [stem * 2 ** sum(doubles[: index + 1]) for index in range(len(doubles))]
    assert [channels for channels, _ in model.config.blocks] == widths
    assert (model.config.num_classes, model.config.in_chans, model.config.mlp_groups) == (classes, in_chans, groups)
    # A block halves the map where it doubles the channels, except the first.
    halvings = [stride == 2 for _, stride in model.config.blocks]
    assert halvings == [False, *doubles[1:]]
    assert model(torch.zeros(1, in_chans, 32, 32)).shape == (1, classes)


@settings(max_examples=8)
@given(
    stages=st.lists(st.tuples(st.sampled_from([4, 6, 8, 16]), st.integers(1, 3)), min_size=1, max_size=4),
    classes=st.integers(1, 12),
    in_chans=st.integers(1, 4),
    flat=st.booleans(),
)
def test_resnets_of_any_width_keep_every_value(
    reference: SimpleNamespace, stages: list[tuple[int, int]], classes: int, in_chans: int, flat: bool
) -> None:
    widths, layers = zip(*stages, strict=True)
    tensors = reference.resnet(widths, layers, classes, in_chans, flat)
    model = from_reference(tensors)
    assert torch.equal(values(model.state_dict()), values(tensors))
    assert (model.config.widths, model.config.layers) == (widths, layers)
    assert model(torch.zeros(1, in_chans, 64, 64)).shape == (1, classes)


def test_twin_convolutions_become_one(reference: SimpleNamespace) -> None:
    tensors = reference.mobilenet(stem=4, doubles=(True,))
    state = from_reference(tensors).state_dict()
    for ours, theirs in (("conv.latent_weight", "binary_pw_down{}.weight"), ("bn.running_mean", "bn2_{}.running_mean")):
        halves = [tensors[f"feature.1.{theirs.format(index)}"] for index in (1, 2)]
        assert torch.equal(state[f"stages.0.1.{ours}"], torch.cat(halves))


@FAMILY
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors},
        lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {
            "epoch": 3,
            "state_dict": {f"module.{name}": t for name, t in tensors.items()},
            "optimizer": {},
        },
        lambda tensors: {"model": {"state_dict": {f"module._orig_mod.{name}": t for name, t in tensors.items()}}},
    ],
    ids=["nested", "parallel", "training", "deep"],
)
def test_wrappings_of_training_scripts(
    reference: SimpleNamespace, family: str, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    tensors = sample(reference, family)
    plain, wrapped = from_reference(tensors).state_dict(), from_reference(wrap(tensors)).state_dict()
    assert all(torch.equal(tensor, wrapped[name]) for name, tensor in plain.items())


@FAMILY
def test_result_is_ready_for_inference(reference: SimpleNamespace, family: str) -> None:
    tensors = sample(reference, family)
    model = from_reference(tensors)
    assert not model.training
    assert weight_bits_of(model) == 1
    assert weight_bits_of(from_reference(tensors, weight_bits=32)) == 32
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())  # nothing is shared


def test_flat_weights_are_binary(reference: SimpleNamespace) -> None:
    tensors = reference.resnet(flat=True)
    assert weight_bits_of(from_reference(tensors, weight_bits=1)) == 1
    with pytest.raises(InteropError, match=r"layer1\.0\.binary_conv\.weights is flat"):
        from_reference(tensors, weight_bits=32)
    with pytest.raises(InteropError, match="1 or 32, not 2"):
        from_reference(tensors, weight_bits=2)


@FAMILY
@settings(max_examples=20)
@given(data=st.data(), flat=st.booleans())
def test_a_missing_tensor_is_named(reference: SimpleNamespace, family: str, data: st.DataObject, flat: bool) -> None:
    tensors = sample(reference, family, flat)
    name = data.draw(st.sampled_from(sorted(tensors)))
    del tensors[name]
    with pytest.raises(InteropError) as error:
        from_reference(tensors)
    # What could be flat or not is missed under the name of today's code.
    assert name.replace(".weights", ".weight") in str(error.value)


@FAMILY
@settings(max_examples=20)
@given(data=st.data(), new=st.sampled_from(["{}_", "extra.{}", "module.{}", "feature.77.{}", "layer1.5.{}"]))
def test_a_renamed_tensor_is_named(reference: SimpleNamespace, family: str, data: st.DataObject, new: str) -> None:
    tensors = sample(reference, family)
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensors[new.format(name)] = tensors.pop(name)
    with pytest.raises(InteropError) as error:
        from_reference(tensors)
    assert new.format(name) in str(error.value)


RESHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "more rows": lambda tensor: torch.cat((tensor, tensor[:1])),
    "fewer rows": lambda tensor: tensor[:-1],
    "another axis": lambda tensor: tensor.unsqueeze(0),
    "no axis": lambda tensor: tensor.flatten()[0],
    "axes reversed": lambda tensor: tensor.permute(*reversed(range(tensor.dim()))),
    "empty": lambda tensor: tensor[:0],
}


@FAMILY
@settings(max_examples=30)
@given(data=st.data(), reshape=st.sampled_from(sorted(RESHAPES)), flat=st.booleans())
def test_a_tensor_of_another_shape_is_named(
    reference: SimpleNamespace, family: str, data: st.DataObject, reshape: str, flat: bool
) -> None:
    tensors = sample(reference, family, flat)
    name = data.draw(st.sampled_from(sorted(name for name, tensor in tensors.items() if tensor.dim())))
    changed = RESHAPES[reshape](tensors[name])
    if changed.shape == tensors[name].shape:
        return
    tensors[name] = changed
    with pytest.raises(InteropError) as error:
        from_reference(tensors)
    # One weight and one bias cannot tell which of them has the right number of classes.
    ambiguous = name in ("fc.weight", "fc.bias") and family != "bcdnet"
    assert name in str(error.value) or (ambiguous and "fc." in str(error.value))


@pytest.mark.parametrize(
    ("family", "name"),
    [("mobilenet", "feature.0.bn1.weight"), ("resnet", "layer1.0.bn1.weight"), ("bcdnet", "fc.weight")],
)
def test_a_size_is_what_most_tensors_say(reference: SimpleNamespace, family: str, name: str) -> None:
    """The one that differs is wrong, although it is looked at first."""
    tensors = sample(reference, family)
    tensors[name] = torch.cat((tensors[name], tensors[name]))
    with pytest.raises(InteropError, match=rf"does not fit; wrong: {name} is \[\d+[^;]*\], not \[\d+[^;]*\]$"):
        from_reference(tensors)


@FAMILY
def test_an_extra_tensor_is_named(reference: SimpleNamespace, family: str) -> None:
    with pytest.raises(InteropError, match=r"extra: neck\.weight"):
        from_reference(sample(reference, family) | {"neck.weight": torch.zeros(2)})


@FAMILY
def test_integers_for_weights_are_named(reference: SimpleNamespace, family: str) -> None:
    tensors = sample(reference, family)
    tensors["fc.weight"] = tensors["fc.weight"].to(torch.int64)
    with pytest.raises(InteropError, match=r"fc\.weight is torch\.int64"):
        from_reference(tensors)


@FAMILY
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight.index_fill(0, torch.tensor(0), torch.nan), "holds a NaN or an infinity"),
        (lambda weight: (weight / 0).half(), "holds a NaN or an infinity"),
        (lambda weight: weight.to_sparse(), "is sparse"),
        (lambda weight: weight.to("meta"), "is without values"),
    ],
    ids=["nan", "infinity", "sparse", "meta"],
)
def test_what_is_no_array_of_numbers_is_named(
    reference: SimpleNamespace, family: str, change: Callable[[Tensor], Tensor], message: str
) -> None:
    tensors = sample(reference, family)
    tensors["fc.weight"] = change(tensors["fc.weight"])
    with pytest.raises(InteropError, match=rf"wrong: fc\.weight {message}$"):
        from_reference(tensors)
    tensors["fc.weight"] = sample(reference, family)["fc.weight"].to(torch.float8_e4m3fn)
    from_reference(tensors)


def test_long_lists_are_cut(reference: SimpleNamespace) -> None:
    tensors = {name: tensor for name, tensor in reference.resnet().items() if "bn1" not in name or "layer" in name}
    tensors = {name: tensor for name, tensor in tensors.items() if ".move" not in name}
    with pytest.raises(InteropError, match=r"missing: bn1\.weight, .* and \d+ more$"):
        from_reference(tensors)


def test_twin_norms_that_saw_different_batches_do_not_merge(reference: SimpleNamespace) -> None:
    tensors = reference.mobilenet()
    tensors["feature.1.bn2_2.num_batches_tracked"] += 1
    with pytest.raises(InteropError, match=r"bn2_1\.num_batches_tracked and feature\.1\.bn2_2\S* differ"):
        from_reference(tensors)


def test_shifts_need_quarters(reference: SimpleNamespace) -> None:
    with pytest.raises(InteropError, match="not a multiple of 4"):
        from_reference(reference.mobilenet(stem=3, doubles=(True,), groups=1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "it is empty"),
        ({"state_dict": {}}, "it is empty"),
        ({"epoch": 3}, "epoch is int"),
        ({"stem.0.weight": torch.zeros(1)}, r"not a state dict of BCDNet-A.*stem\.0\.weight"),
        (
            {"module.a": torch.zeros(1), "module.b": torch.ones(1), "b": torch.zeros(1)},
            "with and without 'module.' .* b$",
        ),
        ({"feature.0.conv1.weight": torch.zeros(8, 3, 3, 3)}, r"missing: feature\.0\.bn1\.weight"),
    ],
)
def test_other_contents_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(InteropError, match=message):
        from_reference(content)


def test_a_checkpoint_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    with pytest.raises(InteropError, match="not a state dict: model is dict"):
        from_reference(endless)
