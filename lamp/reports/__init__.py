"""Reports of stores: one HTML page, and the same as files.

The same store gives the same bytes.  Files are written whole or not at all.

Examples
--------
>>> from pathlib import Path
>>> from lamp import reports
>>> studies = reports.read("study.sqlite")  # doctest: +SKIP
>>> reports.write_page(studies, Path("study.html"))  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lamp._files import writing
from lamp.reports import console
from lamp.reports.results import Results

# What draws and what fills templates is imported where it is used: commands that only print
# tables do without.

__all__ = [
    "Results",
    "console",
    "read",
    "write_csv",
    "write_page",
    "write_parquet",
    "write_pictures",
]


def read(store: str | os.PathLike[str], study: str | None = None) -> list[Results]:
    """The studies of a store and their runs.

    Parameters
    ----------
    store : str or path-like
        The store's file.
    study : str, optional
        The name of one study; all of them if it is left out.

    Returns
    -------
    list of Results
        By name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    LookupError
        If there is no such study; the message names near ones.
    ValueError
        If the file is no store, or has no studies.
    """
    from lamp.reports import results
    from lamp.studies import Store

    with Store.open(store) as opened:
        return results.read(opened, study)


def write_page(studies: Sequence[Results], path: Path) -> None:
    """Write one HTML page with everything in it.

    Parameters
    ----------
    studies : sequence of Results
    path : Path
        The file; its folder must exist.
    """
    from lamp.reports.page import page

    writing.check(path)
    writing.write(path, page(studies).encode())


def write_csv(studies: Sequence[Results], path: Path) -> None:
    """Write all runs as a CSV file, one per line.

    Parameters
    ----------
    studies : sequence of Results
    path : Path
        The file; its folder must exist.
    """
    from lamp.reports import exports

    writing.check(path)
    writing.write(path, exports.as_csv(studies))


def write_parquet(studies: Sequence[Results], path: Path) -> None:
    """Write all runs as a Parquet file.

    Parameters
    ----------
    studies : sequence of Results
    path : Path
        The file; its folder must exist.

    Raises
    ------
    ModuleNotFoundError
        If pyarrow is not installed.
    """
    from lamp.reports import exports

    writing.check(path)
    writing.write(path, exports.as_parquet(studies))


def write_pictures(studies: Sequence[Results], folder: Path, kind: str = "png") -> list[Path]:
    """Write each chart as a picture.

    Parameters
    ----------
    studies : sequence of Results
    folder : Path
        It is made if there is none.
    kind : {"png", "svg", "pdf"}

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    NotADirectoryError
        If the folder is a file.
    ValueError
        If the kind is none of these.
    """
    from lamp.reports import charts, pictures

    if kind not in pictures.KINDS:
        raise ValueError(f"kind={kind!r}: expected {', '.join(pictures.KINDS)}")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, not a folder for pictures")
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for study in studies:
        for chart in charts.charts(study):
            for name, picture in chart.named:
                path = folder / pictures.file_name(study.name, picture, kind, written)
                writing.write(path, pictures.painted(picture, kind, name or chart.title))
                written.append(path)
    return written
