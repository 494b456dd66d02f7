"""What notebooks show of things: small tables and pictures in HTML, all texts escaped.

Nothing names a color: pages of notebooks are light or dark, and everything takes their own.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

from fpemu._printing import clean

__all__ = ["Raw", "facts", "lines", "page", "strip", "table", "text"]

_BOX: Final = "color:inherit;font-size:90%;line-height:1.45;max-width:60em;overflow-x:auto"
_CELL: Final = "text-align:left;vertical-align:top;padding:0 1.2em 0 0;border:none;background:none"
_WIDTH: Final = 480
_HEIGHT: Final = 26


class Raw(str):
    """A text that is HTML already, made by this module."""


def text(value: object) -> str:
    """A value as HTML: cleaned and escaped, unless it is :class:`Raw`."""
    return value if isinstance(value, Raw) else html.escape(clean(str(value)))


def lines(value: object) -> Raw:
    """A text of several lines in a fixed width, as HTML."""
    style = "margin:0;padding:0;background:none;color:inherit;white-space:pre;line-height:1.35"
    return Raw(f'<pre style="{style}">{text(value)}</pre>')


def facts(title: str, rows: Iterable[tuple[object, object]], *, below: str = "") -> Raw:
    """A title, and rows of names and what they are.

    Parameters
    ----------
    title : str
    rows : iterable of pairs
    below : str
        HTML below the rows, as :func:`strip` makes it.

    Returns
    -------
    Raw
    """
    lines = "".join(
        f'<tr style="background:none"><th scope="row" style="{_CELL};opacity:.7;'
        f'font-weight:normal;white-space:nowrap">{text(name)}</th>'
        f'<td style="{_CELL}">{text(value)}</td></tr>'
        for name, value in rows
    )
    return Raw(
        f'<div style="{_BOX}"><div style="font-weight:bold">{text(title)}</div>'
        f'<table style="border-collapse:collapse;margin:.2em 0;border:none">'
        f"<tbody>{lines}</tbody></table>{below}</div>"
    )


def table(headings: Sequence[object], rows: Iterable[Sequence[object]]) -> Raw:
    """A table with headings, numbers to the right.

    Parameters
    ----------
    headings : sequence
    rows : iterable of sequences

    Returns
    -------
    Raw
    """

    def cell(kind: str, value: object) -> str:
        side = "right" if isinstance(value, int | float) else "left"
        return f'<{kind} style="{_CELL};text-align:{side}">{text(value)}</{kind}>'

    head = "".join(cell("th", heading) for heading in headings)
    body = "".join(f"<tr>{''.join(cell('td', value) for value in row)}</tr>" for row in rows)
    return Raw(
        f'<table style="border-collapse:collapse;border:none"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def strip(places: Iterable[float], labels: Sequence[tuple[float, str]], description: str) -> Raw:
    """A line with ticks as an SVG picture.

    Parameters
    ----------
    places : iterable of float
        Where the ticks are, from 0 to 1.
    labels : sequence of pairs of float and str
        Texts below the line, and where.
    description : str
        What the picture shows, for those who do not see it.

    Returns
    -------
    Raw
    """

    def across(place: float) -> str:
        return f"{8 + place * (_WIDTH - 16):.1f}"

    ticks = "".join(f"M{across(x)} 2v10" for x in sorted({round(x, 4) for x in places}))
    anchors = {0.0: "start", 1.0: "end"}
    words = "".join(
        f'<text x="{across(x)}" y="24" text-anchor="{anchors.get(x, "middle")}">{text(word)}</text>'
        for x, word in labels
    )
    return Raw(
        f'<svg role="img" aria-label="{text(description)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'style="width:100%;max-width:{_WIDTH}px;height:auto;display:block" fill="currentColor" '
        f'font-size="11"><title>{text(description)}</title>'
        f'<path d="{ticks}" stroke="currentColor" stroke-width="1" opacity=".75"/>'
        f'<path d="M8 12H{_WIDTH - 8}" stroke="currentColor" stroke-width="1"/>{words}</svg>'
    )


def page(title: str, body: str) -> Raw:
    """A whole page, light or dark as the reader has it.

    Parameters
    ----------
    title : str
    body : str
        HTML, as the other functions make it.

    Returns
    -------
    Raw
    """
    return Raw(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>:root{color-scheme:light dark}body{font:15px/1.4 sans-serif;margin:1.5em}"
        "td{font-variant-numeric:tabular-nums;white-space:nowrap}</style></head>"
        f"<body>{body}</body></html>"
    )
