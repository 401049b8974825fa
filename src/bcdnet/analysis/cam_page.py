"""Explanations as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from bcdnet.analysis.cam import Explanation
from bcdnet.errors import printable

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: white; border-radius: 6px; }
figure { margin: 1.5rem 0; overflow-x: auto; }
figcaption { opacity: .8; }
table { border-collapse: collapse; margin: 1rem 2rem 1rem 0; display: inline-table; vertical-align: top; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
td, th { padding: .15rem 1rem .15rem 0; text-align: left; }
td + td, th + th { text-align: right; font-variant-numeric: tabular-nums; }
"""


def render(title: str, explanations: Sequence[Explanation], cams: Path, contributions: Sequence[Path]) -> str:
    """The page: the figure of the maps, the best classes, and the figure and shares of each model's branches."""
    best = "".join(_best(explanation) for explanation in explanations)
    parts = [
        _figure(cams, "What each model sees, and Grad-CAM: where the evidence for the class lies."),
        f"<section>{best}</section>",
    ]
    with_blocks = [explanation for explanation in explanations if explanation.contributions]
    for explanation, path in zip(with_blocks, contributions, strict=True):
        caption = "Binary MLP blocks: what each branch (none: unshifted, short and long range) adds at each position."
        parts += [_figure(path, caption), _shares(explanation)]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_shown(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body><h1>{_shown(title)}</h1>\n{body}\n</body></html>\n"
    )


def holds(page: Path, figure: Path) -> bool:
    """Whether the page was made with this figure as it is now."""
    return f'src="{_source(figure)}"'.encode() in page.read_bytes()


def _figure(path: Path, caption: str) -> str:
    text = _shown(caption)
    return f'<figure><img alt="{text}" src="{_source(path)}"><figcaption>{text}</figcaption></figure>'


def _source(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _best(explanation: Explanation) -> str:
    order = (-explanation.probabilities).argsort()[:5]
    rows = [(explanation.named(int(k)), f"{100 * explanation.probabilities[k]:.1f} %") for k in order]
    return _table(explanation.name, ("class", "probability"), rows)


def _shares(explanation: Explanation) -> str:
    names = list(dict.fromkeys(name for block in explanation.contributions for name in block.branches))
    rows = [
        (block.block, *(f"{100 * block.shares[name]:.1f} %" if name in block.shares else "" for name in names))
        for block in explanation.contributions
    ]
    return _table(f"{explanation.name}: shares of the branches", ("block", *names), rows)


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{_shown(text)}</th>" for text in head)
    lines = "".join("<tr>" + "".join(f"<td>{_shown(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><caption>{_shown(caption)}</caption><tr>{cells}</tr>{lines}</table>"


def _shown(text: str) -> str:
    """Text as HTML; names of files and classes may hold what UTF-8 does not."""
    return escape(printable(text))
