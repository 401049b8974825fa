"""Round trips, and every way in which a file can be wrong."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wide import HALVES, wide

from bcdnet.errors import ProgramError
from bcdnet.program import execute, read_program, to_json, write_program
from bcdnet.program.decode import from_json
from bcdnet.program.validate import validate

shared_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@shared_fixtures
@given(width=st.sampled_from([4, 8, 32, 36, 64]), seed=st.integers(0, 2**32 - 1))
def test_round_trip(width, seed, build_document, tmp_path) -> None:
    document, tensors = build_document(width, seed)
    first = write_program(validate(from_json(document, tensors)), tmp_path / "a.bcdn")
    program = read_program(first)
    assert to_json(program) == document
    assert all(np.array_equal(program.tensors[name], array) for name, array in tensors.items())
    second = write_program(program, tmp_path / "b.bcdn")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bcdn", "b.bcdn"]


def test_kernels_and_matrices_that_float16_holds_take_half_of_the_bytes(tmp_path) -> None:
    file = write_program(wide(HALVES), tmp_path / "half.bcdn")
    program = read_program(file)
    assert program.tensors["weights"].dtype == np.float32 and file.stat().st_size < 2 * len(HALVES) + 2000
    assert np.array_equal(program.tensors["weights"][:, 0].view(np.uint32), HALVES.view(np.uint32))
    assert np.array_equal(execute(program, np.ones((1, 1, 1, 1), np.float32))[0][0], HALVES)
    assert write_program(program, tmp_path / "again.bcdn").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("other", [1 / 3, 65520, 1e30, 2**-25, -(2**-25)])
def test_one_value_that_float16_lacks_keeps_float32(other, tmp_path) -> None:
    weights = np.append(HALVES, np.float32(other))
    file = write_program(wide(weights), tmp_path / "x.bcdn")
    assert np.array_equal(read_program(file).tensors["weights"][:, 0], weights)
    assert file.stat().st_size > 4 * len(weights)


def test_a_label_may_have_1024_characters(tmp_path) -> None:
    program = replace(wide(np.ones(1, np.float32)), labels=("x" * 1024,))
    assert read_program(write_program(program, tmp_path / "x.bcdn")).labels == program.labels
    with pytest.raises(ProgramError, match="1024"):
        write_program(replace(program, labels=("x" * 1025,)), tmp_path / "y.bcdn")


def test_float16_may_stand_wherever_float32_does(document, save, tmp_path) -> None:
    text, tensors = document
    half = {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in tensors.items()}
    program = read_program(save(tmp_path / "x.bcdn", text, half))
    for name, array in half.items():
        assert np.array_equal(program.tensors[name], array) and program.tensors[name].dtype == tensors[name].dtype
    half["head"][0, 0] = np.inf
    with pytest.raises(ProgramError, match="tensor 'head': holds a NaN or an infinity"):
        read_program(save(tmp_path / "x.bcdn", text, half))
    half["head"], half["packed"] = tensors["head"], tensors["packed"].astype(np.float16)
    with pytest.raises(ProgramError, match="op 2 'op2': weight: tensor 'packed' is float32; expected uint32"):
        read_program(save(tmp_path / "x.bcdn", text, half))


def test_executes_every_op(document) -> None:
    program = validate(from_json(*document))
    images = np.random.default_rng(0).normal(size=(3, 3, 5, 6)).astype(np.float32)
    logits, flat = execute(program, images)
    assert logits.shape == (3, 4) and flat.shape == (3, 96)
    # Images are independent of each other, to the last bit.
    alone = [execute(program, image[None])[0][0] for image in images]
    assert np.array_equal(logits, np.stack(alone))


def _set(path: str, value: Any):
    def change(document: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        target: Any = document
        for part in parents:
            target = target[part]
        target[last] = value

    return change


BROKEN = {
    "format_zero": ("format", 0, "format: expected a positive integer"),
    "newer": ("format", 3, "newer"),
    "older": ("format", 1, "op 0 'op0'.epilogue: unknown key 'gain'"),
    "format_bool": ("format", True, "format"),
    "unknown_key": ("ops.0.colour", 1, "op 0 'op0': unknown key 'colour'"),
    "unknown_type": ("ops.1.type", "conv3d", "op 1: unknown op type 'conv3d'"),
    "type_is_list": ("ops.1.type", [], "op 1"),
    "op_is_number": ("ops.1", 3, "op 1"),
    "float_id": ("ops.1.input", 1.0, "op 1 'op1'.input: expected an integer"),
    "bool_id": ("ops.1.input", True, "op 1 'op1'.input: expected an integer"),
    "negative_id": ("ops.1.input", -1, "op 1 'op1'"),
    "id_beyond": ("ops.1.input", 99, "op 1 'op1'"),
    "read_before_write": ("ops.1.input", 3, "op 1 'op1': input: buffer 3 is read before"),
    "written_twice": ("ops.4.output", 3, "op 4 'op4': output: buffer 3 is written twice"),
    "wrong_kind": ("ops.1.input", 2, "op 1 'op1': input: buffer 2 is of kind bits"),
    "same_name": ("ops.1.name", "op0", "op 1 'op0': another op"),
    "control_character": ("ops.1.name", "a\nb", "op 1: name"),
    "surrogate": ("ops.1.name", "\ud800", "op 1: name"),
    "empty_name": ("ops.1.name", "", "op 1: name"),
    "long_name": ("ops.1.name", "x" * 257, "op 1: name"),
    "no_tensor": ("ops.0.weight", "none", "op 0 'op0': weight: there is no tensor 'none'"),
    "wrong_tensor": ("ops.0.weight", "head", "op 0 'op0': weight"),
    "float_as_bits": ("ops.2.branches.0.weight", "stem", "op 2 'op2': weight"),
    "shape_of_bias": ("ops.0.bias", "head", "op 0 'op0': bias: tensor 'head' has shape"),
    "shape_of_mul": ("ops.0.epilogue.mul", "head", "op 0 'op0': epilogue.mul: tensor 'head' has shape"),
    "shape_of_add": ("ops.0.epilogue.add", "head", "op 0 'op0': epilogue.add: tensor 'head' has shape"),
    "shape_of_threshold": ("ops.0.epilogue.bits.0.bias", "head", "op 0 'op0': epilogue.bits[0].bias: tensor 'head'"),
    "shape_of_scale": ("ops.2.branches.1.scale", "head", "op 2 'op2': scale: tensor 'head' has shape"),
    "shape_of_slope": ("ops.2.epilogue.prelu.slope", "head", "op 2 'op2': epilogue.prelu.slope: tensor 'head'"),
    "shape_of_linear": ("ops.12.bias", "vector", "op 12 'op12': bias: tensor 'vector' has shape [8]; expected [4]"),
    "four_branches": (
        "ops.2.branches",
        [{"weight": "packed", "scale": "vector", "shift": "none"}] * 4,
        "branches: expected 1 to 3",
    ),
    "no_branches": ("ops.2.branches", [], "op 2 'op2': branches"),
    "unknown_shift": ("ops.2.branches.1.shift", "far", "op 2 'op2'"),
    "shift_with_stride": ("ops.2.stride", [2, 1], "op 2 'op2'"),
    "static_alpha": ("ops.0.epilogue.bits.0.alpha", 5, "op 0 'op0': epilogue.bits[0].alpha"),
    "no_result": ("ops.3.epilogue.bits", [], "op 3 'op3': epilogue: no result"),
    "own_shortcut": ("ops.2.epilogue.shortcut.buffer", 3, "op 2 'op2': epilogue.shortcut"),
    "pooled_shortcut": ("ops.2.epilogue.shortcut.avg_pool", True, "op 2 'op2': epilogue.shortcut"),
    "zero_stride": ("ops.0.stride", [0, 1], "op 0 'op0': stride"),
    "wide_padding": ("ops.0.padding", [3, 1], "op 0 'op0': padding"),
    "huge_stride": ("ops.0.stride", [2**40, 1], "op 0 'op0': stride"),
    "zero_groups": ("ops.0.groups", 0, "op 0 'op0': groups"),
    "pool_padding": ("ops.6.padding", [2, 0], "op 6 'op6': padding"),
    "wide_kernel": ("ops.6.kernel", [256, 2], "op 6 'op6': kernel: [256, 2] must be 1 to 255"),
    "large_kernel": ("ops.6.kernel", [6, 2], "op 6 'op6': the kernel [6, 2] is larger than its padded input"),
    "many_bits": (
        "ops.3.epilogue.bits",
        [{"buffer": 4, "bias": None, "alpha": None}] * 17,
        "17 results; at most 16",
    ),
    "many_inputs": ("ops.8.inputs", [7] * 65, "op 8 'op8': inputs: expected 2 to 64"),
    "unequal_inputs": ("ops.8.inputs", [7, 8], "op 8 'op8': inputs: maps of different height or width"),
    "not_transposed": ("buffers.10.shape", [1, 6, 16], "op 9 'op9': output: expected 16 pixels of 6 channels"),
    "reshaped": ("buffers.11.shape", [95], "op 10 'op10': output: another number of elements"),
    "one_input": ("ops.8.inputs", [7], "op 8 'op8': inputs"),
    "huge_buffer": ("buffers.1.shape", [65536, 65536, 8], "buffers"),
    "long_buffer": ("buffers.1.shape", [65537, 6, 8], "buffer 1: every dimension must be 1 to 65536"),
    "large_buffer": ("buffers.1.shape", [65536, 1025, 8], "bytes per image; at most 2147483648"),
    "zero_buffer": ("buffers.1.shape", [0, 6, 8], "buffer 1"),
    "big_number": ("buffers.1.shape", [10**400, 6, 8], "buffer 1"),
    "rank": ("buffers.1.shape", [8], "buffer 1"),
    "second_image": ("buffers.1.kind", "image", "inputs[0].buffer"),
    "no_output": ("outputs", [], "outputs"),
    "many_outputs": ("outputs", [{"name": str(i), "buffer": 12} for i in range(17)], "outputs: expected 1 to 16"),
    "negative_output": ("outputs.0.buffer", -3, "outputs[0].buffer: -3 is not a buffer of kind vector"),
    "name_of_input": ("inputs.0.name", "", "inputs[0].name"),
    "name_of_output": ("outputs.0.name", "a\nb", "outputs[0].name"),
    "outputs_of_one_name": ("outputs.1.name", "logits", "outputs: two have the same name"),
    "two_inputs": ("inputs", [{"name": name, "buffer": 0} for name in "xy"], "inputs: expected exactly one, got 2"),
    "map_output": ("outputs.0.buffer", 1, "outputs[0].buffer"),
    "output_twice": ("outputs.1.buffer", 12, "outputs: two have the same buffer"),
    "labels": ("labels", ["a"], "labels"),
    "long_label": ("labels", ["a", "b", "c", "d" * 1025], "labels[3]"),
    "label_control": ("labels", ["a", "b\x1b", "c", "d"], "labels[1]"),
    "mean": ("preprocess.mean", [0.5], "preprocess.mean"),
    "std": ("preprocess.std", [0.5, 0.0, 0.5], "preprocess.std"),
    "std_of_float32": ("preprocess.std", [0.5, 1e-46, 0.5], "preprocess.std: every value must be positive"),
    "huge_mean": ("preprocess.mean", [0.5, 10**400, 0.5], "preprocess.mean[1]: expected a finite number"),
    "bool_mean": ("preprocess.mean", [0.5, True, 0.5], "preprocess.mean[1]: expected a finite number"),
    "wide_crop": ("preprocess.crop_pct", 1.001, "preprocess.crop_pct: must be in [0.1, 1]"),
    "surrogate_within": ("provenance.run", "\ud800", "provenance: holds half of a surrogate pair"),
    "crop": ("preprocess.crop_pct", 0, "preprocess.crop_pct"),
    "size": ("preprocess.input_size", [3, 6, 5], "preprocess.input_size"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_names_what_is_wrong(case, document, save, tmp_path) -> None:
    path, value, message = BROKEN[case]
    _set(path, value)(document[0])
    file = save(tmp_path / "x.bcdn", *document)
    with pytest.raises(ProgramError) as caught:
        read_program(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_without_gains_has_format_1(document, tmp_path) -> None:
    """What bcdnet read before there were any, it reads and writes as then."""
    program = from_json(*document)
    assert to_json(program) == document[0]
    document[0]["format"] = 1
    for op in document[0]["ops"]:
        if "epilogue" in op:
            del op["epilogue"]["gain"]
    first = from_json(*document)
    assert [op.epilogue.gain for op in first.ops if hasattr(op, "epilogue")] == [None] * 4
    assert to_json(read_program(write_program(first, tmp_path / "x.bcdn"))) == document[0]
    with pytest.raises(ProgramError, match="missing key 'gain'"):
        from_json(document[0] | {"format": 2}, document[1])


@pytest.mark.parametrize("key", ["format", "buffers", "ops", "inputs", "outputs", "labels", "preprocess", "provenance"])
def test_no_key_is_optional(key, document, save, tmp_path) -> None:
    del document[0][key]
    with pytest.raises(ProgramError, match=key):
        read_program(save(tmp_path / "x.bcdn", *document))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": NaN}', '{"format": 1, "format": 1}', "[" * 100_000, "1" * 5000]
)
def test_json_that_is_none(text, document, save, tmp_path) -> None:
    with pytest.raises(ProgramError):
        read_program(save(tmp_path / "x.bcdn", text, document[1]))


def test_infinity_by_exponent(document, save, tmp_path) -> None:
    text = json.dumps(document[0]).replace('"crop_pct": 0.9', '"crop_pct": 1e999')
    with pytest.raises(ProgramError, match="finite"):
        read_program(save(tmp_path / "x.bcdn", text, document[1]))


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"x": inner}])
def test_provenance_is_eight_levels_deep(wrap, document, save, tmp_path) -> None:
    deep: Any = 0
    for _ in range(7):
        deep = wrap(deep)
    document[0]["provenance"] = {"x": deep}
    read_program(save(tmp_path / "x.bcdn", *document))
    document[0]["provenance"] = {"x": wrap(deep)}
    with pytest.raises(ProgramError, match="provenance: deeper than 8 levels"):
        read_program(save(tmp_path / "x.bcdn", *document))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_tensors_must_be_finite(bad, document, save, tmp_path) -> None:
    document[1]["vector"][3] = bad
    with pytest.raises(ProgramError, match="vector"):
        read_program(save(tmp_path / "x.bcdn", *document))


@pytest.mark.parametrize("output", [0, 7])
def test_padding_bits(output, document, save, tmp_path) -> None:
    document[1]["packed"][output, 0, 0, 0] |= np.uint32(1 << 8)
    with pytest.raises(ProgramError, match="padding bits"):
        read_program(save(tmp_path / "x.bcdn", *document))


def test_unused_and_foreign_tensors(document, save, tmp_path) -> None:
    with pytest.raises(ProgramError, match="spare"):
        read_program(save(tmp_path / "x.bcdn", document[0], document[1] | {"spare": np.zeros(1, np.float32)}))
    with pytest.raises(ProgramError, match="F64"):
        read_program(save(tmp_path / "x.bcdn", document[0], document[1] | {"head": np.zeros((4, 8))}))


def test_a_buffer_that_nothing_writes(document) -> None:
    document[0]["buffers"].append({"kind": "vector", "shape": [1]})
    with pytest.raises(ProgramError, match="buffer 15: no op writes it"):
        validate(from_json(*document))


@pytest.mark.parametrize("place", ["ops.3.epilogue.gain", "ops.3.epilogue.beta", "ops.3.epilogue.bits.0.alpha"])
def test_vectors_of_another_size(place, document) -> None:
    document[0]["buffers"].append({"kind": "vector", "shape": [240]})
    document[0]["ops"].insert(2, {"type": "reshape", "name": "flat", "input": 1, "output": 15})
    _set(place.replace("3", "4"), 15)(document[0])
    with pytest.raises(ProgramError, match="buffer 15 has not 8 elements"):
        validate(from_json(*document))


@pytest.mark.parametrize(("place", "kernel"), [("ops.6", 3), ("ops.7", 5)])
def test_a_pool_pads_by_half_its_kernel_at_most(place, kernel, document) -> None:
    """A window of padding alone would have no maximum."""
    _set(f"{place}.kernel", [kernel, 2])(document[0])
    _set(f"{place}.padding", [kernel // 2 + 1, 0])(document[0])
    with pytest.raises(ProgramError, match=rf"padding: \[{kernel // 2 + 1}, 0\] is out of range for a kernel"):
        validate(from_json(*document))


def test_groups_divide_the_outputs_too(document) -> None:
    document[0]["ops"][0]["groups"] = 3
    stem = {"stem": document[1]["stem"][..., :1]}
    with pytest.raises(ProgramError, match="groups: 3 does not divide 8 output channels"):
        validate(from_json(document[0], document[1] | stem))


def test_shifts_need_quarters(build_document) -> None:
    with pytest.raises(ProgramError, match="channels divisible by 4"):
        validate(from_json(*build_document(6)))


def test_missing_and_truncated(document, save, tmp_path) -> None:
    with pytest.raises(ProgramError, match="no such file"):
        read_program(tmp_path / "none.bcdn")
    whole = save(tmp_path / "x.bcdn", *document).read_bytes()
    for length in (0, 7, 8, 100, len(whole) - 1):
        (tmp_path / "x.bcdn").write_bytes(whole[:length])
        with pytest.raises(ProgramError, match=r"x\.bcdn"):
            read_program(tmp_path / "x.bcdn")
    (tmp_path / "x.bcdn").write_bytes(whole + b"\0")
    with pytest.raises(ProgramError):
        read_program(tmp_path / "x.bcdn")


def test_a_file_that_may_not_be_read_is_not_called_missing(document, save, tmp_path, monkeypatch) -> None:
    def refuse(path, *_args, **_options):
        raise PermissionError(13, "Permission denied", str(path))

    save(tmp_path / "x.bcdn", *document)
    monkeypatch.setattr("pathlib.Path.open", refuse)  # which those who run the tests as root may
    with pytest.raises(ProgramError, match=r"x\.bcdn: cannot be read \(Permission denied\)$"):
        read_program(tmp_path / "x.bcdn")


def test_a_failed_write_leaves_the_old_file(document, tmp_path) -> None:
    program = from_json(*document)
    path = write_program(program, tmp_path / "x.bcdn")
    before = path.read_bytes()
    broken = copy.deepcopy(document)
    broken[0]["labels"] = ["a"]
    with pytest.raises(ProgramError):
        write_program(from_json(*broken), path)
    assert path.read_bytes() == before
    with pytest.raises(ProgramError, match="cannot be written"):
        write_program(program, path / "x.bcdn")  # in what is no folder


def test_messages_hold_no_control_characters(tmp_path) -> None:
    """A tensor's name that would clear the terminal, in a header whose offsets are wrong."""
    header = json.dumps({"\x1b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode()
    (tmp_path / "x.bcdn").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ProgramError, match=r"\\(x1b|u\{1b\})\[2J") as caught:
        read_program(tmp_path / "x.bcdn")
    assert str(caught.value).isprintable()


def test_others_may_read_the_file(document, tmp_path) -> None:
    """As far as the umask allows it, like any file that a program writes."""
    (tmp_path / "plain").touch()
    written = write_program(from_json(*document), tmp_path / "x.bcdn")
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70000), st.sampled_from([2**31, 2**63, 10**30]), st.floats(),
    st.text(max_size=4), st.lists(st.integers(-1, 9), max_size=3),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)  # fmt: skip


@shared_fixtures
@given(data=st.data())
def test_mutated_documents(data, build_document, save, tmp_path) -> None:
    """Whatever stands in place of any part of the JSON: a ProgramError, or a program that is valid and runs."""
    document, tensors = build_document()
    for _ in range(data.draw(st.integers(1, 3))):
        target: Any = document
        while isinstance(target, (dict, list)) and target:
            keys = list(target) if isinstance(target, dict) else range(len(target))
            key = data.draw(st.sampled_from(list(keys)))
            if not isinstance(target[key], (dict, list)) or not target[key] or data.draw(st.integers(0, 5)) == 0:
                target[key] = data.draw(VALUES)
                break
            target = target[key]
    file = save(tmp_path / "x.bcdn", document, tensors)
    try:
        program = read_program(file)
    except ProgramError:
        return
    execute(program, np.zeros((1, *program.buffers[program.inputs[0].buffer].shape), np.float32))


@shared_fixtures
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_mutated_bytes(changes, document, save, tmp_path) -> None:
    file = save(tmp_path / "x.bcdn", *document)
    content = bytearray(file.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    file.write_bytes(content)
    try:
        read_program(file)
    except ProgramError as error:
        assert str(file) in str(error)  # noqa: PT017 (the other outcome, a valid program, is as good)
