import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from bcdnet.data.crop import box_mask, flipped, random_boxes, resized_crop, shifted


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    low=st.floats(0.01, 1),
    aspect=st.floats(1, 5),
    seed=st.integers(0, 1000),
)
def test_boxes_lie_within_the_image(height, width, low, aspect, seed):
    generator = np.random.default_rng(seed)
    boxes = random_boxes(height, width, (low, 1.0), (1 / aspect, aspect), generator, 20)
    top, left, box_height, box_width = boxes.T
    assert (box_height >= 1).all()
    assert (box_width >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + box_height <= height).all()
    assert (left + box_width <= width).all()


def test_boxes_have_the_area_and_ratio_asked_for():
    boxes = random_boxes(400, 400, (0.1, 0.5), (0.5, 2.0), np.random.default_rng(0), 4000)
    share = boxes[:, 2] * boxes[:, 3] / 400**2
    assert 0.09 < share.min() < 0.11
    assert 0.49 < share.max() < 0.51
    assert share.mean() == pytest.approx(0.3, abs=0.01)
    ratio = np.log2(boxes[:, 3] / boxes[:, 2])
    assert ratio.min() > -1.05
    assert ratio.max() < 1.05
    assert ratio.mean() == pytest.approx(0, abs=0.05)


def test_ratios_are_width_to_height():
    boxes = random_boxes(400, 400, (0.1, 0.3), (2.0, 3.0), np.random.default_rng(0), 1000)
    ratio = boxes[:, 3] / boxes[:, 2]
    assert 1.95 < ratio.min() < 2.1 and 2.9 < ratio.max() < 3.05


@pytest.mark.parametrize(("share", "side"), [(0.5, 7), (0.6, 8), (0.72, 8), (0.73, 9)])
def test_sides_are_rounded_to_the_nearest_pixel(share, side):
    """Cut off, crops of small images would be smaller than asked for."""
    boxes = random_boxes(10, 10, (share, share), (1.0, 1.0), np.random.default_rng(0), 5)
    assert (boxes[:, 2:] == side).all()


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(1000, 10, [(1000 - 13) // 2, 0, 13, 10]), (10, 1000, [0, (1000 - 20) // 2, 10, 20])],
)
def test_an_image_too_narrow_for_any_box_is_cut_in_the_middle(height, width, box):
    boxes = random_boxes(height, width, (1.0, 1.0), (3 / 4, 2.0), np.random.default_rng(0), 3)
    assert boxes.tolist() == [box] * 3
    thin = random_boxes(1, 500, (0.08, 1.0), (0.1, 0.3), np.random.default_rng(0), 3)
    assert (thin[:, 2:] == 1).all()


def test_resized_crop_is_interpolation_of_the_box():
    images = torch.randint(0, 256, (4, 3, 20, 24), dtype=torch.uint8)
    boxes = np.array([[0, 0, 20, 24], [3, 5, 8, 8], [12, 16, 8, 8], [2, 4, 16, 4]])
    flips = np.array([False, True, False, True])
    cut = resized_crop(images, boxes, flips, 8)
    assert cut.shape == (4, 3, 8, 8)
    for number in (1, 2):  # boxes of the output's size are copied exactly
        top, left, height, width = boxes[number]
        expected = images[number, :, top : top + height, left : left + width].float()
        torch.testing.assert_close(cut[number], expected.flip(-1) if flips[number] else expected, atol=2e-3, rtol=0)
    # The whole of an image: plain bilinear interpolation, away from the border.
    whole = F.interpolate(images[:1].float(), (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(cut[:1], whole, atol=2e-3, rtol=0)


@given(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(4, 12), st.integers(1, 4), st.integers(0, 100))
def test_shifted_is_a_slice_of_the_padded_image(count, channels, size, padding, seed):
    generator = np.random.default_rng(seed)
    images = torch.from_numpy(generator.integers(0, 256, (count, channels, size, size), dtype=np.uint8))
    offsets = generator.integers(0, 2 * padding + 1, (count, 2))
    flips = generator.random(count) < 0.5
    moved = shifted(images, offsets, flips, padding)
    assert moved.dtype == torch.uint8
    padded = F.pad(images, [padding] * 4)
    for number, (top, left) in enumerate(offsets):
        expected = padded[number, :, top : top + size, left : left + size]
        assert torch.equal(moved[number], expected.flip(-1) if flips[number] else expected)


def test_flipped_mirrors_only_what_is_asked():
    images = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8)
    mirrored = flipped(images, np.array([True, False, False, True, False]))
    assert torch.equal(mirrored[[0, 3]], images[[0, 3]].flip(-1))
    assert torch.equal(mirrored[[1, 2, 4]], images[[1, 2, 4]])


def test_box_mask_has_the_area_of_its_box():
    boxes = np.array([[0, 0, 8, 8], [1, 2, 3, 4], [5, 5, 0, 3]])
    mask = box_mask(boxes, 8, torch.device("cpu"))
    assert mask.shape == (3, 1, 8, 8)
    assert mask.sum((1, 2, 3)).tolist() == [64, 12, 0]
    assert mask[1, 0, 1:4, 2:6].all()


def test_the_border_of_an_enlarged_crop_is_not_darkened():
    plain = torch.full((1, 1, 4, 4), 9, dtype=torch.uint8)
    enlarged = resized_crop(plain, np.array([[0, 0, 4, 4]]), np.array([False]), 16)
    torch.testing.assert_close(enlarged, torch.full((1, 1, 16, 16), 9.0))
