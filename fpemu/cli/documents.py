"""``docs``: the pages of the documentation, which an installed package brings along."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final

import typer

from fpemu._printing import console, echo, plain_table, print_table
from fpemu.cli import options

__all__ = ["docs"]

_DISTRIBUTION: Final = "fpemu-lamp"
_ABOVE: Final = Path(__file__).parents[2]  # the folder with the packages
_CHECKOUT: Final = _ABOVE / "docs"
_TARGET: Final = _ABOVE / "share" / "doc" / _DISTRIBUTION  # where pip install --target puts them
_INDEX: Final = "index"


def docs(
    page: Annotated[
        str, typer.Argument(help="The page to read, such as tutorial; by default, list them.")
    ] = "",
) -> None:
    """List the pages of the documentation, say where they are, or show one in the terminal."""
    pages = _pages()
    if page:
        with options.usage("PAGE"):
            chosen = _chosen(pages, page.removesuffix(".md"))
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
        files = [*_CHECKOUT.glob("*.md")]
    else:
        recorded = metadata.files(_DISTRIBUTION) or ()
        files = [Path(str(each.locate())).resolve() for each in recorded if each.suffix == ".md"]
        files += _TARGET.glob("*.md")
    found = {path.stem: path for path in sorted(files) if _holds_text(path)}
    if _INDEX not in found:
        raise FileNotFoundError(
            f"the documentation is not among the files of {_DISTRIBUTION}: "
            "pip install --force-reinstall --no-deps installs it"
        )
    return {_INDEX: found.pop(_INDEX), **found}


def _holds_text(path: Path) -> bool:
    """Whether a page is more than a table of names, as those of the references are."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text.startswith("# ") and "```{names}" not in text


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _chosen(pages: dict[str, Path], name: str) -> Path:
    if name not in pages:
        raise ValueError(f"no page {name!r}: expected one of {', '.join(pages)}")
    return pages[name]


def _show(page: Path) -> None:
    from rich.markdown import Markdown

    text = page.read_text(encoding="utf-8")
    screen = console()
    with screen.pager(styles=True) if screen.is_terminal else nullcontext():
        screen.print(Markdown(text))
