"""The C library does what Python does: with the same files, the same pixels, and the same mistakes."""

from __future__ import annotations

import ctypes
import os
import runpy
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clib import Library, LibraryError
from every_op import packed
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated
from PIL import Image, features
from wide import HALVES, wide

import bcdnet
from bcdnet.errors import ProgramError
from bcdnet.pretrained import list_pretrained, locate
from bcdnet.program import read_program
from bcdnet.program.file import write_program
from bcdnet.program.schema import Preprocess, buffer_bytes
from bcdnet.runtime import InferenceSession
from bcdnet.runtime.preprocess import to_input

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # the library is compiled
FILES = sorted((TESTS / "malformed").glob("*.bcdn"))
RNG = np.random.default_rng(0)


def noise(height: int, width: int, channels: int = 3, random: np.random.Generator = RNG) -> Any:
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_malformed_files_are_refused(library: Library, file: Path) -> None:
    if file.stem == "valid":
        assert library.model(file).outputs == [("logits", 2)]
        return
    with pytest.raises(LibraryError) as caught:
        library.model(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and message.isprintable() and len(message) > len(f"{file}: ")


def test_a_size_that_is_not_positive_is_named(library: Library) -> None:
    """It once was a number of elements to expect, near 2^64."""
    make = runpy.run_path(str(TESTS / "malformed" / "make.py"))
    file = make["File"]()
    file.program["buffers"][0]["shape"] = [-1, 4, 4]
    file.program["preprocess"] = make["PREPROCESS"] | {"input_size": [-1, 4, 4], "std": [1.0]}
    with pytest.raises(LibraryError, match=r"the program\.buffers\[0\]\.shape\[0\]: must be positive"):
        library.model(file.content())


def unless(error: type[Exception], function: Callable[[Any], Any], value: Any) -> Any:
    try:
        return function(value)
    except error:
        return None


def test_it_takes_the_files_that_python_takes(library: Library, tmp_path: Path) -> None:
    """Of files with something changed, anywhere."""
    outcomes = {True: 0, False: 0}
    for index, (kind, content) in enumerate(mutated(1500)):
        (tmp_path / "x.bcdn").write_bytes(content)
        program = unless(ProgramError, read_program, tmp_path / "x.bcdn")
        if program is not None and sum(map(buffer_bytes, program.buffers)) > 2**24:
            continue
        model = unless(LibraryError, library.model, content)
        assert (model is None) == (program is None), f"file {index}: {kind}"
        outcomes[model is not None] += 1
        if model is not None:
            assert model.outputs == [(port.name, program.buffers[port.buffer].shape[0]) for port in program.outputs]
    assert min(outcomes.values()) > 100


def test_a_file_may_have_any_name(library: Library, tmp_path: Path) -> None:
    for name in ("Käse 🧀.bcdn", os.fsdecode(b"\xff.bcdn")):
        (tmp_path / name).write_bytes((TESTS / "malformed" / "valid.bcdn").read_bytes())
        assert library.model(tmp_path / name).outputs == [("logits", 2)]


@pytest.mark.parametrize("name", list_pretrained())
def test_networks_give_the_same_bits(library: Library, name: str) -> None:
    session = InferenceSession(name, threads=1)
    images = RNG.standard_normal((3, *session.get_inputs()[0].shape[1:]), np.float32)
    expected = session.run(None, {session.get_inputs()[0].name: images})
    for threads in (1, 2, 0):
        model = library.model(locate(name), threads)
        assert model.input_size == images.shape[1:] and library.target(model.handle).decode() == session.target
        got = model.run(images)
        assert [output.tobytes() for output in got] == [output.tobytes() for output in expected]
    program = read_program(locate(name))
    labels = [library.label(model.handle, index) for index in range(len(program.labels))]
    assert [label.decode() for label in labels] == list(program.labels)


def test_weights_of_float16_are_what_they_stand_for(library: Library, tmp_path: Path) -> None:
    model = library.model(write_program(wide(HALVES), tmp_path / "wide.bcdn"))
    assert np.array_equal(model.run(np.ones((1, 1, 1, 1), np.float32))[0][0], HALVES)


def test_a_gain_is_of_format_2(library: Library, tmp_path: Path) -> None:
    (tmp_path / "gain.bcdn").write_bytes(packed(8))
    session = InferenceSession(tmp_path / "gain.bcdn", threads=1)
    images = RNG.standard_normal((2, *session.get_inputs()[0].shape[1:]), np.float32)
    got = library.model(tmp_path / "gain.bcdn").run(images)
    assert [output.tobytes() for output in got] == [
        output.tobytes() for output in session.run(None, {session.get_inputs()[0].name: images})
    ]
    for name, message in (("format-of-gain", "unknown key 'gain'"), ("newer-format", "format 3, newer than")):
        with pytest.raises(LibraryError, match=message):
            library.model(TESTS / "malformed" / f"{name}.bcdn")


def test_many_threads_may_run_one_model(library: Library) -> None:
    model = library.model(locate("reactnet_r18_cifar10"), threads=2)
    images = [RNG.standard_normal((2, *model.input_size), np.float32) for _ in range(8)]
    expected = [model.run(image)[0].tobytes() for image in images]
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda image: model.run(image)[0].tobytes(), images * 4))
    assert got == expected * 4


@pytest.fixture(scope="module")
def prepared_by(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one of the malformed files' valid origin prepares once its preprocessing is another."""
    folder = tmp_path_factory.mktemp("prepared")
    original = read_program(TESTS / "malformed" / "valid.bcdn")
    (folder / "colour.bcdn").write_bytes(packed(4))
    programs = {1: original, 3: read_program(folder / "colour.bcdn")}

    def prepare(pixels: Any, channels: int, interpolation: str, crop_pct: float) -> tuple[Any, Any]:
        program = programs[channels]
        size = program.buffers[program.inputs[0].buffer].shape
        mean, std = (0.1, 0.45, 0.5)[:channels], (0.3, 0.229, 0.25)[:channels]
        preprocess = Preprocess(input_size=size, mean=mean, std=std, interpolation=interpolation, crop_pct=crop_pct)
        path = write_program(replace(program, preprocess=preprocess), folder / "x.bcdn")
        return library.model(path).prepare(pixels), to_input(pixels[..., :3], preprocess)

    return prepare


@pytest.mark.skipif(int(features.version("pil").split(".")[0]) < 13, reason="Pillow 12 resizes tall images otherwise")
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_images_are_prepared_bit_by_bit_as_python_does(prepared_by: Any, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    depth = data.draw(st.sampled_from([1, 3, 4]))
    filters = st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"])
    got, expected = prepared_by(
        noise(height, width, depth, np.random.default_rng(data.draw(st.integers(0, 9)))),
        data.draw(st.sampled_from([1, 3])),
        data.draw(filters),
        data.draw(st.floats(0.1, 1)),
    )
    assert got.tobytes() == expected.tobytes()


def test_a_photo_is_classified_as_python_does(library: Library) -> None:
    name = "reactnet_embedding_imagenette_160"
    photo = np.array(Image.fromarray(noise(9, 12)).resize((640, 480), Image.Resampling.BICUBIC))
    (expected,) = InferenceSession(name, threads=1).predict([photo], topk=10)
    probabilities = library.model(locate(name)).classify(photo)
    assert {p.index: np.float32(p.probability) for p in expected} == dict(enumerate(probabilities))
    rows = np.zeros((480, 700, 3), np.uint8)  # with something behind each row
    rows[:, :640] = photo
    model = library.model(locate(name))
    got = model.prepare(rows[:, :640], stride=700 * 3)
    assert got.tobytes() == model.prepare(photo).tobytes()


def test_mistakes_are_told(library: Library, tmp_path: Path) -> None:
    model = library.model(locate("bcdnet_b_r18_fashion_mnist"))
    for pixels, stride, message in (
        (noise(4, 4), 3, "stride"),
        (noise(4, 4, 2), 0, "1, 3 or 4 channels"),
        (noise(0, 4), 0, "must not be empty"),
        (noise(2**17, 1), 0, "too long for its width"),
    ):
        with pytest.raises(LibraryError, match=message):
            model.prepare(pixels, stride)
    with pytest.raises(LibraryError, match="does not say how images are to be prepared"):
        library.model(TESTS / "malformed" / "valid.bcdn").classify(noise(4, 4))
    with pytest.raises(LibraryError, match=r"none\.bcdn: no such file"):
        library.model(tmp_path / "none.bcdn")
    with pytest.raises(LibraryError, match=f"{tmp_path}: is not a file"):
        library.model(tmp_path)
    with pytest.raises(LibraryError, match=r"x: cannot be read: .*too long"):
        library.model(tmp_path / ("x" * 5000))
    with pytest.raises(LibraryError, match="threads"):
        library.model(TESTS / "malformed" / "valid.bcdn", -1)
    assert library.open(None, 1) is None and b"NULL" in library.error()
    assert library.run(model.handle, None, 1, None) == -1 and b"NULL" in library.error()
    images = np.zeros((2, *model.input_size), np.float32)
    assert library.run(model.handle, images.ctypes.data, 2, (ctypes.c_void_p * 1)()) == -1
    assert library.error() == b"no output may be NULL"
    images[1, -1, -1, -1] = np.inf
    with pytest.raises(LibraryError, match="every value of the images must be finite"):
        model.run(images)
    assert library.output_name(model.handle, 1) is None and library.output_size(model.handle, -1) == 0
    assert library.label(model.handle, 10) is None and library.label(model.handle, -1) is None
    library.close(None)


def test_logits_that_are_not_finite_are_no_probabilities(library: Library, tmp_path: Path) -> None:
    program = read_program(locate("bcdnet_b_r18_fashion_mnist"))
    tensors = {
        name: np.full_like(array, 3e38) if "head" in name or "fc" in name else array
        for name, array in program.tensors.items()
    }
    path = write_program(replace(program, tensors=tensors), tmp_path / "x.bcdn")
    with pytest.raises(LibraryError, match="not finite"):
        library.model(path).classify(noise(28, 28, 1))


def test_the_example_is_built_and_names_what_python_names(installed: Path, tmp_path: Path) -> None:
    source = TESTS.parent / "examples" / "c"
    for words in (["-S", source, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={installed}"], ["--build", tmp_path]):
        subprocess.run(["cmake", *map(str, words)], check=True, capture_output=True)
    photo = noise(60, 80)
    Image.fromarray(photo).save(tmp_path / "photo.ppm")
    (expected,) = InferenceSession("bcdnet_b_imagenette").predict([photo], topk=5)
    command = [tmp_path / "classify", locate("bcdnet_b_imagenette"), tmp_path / "photo.ppm"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "".join(f"{100 * p.probability:6.2f} %  {p.label}\n" for p in expected)
    header, pixels = (tmp_path / "photo.ppm").read_bytes().split(b"\n", 1)
    (tmp_path / "photo.ppm").write_bytes(header + b"\n# by a program\n#\n" + pixels)
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == done.stdout
    command[2] = tmp_path / "none.ppm"
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2 and "none.ppm" in failed.stderr


def test_a_project_that_finds_the_package_keeps_its_variables(installed: Path, tmp_path: Path) -> None:
    version = bcdnet.__version__
    (tmp_path / "CMakeLists.txt").write_text(
        f'''cmake_minimum_required(VERSION 3.20)
        project(finder LANGUAGES C)
        set(PACKAGE_VERSION "mine")
        find_package(bcdnet {version} REQUIRED)
        if(NOT PACKAGE_VERSION STREQUAL "mine" OR NOT bcdnet_VERSION STREQUAL "{version}")
          message(FATAL_ERROR "${{PACKAGE_VERSION}}, ${{bcdnet_VERSION}}")
        endif()'''
    )
    words = ["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_packages(library: Library) -> None:
    assert library.version().decode() == bcdnet.__version__


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not installed")
def test_pkg_config_tells_how_to_build(installed: Path, tmp_path: Path) -> None:
    (found,) = installed.glob("lib*/pkgconfig")
    words = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "bcdnet"],
        env=os.environ | {"PKG_CONFIG_PATH": str(found)}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    source = tmp_path / "version.c"
    source.write_text("#include <bcdnet.h>\n#include <stdio.h>\nint main(void) { return !puts(bcdnet_version()); }\n")
    subprocess.run(["cc", source, *words, f"-Wl,-rpath,{found.parent}", "-o", tmp_path / "version"], check=True)
    told = subprocess.run([tmp_path / "version"], capture_output=True, text=True, check=True).stdout
    assert told.strip() == bcdnet.__version__
