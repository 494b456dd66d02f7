"""``docs``: the pages of the documentation, which an installed package brings along."""

from __future__ import annotations

import json
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from fpemu._printing import console, echo, plain_table, print_table
from fpemu.cli import options

__all__ = ["docs"]

_DISTRIBUTION: Final = "fpemu-lamp"
_ABOVE: Final = Path(__file__).parents[2]  # the folder with the packages
_CHECKOUT: Final = _ABOVE / "docs"
_TARGET: Final = _ABOVE / "share" / "doc" / _DISTRIBUTION  # where pip install --target puts them
_INDEX: Final = "index"
_NOTEBOOK: Final = ".ipynb"


def docs(
    page: Annotated[
        str, typer.Argument(help="The page to read, such as tutorial; by default, list them.")
    ] = "",
) -> None:
    """List the pages of the documentation, say where they are, or show one in the terminal."""
    pages = _pages()
    if page:
        with options.usage("PAGE"):
            chosen = _chosen(pages, page.removesuffix(".md").removesuffix(_NOTEBOOK))
        _show(chosen)
        return
    table = plain_table()
    table.add_column("page", no_wrap=True)
    table.add_column("title")
    for name, path in pages.items():
        table.add_row(name, _title(path))
    print_table(table)
    echo(f"\n{pages[_INDEX].parent}")


def _pages() -> dict[str, Path]:
    """The files of all pages by name, the index first."""
    if (_CHECKOUT / "conf.py").exists():
        files = _inside(_CHECKOUT)
    else:
        recorded = metadata.files(_DISTRIBUTION) or ()
        own = [each for each in recorded if _DISTRIBUTION in each.parts]
        files = [Path(str(each.locate())).resolve() for each in own] + _inside(_TARGET)
    files.sort(key=lambda path: (path.suffix == _NOTEBOOK, path))
    found = {path.stem: path for path in files if _holds_text(path)}
    if _INDEX not in found:
        raise FileNotFoundError(
            f"the documentation is not among the files of {_DISTRIBUTION}: "
            "pip install --force-reinstall --no-deps installs it"
        )
    return {_INDEX: found.pop(_INDEX), **found}


def _inside(folder: Path) -> list[Path]:
    """The pages and the notebooks in a folder."""
    return [*folder.glob("*.md"), *folder.glob(f"notebooks/*{_NOTEBOOK}")]


def _holds_text(path: Path) -> bool:
    """Whether a page is more than a table of names, as those of the references are."""
    text = _text(path) if path.is_file() else ""
    return text.startswith("# ") and "```{names}" not in text


def _title(path: Path) -> str:
    title = _text(path).partition("\n")[0].removeprefix("# ")
    return f"Notebook: {title}" if path.suffix == _NOTEBOOK else title


def _text(path: Path) -> str:
    """A page or a notebook as Markdown."""
    text = path.read_text(encoding="utf-8")
    return _of_notebook(json.loads(text)) if path.suffix == _NOTEBOOK else text


def _of_notebook(notebook: dict[str, Any]) -> str:
    """The text, the code and the outputs of a notebook, as Markdown."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(_block(source, "python") if cell["cell_type"] == "code" else source)
        parts += map(_output, cell.get("outputs", ()))
    return "\n\n".join(parts)


def _output(output: dict[str, Any]) -> str:
    """An output of a cell; a picture in words."""
    text = output.get("text") or output.get("data", {}).get("text/plain")
    return _block("".join(text), "text") if text else "*(a picture, which Jupyter shows)*"


def _block(text: str, language: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def _chosen(pages: dict[str, Path], name: str) -> Path:
    if name not in pages:
        raise ValueError(f"no page {name!r}: expected one of {', '.join(pages)}")
    return pages[name]


def _show(page: Path) -> None:
    from rich.markdown import Markdown

    text = _text(page)
    screen = console()
    with screen.pager(styles=True) if screen.is_terminal else nullcontext():
        screen.print(Markdown(text))
