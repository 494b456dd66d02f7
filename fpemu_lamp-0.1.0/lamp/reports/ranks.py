"""What each step of each layer costs: tables, and a folder with all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lamp.reports import console, exports, numbers, pictures
from lamp.reports.rank_maps import picture

if TYPE_CHECKING:
    from rich.table import Table

    from lamp.tuning import Part, Rank

__all__ = ["heading", "rank_table", "sums_table", "write_rank"]

_COLUMNS: Final = ("step", "layer", "alone", "alone_error", "share", "won", "won_error")


# --- tables ---------------------------------------------------------------------------------------


def heading(found: Rank) -> str:
    """What the machine costs, and how well its parts add up to that."""
    error = numbers.error(found.whole.error)
    cost = f"{found.machine} diverges by {numbers.scientific(found.whole.value)} {error}".rstrip()
    if not found.complete:
        return f"{cost} nats a token from {found.exact}."
    reach = numbers.error(found.explained.error, "percent")
    added = f"{found.explained.value:.1%} {reach}".rstrip()
    return f"{cost} nats a token from {found.exact}; its steps alone add up to {added} of that."


def rank_table(found: Rank, most: int | None = None) -> Table:
    """The steps, those that cost most first, `most` of them at most."""
    parts = found.ranked[:most]
    headings = ["", "step", "layer", "alone", "±", "share"]
    if any(part.won is not None for part in parts):
        headings += ["won", "±"]
    return console.headed_table(headings, _rows(found, parts), left=2)


def _rows(found: Rank, parts: Iterable[Part]) -> Iterator[list[str]]:
    for place, part in enumerate(parts, 1):
        row = [str(place), part.step, part.place, *_estimate(part.alone.value, part.alone.error)]
        row.append(f"{found.share(part):.2%}")
        if part.won is not None:
            row += _estimate(part.won.value, part.won.error)
        yield row


def _estimate(value: float, error: float) -> list[str]:
    return [numbers.scientific(value), numbers.error(error)[1:]]


def sums_table(found: Rank, kind: str) -> Table:
    """What steps or layers cost alone, added up, and its share of the machine's divergence."""
    whole = found.whole.value
    rows = (
        [name, numbers.scientific(total), f"{total / whole:.2%}" if whole else "-"]
        for name, total in found.by(kind).items()
    )
    headings = ["layer" if kind == "place" else kind, "alone", "share"]
    return console.headed_table(headings, rows, left=kind == "step")


# --- files ----------------------------------------------------------------------------------------


def write_rank(found: Rank, folder: Path) -> list[Path]:
    """Write a rank into a folder, which is made if there is none.

    Parameters
    ----------
    found : lamp.tuning.Rank
    folder : Path

    Returns
    -------
    list of Path
        ``rank.json``, ``rank.csv``, ``rank.svg`` and ``rank.png``.

    Raises
    ------
    NotADirectoryError
        If the folder is a file.
    """

    def contents() -> Iterator[tuple[str, bytes]]:
        lines = (_line(found, part) for part in found.ranked)
        yield "rank.json", exports.as_json(found.record())
        yield "rank.csv", exports.written_csv(_COLUMNS, lines)
        for kind in ("svg", "png"):
            yield f"rank.{kind}", pictures.painted(picture(found), kind)

    return pictures.write_folder(folder, "a rank", contents())


def _line(found: Rank, part: Part) -> dict[str, Any]:
    """A line of the CSV file."""
    line = {
        "step": part.step,
        "layer": part.place,
        "alone": part.alone.value,
        "alone_error": part.alone.error,
        "share": found.share(part),
    }
    if part.won is not None:
        line |= {"won": part.won.value, "won_error": part.won.error}
    return line
