"""The colours of both pages, light and dark, have the contrasts of WCAG 2.2: 4.5 for text, 3 for marks of controls."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src/bcdnet"
TEXT = {
    "web_assets/page.css": "text/ground text/raised quiet/ground error/ground on-accent/accent",
    "serve/page/style.css": "ink/ground ink/card ink/bar faint/ground faint/card accent/ground accent/card bad/ground",
}
MARKS = {"web_assets/page.css": "line/raised line/ground", "serve/page/style.css": "line/card line/ground"}


def schemes(css: str) -> list[dict[str, str]]:
    """The variables in light and in dark."""
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+);", part)) for part in re.findall(r":root \{(.*?)\}", css, re.S))
    return [light, light | dark]


def brightness(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("least", "pairs"), [(4.5, TEXT), (3, MARKS)])
@pytest.mark.parametrize("file", TEXT)
def test_contrasts(file: str, least: float, pairs: dict[str, str]) -> None:
    for colours in schemes((SOURCE / file).read_text()):
        for pair in pairs[file].split():
            dark, bright = sorted(brightness(colours[name]) for name in pair.split("/"))
            assert (bright + 0.05) / (dark + 0.05) >= least, (pair, colours)
