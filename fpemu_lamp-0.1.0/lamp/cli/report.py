"""The subcommand `lamp report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpemu import _printing as printing
from fpemu._printing import echo
from lamp._files import writing

if TYPE_CHECKING:
    from lamp.reports import Results


def report(
    store: Annotated[Path, typer.Argument(help="The SQLite file of a sweep.", metavar="STORE")],
    study: Annotated[
        str | None, typer.Option(help="Report this study only.", metavar="NAME")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The HTML file.  By default, the store's name with the ending .html.",
            metavar="FILE",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="Also write all runs and scores of tasks to a CSV file, one per row.",
            metavar="FILE",
        ),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(help="The same to a Parquet file.  Needs pyarrow.", metavar="FILE"),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(
            help="Also write the tables to a file, in LaTeX (.tex) or Markdown (.md).",
            metavar="FILE",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(help="Also write the charts into a folder, as PNG pictures.", metavar="DIR"),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="The same as SVG pictures.", metavar="DIR")
    ] = None,
    pdf: Annotated[
        Path | None, typer.Option(help="The same as PDF pictures.", metavar="DIR")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Write the results of a sweep as an HTML page, and as CSV, Parquet, tables or pictures.

    What was found is also told in a few sentences.
    """
    from lamp import reports

    page = store.with_suffix(".html") if output is None else output
    try:
        studies = reports.read(store, study)
    except LookupError as error:
        raise typer.BadParameter(str(error.args[0]), param_hint="--study") from error
    if tables is not None and tables.suffix not in reports.TABLE_KINDS:
        message = f"{str(tables)!r} must end in one of {', '.join(reports.TABLE_KINDS)}"
        raise typer.BadParameter(message, param_hint="--tables")
    _check({"--output": page, "--csv": csv, "--parquet": parquet, "--tables": tables}, store)
    for path, write in (
        (parquet, reports.write_parquet),
        (csv, reports.write_csv),
        (tables, reports.write_tables),
        (page, reports.write_page),
    ):
        if path is not None:
            write(studies, path)
            echo(f"{path}: {_described(path)}")
    for kind, folder in (("png", png), ("svg", svg), ("pdf", pdf)):
        if folder is not None:
            pictures = reports.write_pictures(studies, folder, kind)
            echo(f"{folder}: {len(pictures)} pictures")
    _tell(studies)
    if show:
        _open(page)


def _tell(studies: Sequence[Results]) -> None:
    """Print what each study has found; of tuning, only its result."""
    from lamp import reports

    console = printing.console()
    for study in studies:
        sentences = [] if study.is_stage else reports.story(study)
        title = f"{study.name}: " if len(studies) > 1 else ""
        for sentence in sentences:
            console.print(f"\n{title}{sentence}")


def _check(paths: dict[str, Path | None], store: Path) -> None:
    """Check that no file is written twice, and none over the store."""
    taken = {store.resolve(): "the store"}
    for option, path in paths.items():
        if path is not None:
            place = writing.check(path)  # of all, before the first is written
            if place in taken:
                message = f"{str(path)!r} is {taken[place]}: name another file"
                raise typer.BadParameter(message, param_hint=option)
            taken[place] = f"the file of {option}"


def _described(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        raise OSError(f"no browser could be started to open {page}")
