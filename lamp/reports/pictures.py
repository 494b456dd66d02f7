"""Drawings as PNG pictures, painted by matplotlib: what the page shows, with title and legend."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lamp.reports.colours import LIGHT
from lamp.reports.drawing import (
    SHAPES,
    Box,
    Drawing,
    Entry,
    Line,
    Mark,
    Shape,
    Text,
    hollow,
    hue,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["file_name", "png"]

_DPI: Final = 160
_POINTS: Final = 72  # to an inch: a unit of a drawing is one
_EDGE: Final = 16.0
_TITLE: Final = 30.0  # the height of a title
_ENTRY: Final = 16.0  # the height of a line of the legend
_LETTER: Final = 5.6  # the width of a letter of the legend, at most
_RADIUS: Final = 4.2
_LONGEST: Final = 60  # letters of a file's name that come from a label

_SIZES: Final = {"tick": 9.0, "label": 9.0, "name": 9.0, "cell": 8.0}
_ALIGNED: Final = {"start": "left", "middle": "center", "end": "right"}
_WIDTHS: Final = {
    "axis": 0.8,
    "grid": 0.7,
    "level": 1.4,
    "front": 0.9,
    "median": 1.3,
    "path": 1.8,
}


def file_name(study: str, drawing: Drawing, taken: Iterable[Path] = ()) -> str:
    """What a file with a picture may be called, whatever labels look like.

    Parameters
    ----------
    study : str
    drawing : Drawing
    taken : iterable of Path
        Files whose names it may not have.

    Returns
    -------
    str
    """
    name = "-".join(map(_plain, (study, drawing.kind, drawing.title)))
    names = {path.name for path in taken}
    candidates = (f"{name}{f'-{i}' if i > 1 else ''}.png" for i in itertools.count(1))
    return next(candidate for candidate in candidates if candidate not in names)


def _plain(label: str) -> str:
    return re.sub(r"[^\w.]+", "-", label).strip("-.")[:_LONGEST].lower() or "unnamed"


def png(drawing: Drawing, caption: str = "") -> bytes:
    """A drawing as a picture.

    Parameters
    ----------
    drawing : Drawing
    caption : str
        Stands before its title.

    Returns
    -------
    bytes
        PNG; the same for the same drawing.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    legend = _lines(drawing.legend)
    beside = max((24 + _LETTER * len(entry.text) for entry in drawing.legend), default=0.0)
    width = drawing.width + (2 if legend else 1) * _EDGE + beside + _EDGE
    height = max(drawing.height, _ENTRY * len(legend)) + _TITLE + 2 * _EDGE
    # Text is what it says: no part of a label is a formula.
    with rc_context({"font.family": "sans-serif", "text.parse_math": False}):
        figure = Figure(figsize=(width / _POINTS, height / _POINTS), dpi=_DPI)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-_EDGE, width - _EDGE), ylim=(height - _EDGE - _TITLE, -_EDGE - _TITLE))
        axes.set_axis_off()
        figure.set_facecolor(LIGHT["paper"])
        title = f"{caption} · {drawing.title}" if caption else drawing.title
        axes.text(0, -18, _shown(title), size=11, weight="bold", color=LIGHT["ink"])
        for order, shape in enumerate(drawing.shapes):
            _paint(axes, shape, order)
        for i, entry in enumerate(legend):
            if entry is not None:
                _explain(axes, entry, drawing.width + _EDGE, 20 + _ENTRY * i)
        written = io.BytesIO()
        figure.savefig(written, format="png", dpi=_DPI, metadata={"Software": None})
    return written.getvalue()


def _lines(legend: Sequence[Entry]) -> list[Entry | None]:
    """The entries of a legend, with an empty line where they begin to be about something else."""
    found: list[Entry | None] = []
    for entry in legend:
        previous = found[-1] if found else None
        if previous is not None and (previous.colour is None) != (entry.colour is None):
            found.append(None)
        found.append(entry)
    return found


def _shown(text: str) -> str:
    """A text without characters that fonts have no glyph for."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _colour(number: int | None) -> str:
    return LIGHT["soft"] if number is None else LIGHT[f"c{hue(number)}"]


def _paint(axes: Axes, shape: Shape, order: int) -> None:
    match shape:
        case Text():
            _text(axes, shape, order)
        case Line():
            xs, ys = zip(*shape.points, strict=True)
            axes.plot(xs, ys, zorder=order, **_style(shape.role, shape.colour))
        case Mark():
            _mark(axes, shape.x, shape.y, shape.colour, shape.shape, order)
        case Box():
            _box(axes, shape, order)


def _text(axes: Axes, text: Text, order: int) -> None:
    ink = "paper" if text.strong else "ink" if text.role in ("name", "cell") else "soft"
    axes.text(
        text.x,
        text.y,
        _shown(text.text),
        size=_SIZES[text.role],
        color=LIGHT[ink],
        horizontalalignment=_ALIGNED[text.anchor],
        verticalalignment="baseline",
        zorder=order,
    )


def _style(role: str, colour: int | None) -> dict[str, Any]:
    """How a line looks."""
    again = colour is not None and hollow(colour)
    style: Any = "-"
    if role == "level":
        style = (0, (1, 5)) if again else (0, (1, 2))
    elif again and role in ("front", "path"):
        style = (0, (5, 3))
    ink = {"grid": LIGHT["line"], "median": LIGHT["ink"]}.get(role, _colour(colour))
    return {"color": ink, "linewidth": _WIDTHS[role], "linestyle": style}


def _mark(axes: Axes, x: float, y: float, colour: int | None, shape: int, order: int) -> None:
    from matplotlib.patches import Polygon

    empty = colour is not None and hollow(colour)
    ink, paper = _colour(colour), LIGHT["paper"]
    corners = [(x + _RADIUS * a, y + _RADIUS * b) for a, b in SHAPES[shape % len(SHAPES)]]
    axes.add_patch(
        Polygon(
            corners,
            facecolor=paper if empty else ink,
            edgecolor=ink if empty else paper,
            linewidth=1.3 if empty else 0.7,
            zorder=order,
        )
    )


def _box(axes: Axes, box: Box, order: int) -> None:
    from matplotlib.patches import Rectangle

    ground = box.strength is None
    axes.add_patch(
        Rectangle(
            (box.x, box.y),
            box.width,
            box.height,
            facecolor=LIGHT["pale"] if ground else (LIGHT["accent"], box.strength),
            edgecolor="none" if ground else LIGHT["line"],
            linewidth=0.4,
            zorder=order,
        )
    )


def _explain(axes: Axes, entry: Entry, x: float, y: float) -> None:
    """A line of the legend."""
    if entry.role == "machine" or entry.shape is not None:
        _mark(axes, x + 8, y, entry.colour, entry.shape or 0, 0)
    else:
        axes.plot([x, x + 16], [y, y], **_style(entry.role, entry.colour))
    axes.text(x + 24, y, _shown(entry.text), size=9, color=LIGHT["ink"], verticalalignment="center")
