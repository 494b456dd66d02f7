"""Docstrings as they are written: cross references by short names, headings in modules."""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

_UNDERLINE = re.compile(r"-{3,}")


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """The one object in the package that has a name, where no module is named.

    What is public is documented under the name that users have for it, such as ``lamp.LAMP``, but
    speaks of its neighbours by the names that they have in the module it is from.
    """
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    package = (node.get("py:module") or "").partition(".")[0] + "."
    ending = "." + node["reftarget"]
    kinds = domain.objtypes_for_role(node["reftype"]) or []
    found = [
        name
        for name, entry in domain.objects.items()
        if name.startswith(package)
        and name.endswith(ending)
        and entry.objtype in kinds
        and not entry.aliased
    ]
    if len(found) != 1:
        return None
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], found[0], node, content
    )


def soften(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Put a module's name before its docstring, whose headings are no sections of the page."""
    if what != "module":
        return
    for place in range(len(lines) - 1, 0, -1):
        if _UNDERLINE.fullmatch(lines[place]):
            lines[place - 1 : place + 1] = [f".. rubric:: {lines[place - 1]}", ""]
    lines[:0] = [f".. rubric:: :code:`{name}`", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer it to Sphinx."""
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", soften)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
