"""Decoding: EXIF orientation, the limit of pixels, damaged files, and where the crop lies."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from bcdnet.data import DataConfig, evaluate_transform
from bcdnet.data.dataset import decode
from bcdnet.data.resize import to_pixels
from bcdnet.decoded_images import open_image
from bcdnet.errors import DataError, ImageTooLargeError
from bcdnet.program.schema import Preprocess
from bcdnet.runtime.preprocess import crop_box, to_input


def encoded(width: int, height: int, kind: str, orientation: int | None = None) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


# What undoes each orientation (EXIF 2.32, tag 0x0112), on [H, W, C].
UPRIGHT = {
    1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p, -1), 7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_turned_upright_in_prediction_and_training_alike(kind, orientation, tmp_path: Path) -> None:
    data = encoded(20, 12, kind, orientation)
    expected = UPRIGHT[orientation](np.asarray(Image.open(io.BytesIO(data))))
    file = tmp_path / "image"
    file.write_bytes(data)
    preprocess = Preprocess((3, 8, 8), (0.5,) * 3, (0.25,) * 3, "bilinear", 1.0)
    reference = to_input(np.ascontiguousarray(expected), preprocess)
    for given_as in (file, Image.open(io.BytesIO(data)), open_image(data)):
        np.testing.assert_array_equal(to_input(given_as, preprocess), reference)
    config = DataConfig("digits", 8, mean=(0.5,) * 3, std=(0.25,) * 3)
    import torch

    trained = evaluate_transform(torch.from_numpy(to_pixels(decode(data, "x"), config, 8, "x").copy())[None], config)
    np.testing.assert_array_equal(reference, trained[0].numpy())


def test_an_image_that_memory_cannot_turn_is_not_taken_as_it_lies(monkeypatch) -> None:
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        open_image(encoded(20, 12, "JPEG", 6))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_data_say_nothing() -> None:
    plain = encoded(20, 12, "JPEG")
    junk = b"Exif\x00\x00" + b"MM\x00\x2a" + b"\xff" * 40
    broken = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(junk) + 2) + junk + plain[2:]
    np.testing.assert_array_equal(np.asarray(open_image(broken)), np.asarray(open_image(plain)))


def test_size_is_checked_before_decoding() -> None:
    stream = io.BytesIO()
    Image.new("L", (2000, 2000)).save(stream, "PNG")
    header = stream.getvalue()[:60]
    with pytest.raises(ImageTooLargeError, match=r"big\.png: has 2000 x 2000 pixels; at most 1,000 are allowed"):
        open_image(header, "big.png", max_pixels=1000)
    with pytest.raises(DataError, match=r"big\.png: cannot be decoded"):
        open_image(header, "big.png", max_pixels=4_000_000)
    assert open_image(stream.getvalue(), max_pixels=4_000_000).size == (2000, 2000)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="x: is not an image, or is damaged"):
        open_image(b"nothing", "x")
    with pytest.raises(DataError, match="x: is not a JPEG or PNG image"):
        open_image(encoded(3, 3, "WEBP"), "x", formats=("JPEG", "PNG"))


@given(
    st.sampled_from(["PNG", "WEBP", "JPEG"]), st.data(), st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)))
)
def test_damage_is_a_data_error_or_an_image(kind, data, changes) -> None:
    mutable = bytearray(encoded(9, 7, kind, 6))
    for place, value in changes:
        mutable[place % len(mutable)] = value
    cut = bytes(mutable[: data.draw(st.integers(0, len(mutable)))])
    with contextlib.suppress(DataError):
        image = open_image(cut, max_pixels=10**6)
        assert image.width * image.height <= 10**6


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([0.8, 0.875, 1.0]))
def test_the_crop_box_holds_what_the_network_sees(width, height, crop_pct) -> None:
    preprocess = Preprocess((1, 16, 16), (0.0,), (1.0,), "nearest", crop_pct)
    box = crop_box(width, height, preprocess)
    left, top, across, down = box
    # One resized pixel of slack: Pillow's crop is in whole pixels.
    slack = 1 / 16
    assert left >= -slack and top >= -slack and left + across <= 1 + slack and top + down <= 1 + slack
    # A picture that holds its own column's number shows which part of it arrived.
    columns = np.repeat(np.linspace(0, 255, width).astype(np.uint8)[None], height, 0)
    seen = to_input(columns, preprocess)[0, 8] * 255
    if left >= 0 and left + across <= 1 and width > 1:
        assert seen[0] == pytest.approx(255 * left, abs=255 * (2 / width + slack))
        assert seen[-1] == pytest.approx(255 * (left + across), abs=255 * (2 / width + slack))


@pytest.mark.parametrize(
    ("size", "left", "top"),
    [((30, 10), 3, 1), ((60, 10), 18, 1), ((30, 50), 3, 21), ((31, 10), 4, 1), ((30, 20), 3, 6)],
)
def test_a_network_may_see_a_rectangle(size, left, top) -> None:
    """Images that need no resampling for 8 rows of 24 pixels out of 10 of 30."""
    preprocess = Preprocess((3, 8, 24), (0.0,) * 3, (1 / 255,) * 3, "bilinear", 0.8)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    seen = to_input(pixels, preprocess).transpose(1, 2, 0)
    np.testing.assert_allclose(seen, pixels[top : top + 8, left : left + 24], atol=1e-3)
    assert crop_box(*size, preprocess) == pytest.approx((left / size[0], top / size[1], 24 / size[0], 8 / size[1]))
    assert crop_box(24, 8, preprocess) == (0, 0, 1, 1) != crop_box(8, 24, preprocess)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_each_interpolation_is_pillows(interpolation) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8))
    preprocess = Preprocess((3, 12, 12), (0.0,) * 3, (1 / 255,) * 3, interpolation, 1.0)
    expected = np.asarray(photo.resize((12, 12), Image.Resampling[interpolation.upper()]))
    np.testing.assert_allclose(to_input(photo, preprocess).transpose(1, 2, 0), expected, atol=1e-3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "P"])
def test_colours_are_red_green_and_blue_in_every_mode(mode) -> None:
    colour = Image.new("RGB", (4, 4), (204, 51, 0))
    if mode == "RGBa":  # Pillow makes it of RGBA alone
        colour = colour.convert("RGBA")
    plain = (0.0,) * 3, (1 / 255,) * 3, "bilinear", 1.0
    seen = to_input(colour.convert(mode), Preprocess((3, 4, 4), *plain))
    np.testing.assert_allclose(seen.reshape(3, 16), np.repeat([[204], [51], [0]], 16, 1), atol=4)
    grey = to_input(colour.convert(mode), Preprocess((1, 4, 4), *(part[:1] for part in plain[:2]), *plain[2:]))
    np.testing.assert_allclose(grey, np.full((1, 4, 4), 0.299 * 204 + 0.587 * 51), atol=4)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_wide_grey_is_cut_to_eight_bits(mode) -> None:
    levels = np.random.default_rng(0).integers(-(2**17) if mode == "I" else 0, 2**17 if mode == "I" else 2**16, (9, 7))
    levels = levels.astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode])
    image = Image.frombytes(mode, (7, 9), levels.tobytes())
    expected = (levels.astype(np.int64) >> 8).clip(0, 255)
    preprocess = Preprocess((1, 9, 7), (0.0,), (1 / 255,), "bilinear", 1.0)
    np.testing.assert_array_equal(to_input(image, preprocess)[0], expected)


def test_wide_grey_takes_few_bytes_for_each_pixel() -> None:
    """Sixteen bits were once computed with in 64, three times over."""
    image = Image.frombytes("I;16", (1000, 1000), bytes(2_000_000))
    tracemalloc.start()
    to_input(image, Preprocess((1, 8, 8), (0.0,), (1.0,), "bilinear", 1.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6


def test_a_lack_of_memory_is_not_the_images_fault(monkeypatch) -> None:
    def scarce(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(Image, "open", scarce)
    with pytest.raises(MemoryError):
        open_image(encoded(3, 3, "PNG"))


@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1)])
def test_a_thin_image_does_not_grow_without_bound(size) -> None:
    preprocess = Preprocess((1, 32, 32), (0.0,), (1.0,), "bilinear", 1.0)
    with pytest.raises(ImageTooLargeError, match=f"{size[0]} x {size[1]} pixels would become"):
        to_input(Image.new("L", size), preprocess)


def test_a_picture_whose_pixels_cannot_be_had_is_named(tmp_path: Path) -> None:
    preprocess = Preprocess((3, 8, 8), (0.5,) * 3, (0.25,) * 3, "bilinear", 1.0)
    cut = Image.open(io.BytesIO(encoded(64, 64, "JPEG")[:900]))
    closed = Image.open(io.BytesIO(encoded(64, 64, "PNG")))
    closed.close()
    for picture in (cut, closed):
        with pytest.raises(DataError, match="image: cannot be decoded"):
            to_input(picture, preprocess)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("/nowhere/x.png", "no such file"),
        (Image.new("RGB", (0, 4)), "must not be empty"),
        (np.zeros((0, 4, 3), np.uint8), "must not be empty"),
        (np.zeros((4, 4, 3)), "an array must be uint8"),
        (7, "expected a Pillow image"),
    ],
)
def test_what_is_no_image_is_called_by_the_name_that_was_given(image, problem) -> None:
    with pytest.raises(DataError, match=f"^photo 3: {problem}"):
        to_input(image, Preprocess((3, 4, 4), (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0), "photo 3")


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied", "a.png")

    monkeypatch.setattr("builtins.open", refuse)  # which those who run the tests as root may
    with pytest.raises(DataError, match=r"a\.png: cannot be read \(Permission denied\)$"):
        open_image(tmp_path / "a.png")
