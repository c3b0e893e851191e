"""Bar charts as text and as SVG."""

from __future__ import annotations

import html
from collections.abc import Sequence

Row = tuple[str, float, str]

_TEXT_WIDTH = 30
_LABEL, _BAR, _VALUE, _HEIGHT = 250, 500, 150, 26
_COLOURS = {
    "succeeded": "#1a7f37",
    "errored": "#cf222e",
    "expired": "#9a6700",
    "canceled": "#6e7781",
    "paid": "#1a7f37",
}


def text_bar(value: float, rows: Sequence[Row]) -> str:
    """A bar of blocks, the largest of the rows at full width."""
    largest = max((row[1] for row in rows), default=0)
    return "█" * round(_TEXT_WIDTH * value / largest) if largest else ""


def bars(title: str, rows: Sequence[Row]) -> str:
    """Horizontal bars with label and value, as an SVG element."""
    largest = max((row[1] for row in rows), default=0) or 1
    drawn = "".join(
        _bar(label, text, index, value / largest) for index, (label, value, text) in enumerate(rows)
    )
    width, height = _LABEL + _BAR + _VALUE, _HEIGHT * len(rows)
    described = html.escape(f"{title}: " + ", ".join(f"{row[0]} {row[2]}" for row in rows))
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{described}">{drawn}</svg>'


def _bar(label: str, text: str, index: int, share: float) -> str:
    top = _HEIGHT * index
    colour = _COLOURS.get(label, "#0969da")
    length = max(_BAR * share, 1)
    return (
        f'<text x="{_LABEL - 8}" y="{top + 18}" text-anchor="end">{html.escape(label)}</text>'
        f'<rect x="{_LABEL}" y="{top + 4}" width="{length:.1f}" height="{_HEIGHT - 8}" '
        f'fill="{colour}"/>'
        f'<text x="{_LABEL + length + 8:.1f}" y="{top + 18}">{html.escape(text)}</text>'
    )
