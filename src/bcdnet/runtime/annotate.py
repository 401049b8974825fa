"""Pictures with their predictions written on them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from bcdnet.decoded_images import with_channels
from bcdnet.runtime.prediction import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

# A small picture is enlarged so that a line of text fits below it; one as long as that would make it is not.
LEAST_WIDTH, MOST_HEIGHT = 320, 8192
# Pillow's own font is for Latin letters. These have many more, where they are installed.
FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc", "malgun.ttf", "Arial Unicode.ttf", "DejaVuSans.ttf")
BACKGROUND, TRACK, BAR, INK = "#14161a", "#2a2f37", "#2f81f7", "#f2f4f7"


def annotate(picture: Image, predictions: Sequence[Prediction]) -> Image:
    """A copy in RGB, at least 320 pixels wide, with one bar for each prediction below the picture.

    A picture smaller than that is enlarged to at most 8192 pixels of height, and stands in the middle. The text is in
    proportion to the picture, and at least 12 pixels high.
    """
    from PIL import Image, ImageDraw

    picture = with_channels(picture, 3)
    scale = min(LEAST_WIDTH / picture.width, MOST_HEIGHT / picture.height)
    if scale > 1:
        enlarged = (round(picture.width * scale), max(1, round(picture.height * scale)))
        picture = picture.resize(enlarged, Image.Resampling.NEAREST)
    width = max(LEAST_WIDTH, picture.width)
    size = max(12, round(min(width / 26, picture.height / 8)))  # below a strip, bars as wide would be taller than it
    font = _font("".join(best.label for best in predictions), size)
    margin, line = size // 2, round(1.8 * size)
    copy = Image.new("RGB", (width, picture.height + len(predictions) * line + 2 * margin), BACKGROUND)
    copy.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(copy)
    right = width - margin
    for row, best in enumerate(predictions):
        top = picture.height + margin + row * line
        bottom = top + line - max(2, size // 4)
        draw.rectangle((margin, top, right, bottom), TRACK)
        draw.rectangle((margin, top, margin + round((right - margin) * best.probability), bottom), BAR)
        middle = (top + bottom) / 2
        percent = f"{100 * best.probability:.1f} %"
        space = right - 2 * margin - draw.textlength(percent, font) - size
        label = _fit(draw, best.label, font, space)
        draw.text((2 * margin, middle), label, INK, font, "lm")
        draw.text((right - margin, middle), percent, INK, font, "rm")
    return copy


def _font(text: str, size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    for name in FONTS if max(text, default="") > "\xff" else ():
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def _fit(draw: ImageDraw, text: str, font: FreeTypeFont | ImageFont, space: float) -> str:
    """The text, cut short with an ellipsis if it is wider than `space` pixels."""
    if draw.textlength(text, font) <= space:
        return text
    while text and draw.textlength(f"{text}…", font) > space:
        text = text[:-1]
    return f"{text}…"
