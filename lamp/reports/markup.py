"""HTML and SVG as trees: whatever is text is escaped when they are written."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Final

__all__ = ["Child", "Element", "clean", "element", "written"]

Element = ET.Element
Child = str | Element | Iterable[str | Element | None] | None

# No HTML document may have these: control characters, and halves of characters.
_FORBIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def clean(text: str) -> str:
    """A text with a replacement character for whatever HTML forbids.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
    """
    return _FORBIDDEN.sub("\ufffd", text)


def element(tag: str, *children: Child, **attributes: str | float | None) -> Element:
    """An element.

    Parameters
    ----------
    tag : str
        Its name.
    *children : str, Element, iterable of them or None
        What is in it; strings are text, whatever they look like.
    **attributes : str, number or None
        ``class_`` is class, ``data_v`` is data-v; what is None is left out.

    Returns
    -------
    Element

    Examples
    --------
    >>> from lamp.reports.markup import element, written
    >>> written(element("td", "1 < 2", class_="n"))
    '<td class="n">1 &lt; 2</td>'
    """
    names = (name.rstrip("_").replace("_", "-") for name in attributes)
    given = zip(names, attributes.values(), strict=True)
    made = Element(tag, {name: clean(str(value)) for name, value in given if value is not None})
    for child in children:
        if child is not None:
            for part in [child] if isinstance(child, (str, Element)) else child:
                _append(made, part)
    return made


def _append(parent: Element, child: str | Element | None) -> None:
    if child is None:
        return
    if isinstance(child, Element):
        parent.append(child)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + clean(child)
    else:
        parent.text = (parent.text or "") + clean(child)


def written(tree: Element) -> str:
    """A tree as HTML.

    Parameters
    ----------
    tree : Element

    Returns
    -------
    str
    """
    return ET.tostring(tree, encoding="unicode", method="html")
