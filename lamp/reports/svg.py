"""Drawings as SVG within a page, whose style sheet gives colours and type."""

from __future__ import annotations

from typing import Final

from lamp.reports.drawing import SHAPES, Box, Drawing, Entry, Line, Mark, Shape, Text, hollow, hue
from lamp.reports.markup import Element, element

__all__ = ["picture", "swatch", "symbols"]

_RADIUS: Final = 4.2


def _number(value: float) -> str:
    """A length to a tenth."""
    return f"{value:.1f}".removesuffix(".0").replace("-0.", "-.").removeprefix("-.0")


def symbols() -> Element:
    """The shapes of marks, which pictures of the same page refer to.

    Returns
    -------
    Element
        Takes no room.
    """
    paths = (
        element("path", id=f"s{i}", d=f"M{_path(corners, _RADIUS)}z")
        for i, corners in enumerate(SHAPES)
    )
    return element(
        "svg", element("defs", *paths), width=0, height=0, class_="symbols", aria_hidden="true"
    )


def _path(points: tuple[tuple[float, float], ...], size: float = 1.0) -> str:
    return " ".join(f"{size * x:.2f},{size * y:.2f}" for x, y in points)


def picture(drawing: Drawing) -> Element:
    """A drawing.

    Parameters
    ----------
    drawing : Drawing

    Returns
    -------
    Element
        As wide as there is room for.
    """
    return element(
        "svg",
        [_painted(shape) for shape in drawing.shapes],
        class_=f"chart {drawing.kind}",
        viewBox=f"0 0 {_number(drawing.width)} {_number(drawing.height)}",
        role="img",
        aria_label=f"{drawing.title}. {drawing.summary}.",
    )


def _painted(shape: Shape) -> Element:
    match shape:
        case Text():
            return _text(shape)
        case Line():
            return _line(shape)
        case Mark():
            return _mark(shape)
        case Box():
            return _box(shape)


def _title(text: str) -> Element | None:
    return element("title", text) if text else None


def _kind(colour: int | None) -> str:
    """Classes for the colour of a mark or line, and for whose it is."""
    if colour is None:
        return ""
    return f" k{hue(colour)} m{colour}{' h' if hollow(colour) else ''}"


def _text(text: Text) -> Element:
    return element(
        "text",
        text.text,
        _title(text.title),
        x=_number(text.x),
        y=_number(text.y),
        class_=f"{text.role}{' strong' if text.strong else ''}",
        text_anchor=None if text.anchor == "start" else text.anchor,
    )


def _line(line: Line) -> Element:
    if len(line.points) == 2:
        (x1, y1), (x2, y2) = line.points
        place = {"x1": _number(x1), "y1": _number(y1), "x2": _number(x2), "y2": _number(y2)}
        shape = "line"
    else:
        place = {"points": " ".join(f"{_number(x)},{_number(y)}" for x, y in line.points)}
        shape = "polyline"
    style = f"{line.role}{_kind(line.colour)}"
    if not line.title:
        return element(shape, class_=style, **place)
    # What a pointer can hit is wider than what is seen.
    wide = element(shape, class_="wide", **place)
    return element("g", _title(line.title), wide, element(shape, **place), class_=style)


def _mark(mark: Mark) -> Element:
    return element(
        "use",
        _title(mark.title),
        href=f"#s{mark.shape % len(SHAPES)}",
        x=_number(mark.x),
        y=_number(mark.y),
        class_=f"mark{_kind(mark.colour)} r{mark.shape}",
    )


def _box(box: Box) -> Element:
    return element(
        "rect",
        _title(box.title),
        x=_number(box.x),
        y=_number(box.y),
        width=_number(box.width),
        height=_number(box.height),
        class_="ground" if box.strength is None else "cell",
        fill_opacity=None if box.strength is None else f"{box.strength:.2f}",
    )


def swatch(entry: Entry) -> Element:
    """A sample of what an entry of a legend is about.

    Parameters
    ----------
    entry : Entry

    Returns
    -------
    Element
    """
    if entry.role == "machine":
        shape = element("circle", cx=8, cy=8, r=5, class_=f"mark{_kind(entry.colour)}")
    elif entry.shape is not None:
        place = f"#s{entry.shape % len(SHAPES)}"
        shape = element("use", href=place, x=8, y=8, class_="mark plain")
    else:
        style = f"{entry.role}{_kind(entry.colour)}"
        shape = element("line", x1=0, x2=16, y1=8, y2=8, class_=style)
    return element("svg", shape, class_="swatch", viewBox="0 0 16 16", aria_hidden="true")
