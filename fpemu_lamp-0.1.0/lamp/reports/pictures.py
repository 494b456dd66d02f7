"""Figures as files: PNG, SVG or PDF, each with its title and its legend."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from fpemu.pictures import KINDS
from fpemu.pictures.colors import LIGHT
from lamp._files import writing
from lamp.reports import charts, figures
from lamp.reports.figures import Entry, Picture
from lamp.reports.results import Results

__all__ = ["KINDS", "file_name", "painted", "write_demo", "write_folder", "write_pictures"]

_DPI: Final = 160
_LETTERS: Final = 9.5
_LONGEST: Final = 60  # bytes of a file's name that come from a label


def file_name(study: str, picture: Picture, kind: str, taken: Container[str] = ()) -> str:
    """What a picture's file may be called, whatever labels look like; none of the taken names."""
    name = "-".join(map(_plain, (study, picture.kind, picture.title)))
    candidates = (f"{name}{f'-{i}' if i > 1 else ''}.{kind}" for i in itertools.count(1))
    return next(candidate for candidate in candidates if candidate not in taken)


def _plain(label: str) -> str:
    name = re.sub(r"[^\w.]+", "-", label).strip("-.").lower().encode()[:_LONGEST]
    return name.decode(errors="ignore") or "unnamed"


def painted(picture: Picture, kind: str = "png", chart: str = "") -> bytes:
    """A picture as a file of a kind; its name or that of its chart stands before its title."""
    written = io.BytesIO()
    title = " · ".join(filter(None, (picture.name or chart, picture.title)))
    with figures.style(_LETTERS):
        figure = picture.draw().figure
        look = {"size": "large", "weight": "bold", "ha": "left", "va": "bottom"}
        figure.suptitle(figures.short(title), x=0.0, y=1.02, **look)
        if picture.legend:
            handles = []
            for before, entry in pairwise((picture.legend[0], *picture.legend)):
                apart = (before.color is None) != (entry.color is None)
                handles += [figures.handle(each) for each in [Entry("")] * apart + [entry]]
            figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        figure.savefig(
            written,
            format=kind,
            dpi=_DPI,
            facecolor=LIGHT["paper"],
            bbox_inches="tight",
            pad_inches=0.2,
            metadata=KINDS[kind],
        )
    return written.getvalue()


def write_folder(folder: Path, use: str, contents: Iterable[tuple[str, bytes]]) -> list[Path]:
    """Write files into a folder, which is made if there is none, by their names and contents.

    What is a file in place of the folder is a NotADirectoryError.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, not a folder for {use}")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in contents:
        writing.write(folder / name, content)
        written.append(folder / name)
    return written


def write_demo(study: Results, path: Path) -> None:
    """Write the chart of the runs of :func:`lamp.studies.equal_rate_grid` as a PNG file.

    Parameters
    ----------
    study : Results
    path : Path
        The file; its folder must exist.
    """
    writing.write(path, painted(charts.demo(study)))


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
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected {', '.join(KINDS)}")
    return write_folder(folder, "pictures", _painted(studies, kind))


def _painted(studies: Sequence[Results], kind: str) -> Iterator[tuple[str, bytes]]:
    """The name of each picture, and its content."""
    taken: set[str] = set()
    for study in studies:
        for chart in charts.charts(study):
            for picture in chart.pictures:
                name = file_name(study.name, picture, kind, taken)
                taken.add(name)
                yield name, painted(picture, kind, chart.title)
