"""How figures look and how they are written. A leaf; it needs matplotlib."""

from pathlib import Path
from warnings import catch_warnings, filterwarnings

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.text import Text

from bcdnet.errors import printable
from bcdnet.files import whole_file

# Chinese, Japanese and Korean names are boxes in matplotlib's own font: one of these has them, where it is installed.
CJK_FONTS = (
    *("Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Hiragino Sans GB", "Apple SD Gothic Neo", "Arial Unicode MS"),
)
COLOURS = ("#2a6fbb", "#e07b28", "#4c9a52", "#8d5aa5", "#777777")


def blank_figure(width: float, height: float) -> Figure:
    """A figure of that many inches."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> Axes:
    """No box, a faint grid behind the data."""
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def literal(text: str) -> str:
    """A name as matplotlib shall write it: what stands between two dollars would be read as mathematics."""
    return printable(text).replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """As its suffix says; the same figure gives the same file."""
    installed = set(get_font_names())
    fonts = [font for font in CJK_FONTS if font in installed]
    for text in figure.findobj(Text) if fonts else ():
        if not text.get_text().isascii():  # those fonts lack weights, which matplotlib would warn of
            text.set_fontfamily([*text.get_fontfamily(), *fonts])
    with rc_context({"svg.hashsalt": "bcdnet"}), whole_file(path) as beside, catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from font")  # a box, where no installed font has a name's letters
        figure.savefig(beside, metadata={"Date": None} if path.suffix == ".svg" else None)
