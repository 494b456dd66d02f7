"""What scripts share that measure models: names of texts, intervals, files of results."""

from __future__ import annotations

import csv
import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

import lamp
from lamp.evaluation import ratio

TEXTS: Final = ("macbeth", "twelfth-night", "ecclesiastes", "jargon")
DATA: Final = Path(__file__).parents[1] / "docs" / "_static" / "data"
"""The results that the pages of the documentation show, as the scripts have written them."""

GEMMA: Final = "gemma3-270m"
FOLDERS: Final = {GEMMA: "LAMP_GEMMA3"}
"""Models that come in no package, and the environment variables with their folders."""

Row = TypeVar("Row")


@functools.lru_cache(maxsize=1)
def loaded(name: str) -> Any:
    """A model by name, kept until the next."""
    variable = FOLDERS.get(name)
    if variable is None:
        return lamp.from_pretrained(name)
    if variable not in os.environ:
        sys.exit(f"{name} comes in no package: {variable} must name its folder")
    return lamp.from_pretrained(os.environ[variable])


def geometric(logarithms: Sequence[float]) -> tuple[float, float, float]:
    """A geometric mean and the ends of its 95% interval, Student's, of the logarithms."""
    found = ratio(np.array(logarithms), np.ones(len(logarithms)))
    low, high = found.interval()
    return math.exp(found.value), math.exp(low), math.exp(high)


def mean(values: Sequence[float]) -> tuple[float, float]:
    """A mean and its standard error."""
    found = ratio(np.array(values), np.ones(len(values)))
    return found.value, found.error


def write(path: Path, rows: Sequence[Any]) -> None:
    """Instances of one dataclass as a CSV; numbers have six digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(rows[0])])
        for row in rows:
            values = asdict(row).values()
            writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in values])


def read(path: Path, kind: type[Row]) -> list[Row]:
    """The instances of a dataclass in a CSV; none if there is no such file."""
    if not path.exists():
        return []
    types: dict[Any, Callable[[str], Any]] = {"str": str, "float": float, "int": int}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            kind(**{each.name: types[each.type](line[each.name]) for each in fields(kind)})  # type: ignore[arg-type]
            for line in csv.DictReader(file)
        ]


def append(path: Path, rows: Sequence[Any]) -> None:
    """Add instances of one dataclass to a CSV, in full precision."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        if new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
