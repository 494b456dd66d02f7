"""Formulas as MathML, which browsers show by themselves: no script, no font, no picture."""

import html
import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_log = logging.getLogger(__name__)

# docutils takes a subscript right behind an accent for a limit below it, and gives bars no sides.
_ACCENT = re.compile(r"(\\hat\{\w\})(?=[_^])")
_LEFT = re.compile(r"\\l([vV])ert\b")
_RIGHT = re.compile(r"\\r([vV])ert\b")
# docutils takes all digits, and then the next word, for the parts of a fraction without braces.
_BARE_FRACTION = re.compile(r"\\[td]?frac\s*[^{\s]")


def mathml(node: nodes.math | nodes.math_block, *, block: bool) -> str:
    """A formula as MathML, or as it is written with a warning."""
    tex = node.astext()
    if _BARE_FRACTION.search(tex):
        _log.warning("a fraction without braces in %r", tex, location=node)
    formula = _ACCENT.sub(r"\1{}", _RIGHT.sub(r"\\right\\\1ert", _LEFT.sub(r"\\left\\\1ert", tex)))
    try:
        return tex2mathml(formula, as_block=block)
    except MathError as error:
        _log.warning("%s in %r", error, tex, location=node)
        return html.escape(tex)


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def _displayed(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="formula", tabindex=0))
    self.body.append(mathml(node, block=True))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer it to Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
