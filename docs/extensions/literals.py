"""Code within text: short words, such as options, do not break at the end of a line."""

from typing import Final

from docutils import nodes
from sphinx.application import Sphinx

_SHORT: Final = 20  # letters


def mark(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give short words in code a class of their own; the style sheet keeps them whole."""
    for each in doctree.findall(nodes.literal):
        text = each.astext()
        if len(text) <= _SHORT and " " not in text:
            each["classes"].append("short")


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer it to Sphinx."""
    app.connect("doctree-resolved", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
