"""The page and its session in a real Chromium, against the CPU runtime."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from bcdnet.program import read_program
from bcdnet.program.file import write_program
from bcdnet.program.schema import Preprocess
from bcdnet.runtime import InferenceSession
from bcdnet.runtime.preprocess import to_input

# Loads a file given as base64 and returns f(session, argument), arrays as base64 of their bytes.
IN_PAGE = """async ([model, images, what]) => {
  const { Session } = await import("./bcdnet.js");
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const session = await Session.load(bytes(model).buffer);
  const results = [];
  for (const image of images) {
    let values;
    if (what === "run") {
      values = session.run(new Float32Array(bytes(image).buffer));
    } else {
      const bitmap = await createImageBitmap(new Blob([bytes(image)]), { colorSpaceConversion: "none" });
      values = what === "prepare" ? session.prepare(bitmap) : session.run(session.prepare(bitmap));
    }
    let text = "";
    for (const byte of new Uint8Array(values.buffer)) text += String.fromCharCode(byte);
    results.push(btoa(text));
  }
  return results;
}"""


def in_page(page: Any, packed: Path, images: list[bytes], what: str) -> list[np.ndarray]:
    def encode(content: bytes) -> str:
        return base64.b64encode(content).decode()

    results = page.evaluate(IN_PAGE, [encode(packed.read_bytes()), [encode(image) for image in images], what])
    return [np.frombuffer(base64.b64decode(result), np.float32) for result in results]


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Smooth and noisy images of many sizes, larger and smaller than the input."""
    random = np.random.default_rng(seed)
    images = []
    for index in range(count):
        height, width = random.integers(20, 200, 2)
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        images.append(Image.blend(image, Image.fromarray(noise), 0.2 * (index % 3)))
    return images


# The page resizes as Pillow 13 does (docs/web.md); an older one gives other pixels to compare with, by one level.
@pytest.mark.skipif(int(features.version("pil").split(".")[0]) < 13, reason="Pillow 12 resizes tall images otherwise")
def test_a_hundred_images_give_the_same_bits(page: Any, packed: Path) -> None:
    images = pictures(100)
    session = InferenceSession(packed, threads=1)
    expected = np.concatenate([session.run_images([image])[0] for image in images])
    got = np.stack(in_page(page, packed, [png(np.asarray(image)) for image in images], "predict"))
    assert got.tobytes() == expected.tobytes()


@pytest.mark.slow
def test_every_network_gives_the_same_bits(page: Any, tmp_path: Path) -> None:
    import timm
    import torch

    from bcdnet.compiler import export

    for name in ("bcdnet_a_r18_small", "mobilenet_v1_twin_small", "binary_mixer"):
        torch.manual_seed(1)
        model = timm.create_model(name, num_classes=7, **({} if name == "binary_mixer" else {"width": 0.25}))
        size = (3, 224, 224) if name == "binary_mixer" else (3, 36, 44)
        with torch.no_grad():
            model.train()(torch.randn(2, *size))
        packed = export(model.eval(), tmp_path / f"{name}.bcdn", input_size=size)
        batch = np.random.default_rng(2).standard_normal((2, *size), np.float32)
        expected = InferenceSession(packed, threads=1).run(None, {"image": batch})[0]
        (got,) = in_page(page, packed, [batch.tobytes()], "run")
        assert got.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_preprocessing_is_pillows(page: Any, packed: Path, tmp_path: Path, interpolation: Any) -> None:
    program = read_program(packed)
    preprocess = Preprocess((3, 48, 48), (0.5, 0.1, 0.7), (0.3, 0.2, 0.25), interpolation, 0.9)
    other = write_program(
        type(program)(**{**vars(program), "preprocess": preprocess}), tmp_path / f"{interpolation}.bcdn"
    )
    images = [*pictures(12, seed=3), Image.new("RGB", (48, 48), (255, 0, 128)), Image.new("RGB", (500, 49))]
    expected = [to_input(image, preprocess) for image in images]
    got = in_page(page, other, [png(np.asarray(image)) for image in images], "prepare")
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.tobytes() == theirs.tobytes()


def damaged(packed: Path) -> dict[str, bytes]:
    """Files that break one rule each, made from a good one."""
    good = packed.read_bytes()
    length = int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    program = json.loads(header["__metadata__"]["bcdnet_program"])

    def file(edit: Any) -> bytes:
        changed = json.loads(json.dumps(program))
        edit(changed)
        return container(json.dumps(changed))

    def container(text: str, tensors: bytes = data, **more: Any) -> bytes:
        new = json.dumps(header | {"__metadata__": {"bcdnet_program": text}} | more).encode()
        return len(new).to_bytes(8, "little") + new + tensors

    def setter(*path: Any) -> Any:
        def edit(changed: Any) -> None:
            for key in path[:-2]:
                changed = changed[key]
            changed[path[-2]] = path[-1]

        return edit

    text = json.dumps(program)
    return {
        "is shorter than 8 bytes": b"bcdn",
        "ends within its header": good[:100],
        "longer or shorter": good[:-4],
        "longer or shorter ": good + bytes(4),
        "the key": container(text.replace('{"format"', '{"format": 1, "format"')),
        "newer": file(setter("format", 3)),
        "positive integer": container(text.replace('"format": 1', '"format": 1.0')),
        "unknown key": file(setter("more", 1)),
        'unknown key "gain"': file(setter("ops", 0, "epilogue", "gain", None)),
        "missing key 'gain'": file(setter("format", 2)),
        "missing key": file(lambda changed: changed.pop("labels")),
        "expected true or false": file(
            setter("ops", 0, "epilogue", "shortcut", {"buffer": 0, "duplicate": 1, "avg_pool": False})
        ),
        "read before it is written": file(setter("ops", 0, "input", len(program["buffers"]) - 1)),
        "dimension out of range": file(setter("buffers", 1, "shape", [0, 1, 1])),
        "bytes per image": file(setter("buffers", 1, "shape", [65536, 65536, 512])),
        "no op uses it": container(
            text, data + bytes(4), more={"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
        ),
        "not one per class": file(setter("labels", ["one"])),
        "must be positive": file(setter("preprocess", "std", [0, 1, 1])),
        "expected an integer": file(setter("ops", 0, "stride", [1e9, 0.5])),
        "stride out of range": file(setter("ops", 0, "stride", [1, 0])),
        "not JSON": container(text[:-3]),
    }


LOAD = """async (model) => {
  const { Session } = await import("./bcdnet.js");
  try {
    await Session.load(Uint8Array.from(atob(model), (c) => c.charCodeAt(0)).buffer);
    return "loaded";
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}"""


def test_what_the_packages_reader_refuses_is_refused(page: Any) -> None:
    files = sorted((Path(__file__).parents[1] / "malformed").glob("*.bcdn"))
    told = {file.stem: page.evaluate(LOAD, base64.b64encode(file.read_bytes()).decode()) for file in files}
    assert told.pop("valid") == "loaded"
    assert len(told) > 40
    assert [name for name, answer in told.items() if not answer.startswith("FormatError: ")] == []


def test_damaged_files_are_errors(page: Any, packed: Path) -> None:
    for reason, content in damaged(packed).items():
        told = page.evaluate(LOAD, base64.b64encode(content).decode())
        assert told.startswith("FormatError: "), (reason, told)
        if reason not in ("not JSON", "must be positive"):
            assert reason.strip() in told, (reason, told)


def test_a_person_chooses_an_image_with_the_keyboard(page: Any, packed: Path) -> None:
    image = pictures(1)[0]
    picture = {"name": "a.png", "mimeType": "image/png", "buffer": png(np.asarray(image))}
    # Not expect_file_chooser: the key would be pressed before the browser knows that it shall tell.
    page.on("filechooser", lambda chooser: chooser.set_files([picture]))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    page.keyboard.press("Enter")
    page.wait_for_selector("#results li")
    best = InferenceSession(packed, threads=1).predict([image], topk=5)[0]
    assert page.locator("#results li span:first-child").all_text_contents() == [p.label for p in best]
    assert page.locator("#results li span:nth-child(2)").first.text_content() == f"{best[0].probability:.1%}"


def image_file(name: str, picture: Image.Image) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": png(np.asarray(picture))}


def test_the_answer_is_announced(page: Any, packed: Path) -> None:
    image = pictures(1)[0]
    page.set_input_files("#file", image_file("a.png", image))
    page.wait_for_selector("#results li")
    best = InferenceSession(packed, threads=1).predict(image, topk=1)[0][0]
    page.wait_for_selector("#status:has-text('%')")
    assert page.text_content("#status") == f"{best.label}, {best.probability:.1%}"


def test_an_image_that_was_slow_does_not_take_the_place_of_a_later_one(page: Any) -> None:
    page.evaluate(
        """() => {
          const make = createImageBitmap;
          let calls = 0;
          window.createImageBitmap = async (...given) => {
            if (calls++ === 0) await new Promise((resolve) => setTimeout(resolve, 400));
            return make(...given);
          };
        }"""
    )
    for name, image in zip(("slow.png", "quick.png"), pictures(2), strict=True):
        page.set_input_files("#file", image_file(name, image))
    page.wait_for_selector("#results li")
    page.wait_for_timeout(600)
    assert page.get_attribute("#picture", "aria-label") == "Your image, quick.png"


def test_an_image_too_thin_is_refused(page: Any) -> None:
    page.set_input_files("#file", image_file("a.png", pictures(1)[0]))
    page.wait_for_selector("#results li")
    page.set_input_files("#file", image_file("thin.png", Image.new("RGB", (1, 30_000))))
    page.wait_for_selector("#status.error")
    assert page.text_content("#status") == "the image is too long for its width"
    assert page.locator("#results li").count() == 0
    assert page.text_content("#time") == ""


def test_a_large_photo_is_shown_smaller(page: Any) -> None:
    page.set_input_files("#file", image_file("large.png", Image.new("RGB", (4096, 100))))
    page.wait_for_selector("#results li")
    assert page.evaluate("[picture.width, picture.height]") == [2048, 50]


def test_a_file_that_is_no_image_is_said_to_be_none(page: Any) -> None:
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.wait_for_selector("#status.error")
    assert "not an image" in page.text_content("#status")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground, text = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, color[4:-1].split(","))) for color in (ground, text)]
    assert (brightness[0] > brightness[1]) == (scheme == "light")
