"""Names of any length in figures: broken into lines that fit, since matplotlib cuts a title at the figure's edge."""

from textwrap import wrap
from unicodedata import east_asian_width

from matplotlib.font_manager import FontProperties, findfont, get_font

from bcdnet.errors import printable
from bcdnet.figures import literal

LINE = 1.3  # lines of text stand that many of their size apart
SLACK = 0.96  # for hinting


def fill(text: str, inches: float, size: float) -> str:
    """`text` as matplotlib shall write it, at `size` points in lines of at most so many inches; words may be broken."""
    text = printable(text)
    widths = {letter: _width(letter, size) for letter in set(text)}
    for columns in range(max(1, len(text)), 0, -1):
        lines = wrap(text, columns)
        if all(sum(widths[letter] for letter in line) <= SLACK * inches for line in lines):
            break
    return "\n".join(map(literal, lines))


def inches_high(text: str, size: float) -> float:
    """How many inches the lines of `text` take."""
    return (text.count("\n") + 1) * LINE * size / 72


def _width(letter: str, size: float) -> float:
    """Inches, by the default font; one that has Chinese letters has them square."""
    if east_asian_width(letter) in "WF":
        return size / 72
    font = get_font(findfont(FontProperties()))
    font.set_size(size, 72)
    return float(font.load_char(ord(letter)).linearHoriAdvance) / 65536 / 72
