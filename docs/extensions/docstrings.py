"""Docstrings as they are written: cross references by short names, headings in modules."""

import inspect
import re
from importlib import import_module
from typing import Any

from docutils import nodes
from jinja2 import PackageLoader
from jinja2.sandbox import SandboxedEnvironment
from numpydoc import docscrape_sphinx
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from fpemu._listing import Listed

_UNDERLINE = re.compile(r"-{3,}")
_INITIAL = re.compile(r"^( *)(?=[A-Z]\. [A-Z])")
_CONSTANT = re.compile(r"(?<==)_[A-Z_]+\b")
_PACKAGES = ("fpemu", "lamp")


def documented(name: str) -> Any:
    """The object that a documented name stands for."""
    module, _, attributes = name, "", ""
    while True:
        try:
            found: Any = import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            attributes = f"{last}.{attributes}"
    for attribute in filter(None, attributes.split(".")):
        found = getattr(found, attribute, name)
    return found


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """The object in the package that has a name, where the name alone does not lead to it.

    What is public is documented under the name that users have for it, such as ``lamp.LAMP``, or
    in its wing, such as ``lamp.machines.names``.  Docstrings speak of their neighbors by short
    names, and pages by the names that the package hands on, such as ``lamp.compositions.Softmax``.
    """
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    first, _, rest = node["reftarget"].partition(".")
    package = first if first in _PACKAGES else (node.get("py:module") or "").partition(".")[0]
    ending = f".{rest if first in _PACKAGES else node['reftarget']}"
    kinds = domain.objtypes_for_role(node["reftype"]) or []
    found = [
        name
        for name, entry in domain.objects.items()
        if name.startswith(f"{package}.")
        and name.endswith(ending)
        and entry.objtype in kinds
        and not entry.aliased
    ]
    if not found or any(documented(name) is not documented(found[0]) for name in found):
        return None
    name = min(found, key=len)
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], name, node, content
    )


def soften(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Put a module's name before its docstring, whose headings are no sections of the page."""
    if what != "module":
        return
    for place in range(len(lines) - 1, 0, -1):
        if _UNDERLINE.fullmatch(lines[place]):
            lines[place - 1 : place + 1] = [f".. rubric:: {lines[place - 1]}", ""]
    lines[:0] = [f".. rubric:: :code:`{name}`", ""]


def silence(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Leave out the text of a constant's type, which says nothing of the constant."""
    text = inspect.getdoc(type(obj))
    if what == "data" and text and lines and lines[0].split() == text.split("\n")[0].split():
        lines.clear()


def initials(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep a line that begins with an author's initial from being an item of a numbered list."""
    lines[:] = [_INITIAL.sub(r"\1\\", line) for line in lines]


def shown(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Put the value of a private constant in place of its name, where it is a default."""
    if not signature or not _CONSTANT.search(signature):
        return None
    constants = vars(import_module(obj.__module__))
    return _CONSTANT.sub(lambda found: repr(constants[found[0]]), signature), returns


def is_field(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which their class describes as parameters."""
    return True if (inspect.getdoc(obj) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer it to Sphinx."""
    del Listed.__dir__  # the pages have all methods
    # numpydoc would compile its template anew for each docstring, a tenth of the time.
    environment = SandboxedEnvironment(loader=PackageLoader("numpydoc"))
    docscrape_sphinx.SandboxedEnvironment = lambda loader: environment
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", soften)
    app.connect("autodoc-process-docstring", initials)
    app.connect("autodoc-process-signature", shown)
    app.connect("autodoc-skip-member", is_field)
    app.connect("autodoc-process-docstring", silence, priority=400)  # before numpydoc
    return {"parallel_read_safe": True, "parallel_write_safe": True}
