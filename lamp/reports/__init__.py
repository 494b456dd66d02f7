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

from lamp._files import writing as files
from lamp.reports import charts, exports, results
from lamp.reports.page import page
from lamp.reports.results import Results
from lamp.studies import Store

__all__ = ["Results", "read", "write_csv", "write_page", "write_parquet", "write_pictures"]


def read(store: str | os.PathLike[str], study: str | None = None) -> list[Results]:
    """The studies of a store and their runs.

    Parameters
    ----------
    store : str or path-like
        The file.
    study : str, optional
        Only that.

    Returns
    -------
    list of Results
        By name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    LookupError
        If there is no such study; names near ones.
    ValueError
        If the file is no store, or has no studies.
    """
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
    files.write(path, page(studies).encode())


def write_csv(studies: Sequence[Results], path: Path) -> None:
    """Write all runs as a CSV file.

    Parameters
    ----------
    studies : sequence of Results
    path : Path
        The file; its folder must exist.
    """
    files.write(path, exports.as_csv(studies))


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
    files.write(path, exports.as_parquet(studies))


def write_pictures(studies: Sequence[Results], folder: Path) -> list[Path]:
    """Write the charts as PNG pictures.

    Parameters
    ----------
    studies : sequence of Results
    folder : Path
        Where; it is made if there is none.

    Returns
    -------
    list of Path
        The files.
    """
    from lamp.reports import pictures

    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, not a folder for pictures")
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for study in studies:
        for chart in charts.charts(study):
            for name, drawing in chart.named:
                path = folder / pictures.file_name(study.name, drawing, written)
                files.write(path, pictures.png(drawing, name or chart.title))
                written.append(path)
    return written
