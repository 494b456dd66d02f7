"""The directive ``{names}``: what the pages below a page document, in tables of names."""

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.addnodes import desc, desc_content, desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Names(nodes.General, nodes.Element):
    """Stands where the tables will be, until all pages are read."""


class Directive(SphinxDirective):
    """The directive, without arguments; the pages are those of the page's table of contents."""

    def run(self) -> list[nodes.Node]:
        """The place of the tables, on a page that is read at each build, as others change it."""
        self.env.note_reread()
        return [Names()]


def entries(page: nodes.document) -> Iterator[tuple[desc_signature, list[nodes.Node]]]:
    """The signatures of a page that are no members of another, with the first line of each text."""
    for entry in page.findall(desc):
        if entry["domain"] != "py" or isinstance(entry.parent, desc_content):
            continue
        content = next(entry.findall(desc_content)).deepcopy()
        for reference in list(content.findall(pending_xref)):
            reference.replace_self(reference.children)
        summary = next((each for each in content if isinstance(each, nodes.paragraph)), None)
        signature = next(entry.findall(desc_signature))
        yield signature, [] if summary is None else summary.children


def name(signature: desc_signature) -> str:
    """The name by which a program has it."""
    return f"{signature['module']}.{signature['fullname']}"


def code(text: str) -> nodes.literal:
    """A name that breaks behind its dots and underscores where a line is too short for it."""
    first, *others = re.split(r"(?<=\.)|(?<=[^._]_)(?=[^_])", text)
    found = nodes.literal("", "", nodes.Text(first))
    for part in others:
        found += [nodes.raw("", "<wbr>", format="html"), nodes.Text(part)]
    return found


def link(text: nodes.Node, uri: str) -> nodes.paragraph:
    """A paragraph that is a link."""
    return nodes.paragraph("", "", nodes.reference("", "", text, internal=True, refuri=uri))


def row(*cells: nodes.Node) -> nodes.row:
    """A row of a table."""
    return nodes.row("", *(nodes.entry("", cell) for cell in cells))


def table(rows: list[nodes.row]) -> nodes.table:
    """A table of two columns without a head."""
    widths = (nodes.colspec(colwidth=width) for width in (1, 3))
    group = nodes.tgroup("", *widths, nodes.tbody("", *rows), cols=2)
    return nodes.table("", group, classes=["names"])


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the tables in their places."""
    for place in list(doctree.findall(Names)):
        found: list[nodes.Node] = []
        for page in app.env.toctree_includes.get(docname, ()):
            uri = app.builder.get_relative_uri(docname, page)
            rows = [
                row(
                    link(code(name(signature)), f"{uri}#{signature['ids'][0]}"),
                    nodes.paragraph("", "", *summary),
                )
                for signature, summary in entries(app.env.get_doctree(page))
            ]
            found.append(nodes.rubric("", "", *link(nodes.Text(str(app.env.titles[page][0])), uri)))
            found += [table(rows)] if rows else []
        place.replace_self(found)


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer it to Sphinx."""
    app.add_node(Names)
    app.add_directive("names", Directive)
    app.connect("doctree-resolved", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
