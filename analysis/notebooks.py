"""Run the notebooks of the documentation anew, and keep their outputs in them.

    python analysis/notebooks.py [NOTEBOOK ...]

The cells of a notebook run in order, in one module and in this process: no kernel, no ports, and
kernels that are compiled already.  What a cell prints, its last value and its pictures are its
outputs, as in Jupyter.  The same code gives the same bytes: pictures are SVG files without a date,
and carry the SHA-256 of the numbers that they show.  Tests run the notebooks too, and compare.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import io
import linecache
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from nbformat import NotebookNode
from nbformat.v4 import new_output

FOLDER: Final = Path(__file__).parents[1] / "docs" / "notebooks"
PICTURES: Final = {"svg.hashsalt": "fpemu-lamp", "figure.constrained_layout.use": True}

Paint = Callable[[Figure], dict[str, str]]


def notebooks() -> list[Path]:
    """The files of all notebooks."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    """A notebook from its file."""
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells of a notebook that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def svg(figure: Figure) -> dict[str, str]:
    """A picture, as an output has it."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    return {"image/svg+xml": written.getvalue()}


def shown(figure: Figure) -> str:
    """The SHA-256 of the numbers that a picture shows, to five digits."""
    numbers: list[Any] = []
    for axes in figure.axes:
        numbers += [line.get_xydata() for line in axes.lines]
        numbers += [patch.get_path().vertices for patch in axes.patches]
        numbers += [patch.get_patch_transform().get_matrix() for patch in axes.patches]
        for group in axes.collections:
            numbers += [group.get_offsets(), *(path.vertices for path in group.get_paths())]
        numbers += [image.get_array() for image in axes.images]
    text = " ".join(f"{x:.5g}" for part in numbers for x in np.ravel(np.ma.filled(part, np.nan)))
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def workplace(name: str) -> Iterator[dict[str, Any]]:
    """The names that the cells of a notebook share."""
    module = sys.modules[name] = types.ModuleType(name)
    try:
        with mock.patch.dict(os.environ, COLUMNS="80"), matplotlib.rc_context():
            matplotlib.use("agg")
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(PICTURES)
            yield module.__dict__
    finally:
        plt.close("all")
        del sys.modules[name]


def result(source: str, name: str, names: dict[str, Any]) -> Any:
    """Run a cell: the value of its last line, unless that is a statement or ends with a ``;``."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    body = ast.parse(source, name).body
    last = body.pop() if isinstance(body[-1], ast.Expr) and source[-1] != ";" else None
    exec(compile(ast.Module(body, []), name, "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), name, "eval"), names)


def outputs(source: str, name: str, names: dict[str, Any], paint: Paint) -> list[NotebookNode]:
    """Run a cell: its outputs."""
    found = []
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        value = result(source, name, names)
    if printed.getvalue():
        found.append(new_output("stream", name="stdout", text=printed.getvalue()))
    if value is not None:
        data, metadata = DisplayFormatter().format(value)
        found.append(new_output("execute_result", data=data, metadata=metadata))
    for number in plt.get_fignums():
        figure = plt.figure(number)
        picture = {"numbers": shown(figure)}
        found.append(new_output("display_data", data=paint(figure), metadata=picture))
        plt.close(figure)
    return found


def run(path: Path, paint: Paint = svg) -> list[list[NotebookNode]]:
    """Run a notebook: the outputs of each of its cells of code."""
    name = f"notebook_{path.stem.replace('-', '_')}"
    with workplace(name) as names:
        return [
            outputs(cell.source, f"<{path.name}, cell {number}>", names, paint)
            for number, cell in enumerate(code(read(path)), 1)
        ]


def keep(path: Path) -> None:
    """Run a notebook, and keep its outputs in its file."""
    notebook = read(path)
    for number, (cell, found) in enumerate(zip(code(notebook), run(path), strict=True), 1):
        for each in found:
            if each.output_type == "execute_result":
                each.execution_count = number
        cell.outputs, cell.execution_count = found, number
    nbformat.write(notebook, path)


def main() -> None:
    """Run the notebooks that the command names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("notebook", nargs="*", type=Path, help="a notebook; by default, all")
    for path in parser.parse_args().notebook or notebooks():
        keep(path.resolve())
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
