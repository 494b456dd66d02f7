"""Drawings: lines, marks, boxes and texts, each in its place, for whoever paints them.

Lengths are in units that come close to a pixel on a screen or a point on paper; y grows downward.
Colours of marks and lines are numbers: machines of a study have theirs in its order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from lamp.reports.colours import HUES

__all__ = ["SHAPES", "Box", "Drawing", "Entry", "Line", "Mark", "Shape", "Text", "hollow", "hue"]

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


def _polygon(corners: int, turned: float = 0.0, radius: float = 1.0) -> tuple[Point, ...]:
    angles = (math.radians(turned - 90) + 2 * math.pi * i / corners for i in range(corners))
    return tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)


def _star(points: int, inner: float) -> tuple[Point, ...]:
    outer = _polygon(points, radius=1.25)
    between = _polygon(points, turned=180 / points, radius=1.25 * inner)
    return tuple(point for pair in zip(outer, between, strict=True) for point in pair)


def _plus(turned: float) -> tuple[Point, ...]:
    arm, width = 1.15, 0.38
    corner = ((-width, -width), (-width, -arm), (width, -arm))
    quarters = (math.radians(turned + 90 * i) for i in range(4))
    return tuple(
        (x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle))
        for angle in quarters
        for x, y in corner
    )


SHAPES: Final[tuple[tuple[Point, ...], ...]] = (
    _polygon(24, radius=0.95),  # a circle, near enough
    _polygon(4, turned=45, radius=1.2),
    _polygon(3, radius=1.3),
    _polygon(4, radius=1.25),
    _polygon(3, turned=180, radius=1.3),
    _plus(0),
    _star(5, 0.45),
    _plus(45),
)
"""The corners of marks about the origin, of about the same area; rules of a study have theirs."""


def hue(colour: int) -> int:
    """Which of the colours a number stands for; there are fewer colours than numbers."""
    return colour % HUES


def hollow(colour: int) -> bool:
    """Whether marks are hollow and lines dashed, so that colours can be used again."""
    return colour // HUES % 2 == 1


@dataclass(frozen=True)
class Text:
    """A line of text.

    Parameters
    ----------
    x, y : float
        Where its base line begins, has its middle, or ends.
    text : str
    role : {"tick", "label", "name", "cell"}
        What it is for.
    anchor : {"start", "middle", "end"}
        What of it is at x.
    strong : bool
        Whether it stands on a strong colour.
    title : str
        More about it; empty for nothing.
    """

    x: float
    y: float
    text: str
    role: Literal["tick", "label", "name", "cell"] = "tick"
    anchor: Anchor = "start"
    strong: bool = False
    title: str = ""


@dataclass(frozen=True)
class Line:
    """A line through points.

    Parameters
    ----------
    points : tuple of (float, float)
    role : {"axis", "grid", "level", "front", "median", "path"}
        What it is for.
    colour : int, optional
        Whose it is.
    title : str
        More about it; empty for nothing.
    """

    points: tuple[Point, ...]
    role: Literal["axis", "grid", "level", "front", "median", "path"]
    colour: int | None = None
    title: str = ""


@dataclass(frozen=True)
class Mark:
    """A point.

    Parameters
    ----------
    x, y : float
    colour, shape : int
        Whose it is.
    title : str
        More about it.
    """

    x: float
    y: float
    colour: int
    shape: int
    title: str


@dataclass(frozen=True)
class Box:
    """A rectangle.

    Parameters
    ----------
    x, y, width, height : float
    strength : float, optional
        How much there is, from 0 to 1; left out, the box is a ground for other things.
    title : str
        More about it; empty for nothing.
    """

    x: float
    y: float
    width: float
    height: float
    strength: float | None = None
    title: str = ""


Shape = Text | Line | Mark | Box


@dataclass(frozen=True)
class Entry:
    """What a colour, a shape of marks or a line means.

    Parameters
    ----------
    text : str
    colour : int, optional
        Left out, that of the text.
    shape : int, optional
        Left out, it is a line.
    role : {"machine", "rule", "level", "front", "median", "path"}
        What it is about.
    """

    text: str
    colour: int | None = None
    shape: int | None = None
    role: Literal["machine", "rule", "level", "front", "median", "path"] = "machine"


@dataclass(frozen=True)
class Drawing:
    """A picture.

    Parameters
    ----------
    kind : str
        What is drawn, in a word or two that can be part of a file's name.
    title : str
        Of what it is drawn.
    summary : str
        What is to be seen, in words.
    width, height : float
    shapes : tuple of Shape
        From back to front.
    legend : tuple of Entry
        What colours and shapes mean.
    """

    kind: str
    title: str
    summary: str
    width: float
    height: float
    shapes: tuple[Shape, ...]
    legend: tuple[Entry, ...] = ()
