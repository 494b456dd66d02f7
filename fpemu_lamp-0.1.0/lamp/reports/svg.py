"""Figures as SVG within a page, whose style sheet gives colors and type.

matplotlib's SVG is a document of its own.  Within a page its colors become the variables of the
page's themes, its letters those of the page, and its groups classes that the page's script picks
out; marks get tooltips, and nothing has an id or refers to one.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

from fpemu._printing import clean
from fpemu.pictures.colors import LIGHT
from lamp.reports import figures
from lamp.reports.figures import Entry, Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["picture", "swatch"]

_LETTERS: Final = 15.5  # figures are laid out for the largest letters of the page, a phone's
_SWATCH: Final = 16 / 72  # inches
_NAMES: Final = {value: f"var(--{name})" for name, value in LIGHT.items()}
_DIGITS: Final = re.compile(r"(\d+\.\d)\d+")  # a tenth of a unit is enough
_FINE: Final = re.compile(r"(\d+\.\d\d)\d+")  # and a hundredth of opacities and widths
_ENDS: Final = ("", "-opacity", "-width", "-dasharray")
_STYLES: Final = ("fill", "fill-opacity", *(f"stroke{end}" for end in _ENDS))
_TICKS: Final = re.compile("[xy]tick_")

_Marked = Mapping[str, tuple[str, Sequence[str]]]


def picture(drawn: Picture) -> str:
    """A figure as an element of a page."""
    with figures.style(_LETTERS):
        sheet = drawn.draw()
        summary = clean(f"{drawn.title}. {drawn.summary}.")
        attributes = {"class": f"chart {drawn.kind}", "role": "img", "aria-label": summary}
        return _written(sheet.figure, attributes, sheet.marked)


@cache
def swatch(entry: Entry) -> str:
    """A sample of what an entry of a legend is about, as an element of a page."""
    from matplotlib.figure import Figure

    with figures.style(_LETTERS):
        figure = Figure(figsize=(_SWATCH, _SWATCH), dpi=72, facecolor="none")
        figure.add_artist(figures.handle(entry))
        return _written(figure, {"class": "swatch", "aria-hidden": "true"}, {})


def _written(figure: Figure, attributes: Mapping[str, str], marked: _Marked) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    root = ET.fromstring(file.getvalue())
    shapes = {node.get("id", ""): node.get("d", "") for node in root.iter() if node.get("d")}
    made = ET.Element("svg", {"viewBox": root.attrib["viewBox"], **attributes})
    made.extend(_inside(root, marked, shapes))
    return ET.tostring(made, encoding="unicode", method="html")


def _inside(node: ET.Element, marked: _Marked, shapes: Mapping[str, str]) -> Iterator[ET.Element]:
    """What is seen of an element; groups stay if they have a meaning."""
    for child in node:
        tag, name = child.tag.rpartition("}")[2], child.get("id", "")
        if tag == "g":
            inside = list(_inside(child, marked, shapes))
            classes, tooltips = marked.get(name, ("tick" if _TICKS.match(name) else "", ()))
            yield from [_group(classes, inside, tooltips)] if classes and inside else inside
        elif tag in ("path", "use", "text") and (part := _part(child, tag, shapes)) is not None:
            yield part


def _group(classes: str, inside: Sequence[ET.Element], tooltips: Sequence[str]) -> ET.Element:
    """Parts with their tooltips."""
    made = ET.Element("g", {"class": classes})
    made.extend(inside)
    styles = {part.get("style", "") for part in inside}
    alike = len(styles) == 1 and inside[0].tag == "path"
    if alike or classes == "tick":
        for part in inside:
            part.attrib.pop("style", None)
    if alike and classes != "tick":
        made.set("style", styles.pop())
    for part, text in zip(inside if len(tooltips) > 1 else [made], tooltips, strict=bool(tooltips)):
        title = ET.Element("title")
        title.text = clean(text)
        part.insert(0, title)
    if tooltips and "fill:none" in made.get("style", ""):  # a wide line is easier to point at
        made.append(ET.Element("path", {"d": inside[0].get("d", ""), "class": "wide"}))
    return made


def _part(node: ET.Element, tag: str, shapes: Mapping[str, str]) -> ET.Element | None:
    """A shape or a text; None if it cannot be seen."""
    given = [pair.partition(":")[::2] for pair in node.get("style", "").split(";")]
    style = {name.strip(): _NAMES.get(value.strip(), value.strip()) for name, value in given}
    attributes = {name: node.get(name) for name in ("d", "x", "y", "transform")}
    if tag == "text":
        named = style.get("fill", "").startswith("var(")  # else it has the ink of its class
        attributes |= {"text-anchor": style.get("text-anchor"), "transform": None}
        attributes["style"] = f"fill:{style['fill']}" if named else None
    elif style.get("fill") == "none" and "stroke" not in style:
        return None
    else:
        attributes["style"] = ";".join(f"{name}:{style[name]}" for name in _STYLES if name in style)
    if tag == "use":
        (name,) = (value[1:] for key, value in node.attrib.items() if key.endswith("href"))
        x, y = attributes.pop("x") or 0, attributes.pop("y") or 0
        attributes |= {"d": shapes[name], "transform": f"translate({x} {y})"}
    made = ET.Element("text" if tag == "text" else "path")
    made.text = node.text if tag == "text" else None
    for key, value in attributes.items():
        if value is not None:
            digits = _FINE if key == "style" else _DIGITS
            made.set(key, " ".join(digits.sub(r"\1", value).split()))
    return made
