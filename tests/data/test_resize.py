import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torchvision.transforms import v2

from bcdnet.data import DataConfig, evaluate_transform
from bcdnet.data.dataset import decode
from bcdnet.data.resize import normalise, to_pixels
from bcdnet.decoded_images import with_channels
from bcdnet.errors import ImageTooLargeError


@pytest.fixture(scope="module")
def photo(shared):
    file = sorted((shared / "data" / "photos").glob("*.webp"))[3]
    return decode(file.read_bytes(), str(file)).convert("RGB")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_as_torchvision_resizes_and_crops(photo, interpolation):
    config = DataConfig("x", 112, crop_pct=0.875, interpolation=interpolation)
    mode = v2.InterpolationMode(interpolation)
    expected = v2.CenterCrop(112)(v2.Resize(128, mode, antialias=True)(photo))
    assert np.array_equal(to_pixels(photo, config, 112, "x"), np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize(("interpolation", "levels"), [("bilinear", 1.1), ("bicubic", 3.1)])
def test_tensors_are_resized_as_images_are(photo, interpolation, levels):
    # Pillow rounds (and, bicubic, clips) to grey levels between its two passes.
    config = DataConfig("x", 112, crop_pct=0.875, interpolation=interpolation)
    whole = torch.from_numpy(np.asarray(photo).transpose(2, 0, 1).copy())[None]
    expected = normalise(torch.tensor(to_pixels(photo, config, 112, "x"))[None].float(), config.mean, config.std, 255)
    difference = (evaluate_transform(whole, config) - expected).abs() * torch.tensor(config.std).view(-1, 1, 1) * 255
    assert difference.max() < levels
    assert difference.mean() < 0.3


def test_nearest_takes_the_pixel_that_pillow_takes():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    config = DataConfig("x", 32, crop_pct=1.0, interpolation="nearest")
    whole = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())[None]
    expected = normalise(torch.tensor(to_pixels(image, config, 32, "x"))[None].float(), config.mean, config.std, 255)
    assert torch.equal(evaluate_transform(whole, config), expected)


def test_the_stored_size_is_left_alone(photo):
    config = DataConfig("x", 96, crop_pct=0.875)
    image = photo.crop((0, 0, 96, 96))
    assert np.array_equal(to_pixels(image, config, 96, "x"), np.asarray(image).transpose(2, 0, 1))
    stored = torch.tensor(to_pixels(image, config, 96, "x"))[None]
    restored = evaluate_transform(stored, config) * torch.tensor(config.std).view(-1, 1, 1)
    restored = (restored + torch.tensor(config.mean).view(-1, 1, 1)) * 255
    torch.testing.assert_close(restored, stored.float(), atol=1e-3, rtol=0)


def test_what_is_stored_larger_is_cropped_as_if_from_the_file(photo):
    config = DataConfig("x", 112, crop_pct=0.875)
    larger = torch.tensor(to_pixels(photo, config, config.resize_size, "x"))[None]
    direct = torch.tensor(to_pixels(photo, config, config.image_size, "x"))[None]
    assert torch.equal(evaluate_transform(larger, config), evaluate_transform(direct, config))


def test_small_images_are_enlarged(digit_set):
    enlarged = to_pixels(digit_set.image(0), DataConfig("x", 32), 32, "x")
    assert enlarged.shape == (3, 32, 32)
    assert (enlarged[0] == enlarged[2]).all()


SRGB_TO_LAB = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))


def modes():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = Image.fromarray(ramp)
    palette = grey.convert("RGB").quantize(16)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=0)
    yield "transparent palette", Image.open(io.BytesIO(buffer.getvalue())), 18
    yield "palette", palette, 18
    yield "16 bit", Image.fromarray(ramp.astype(np.uint16) * 257), 0
    yield "RGBA", grey.convert("RGBA"), 0
    yield "grey with alpha", grey.convert("LA"), 0
    yield "CIELAB", ImageCms.profileToProfile(grey.convert("RGB"), *SRGB_TO_LAB, outputMode="LAB"), 3
    yield "grey", grey, 0


@pytest.mark.parametrize(("name", "image", "tolerance"), list(modes()), ids=[name for name, _, _ in modes()])
def test_every_mode_becomes_grey_or_rgb(name, image, tolerance):
    ramp = np.arange(256).reshape(16, 16)
    for channels, mode in ((1, "L"), (3, "RGB")):
        converted = with_channels(image, channels)
        assert converted.mode == mode
        values = np.asarray(converted).reshape(16, 16, channels).astype(int)
        assert np.abs(values - ramp[..., None]).max() <= tolerance


def test_alpha_that_was_multiplied_in_is_dropped() -> None:
    image = Image.new("LA", (3, 3), (100, 255)).convert("La")
    assert with_channels(image, 3).getpixel((0, 0)) == (100, 100, 100)


@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1)])
def test_a_thin_image_does_not_grow_without_bound(size) -> None:
    with pytest.raises(ImageTooLargeError, match=rf"^a\.png: is too long .*{size[0]} x {size[1]} pixels would become"):
        to_pixels(Image.new("L", size), DataConfig("x", 32), 32, "a.png")
