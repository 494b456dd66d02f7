"""The numbers of layers as people write them: ``0-2,5,-1``.

A negative number counts from the end, as in Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np

__all__ = ["in_words", "layer_numbers", "place", "read_numbers", "spelled"]

_MOST: Final = 2**16  # layers
_RANGE: Final = re.compile(r"\s*(-?\d{1,9})\s*(?:-\s*(-?\d{1,9})\s*)?", re.ASCII)


def layer_numbers(given: Any) -> tuple[int, ...]:
    """The numbers of layers that a caller gives.

    Parameters
    ----------
    given : int, sequence of int, or str
        A text is read by :func:`read_numbers`.

    Returns
    -------
    tuple of int

    Raises
    ------
    TypeError
        If a number is no integer.
    ValueError
        If there are none, or one is too large.
    """
    if isinstance(given, str):
        return read_numbers(given)
    several = isinstance(given, Iterable)
    numbers = tuple(given) if several else (given,)
    for number in numbers:
        if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
            raise TypeError(f"the number of a layer must be an integer, not {number!r}")
        if not -_MOST <= number < _MOST:
            raise ValueError(f"the number of a layer must lie in -{_MOST}..{_MOST - 1}: {number}")
    if not numbers:
        raise ValueError("there must be the number of a layer, not none")
    return tuple(int(number) for number in numbers)


def read_numbers(text: str) -> tuple[int, ...]:
    """The numbers in a text.

    Parameters
    ----------
    text : str
        Numbers and ranges, separated by commas.  Both ends of a range are in it, and both count
        from the same side.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If the text does not have that form.

    Examples
    --------
    >>> from lamp.machines.layers import read_numbers
    >>> read_numbers("0-2,-1")
    (0, 1, 2, -1)
    """
    return layer_numbers([n for part in text.split(",") for n in _read_range(part, text)])


def _read_range(part: str, text: str) -> range:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise ValueError(
            f"{text!r} is no list of layers: expected numbers and ranges, such as 0-2,5,-1"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if (first < 0) != (last < 0) or not first <= last < first + _MOST:
        raise ValueError(
            f"the range {part.strip()} of layers must go up, from the same side: 0-2, or -3--1"
        )
    return range(first, last + 1)


def spelled(numbers: Iterable[int]) -> str:
    """The shortest text that :func:`read_numbers` reads as some numbers.

    Parameters
    ----------
    numbers : iterable of int
        Sorted, those that count from the front before the others.

    Returns
    -------
    str

    Examples
    --------
    >>> from lamp.machines.layers import spelled
    >>> spelled([0, 1, 2, 5, -1])
    '0-2,5,-1'
    """
    return ",".join(
        str(first) if first == last else f"{first}-{last}" for first, last in _runs(numbers)
    )


def in_words(numbers: str) -> str:
    """Layers, spelled, for people: ``layer -1`` or ``layers 0-2,5``."""
    several = "," in numbers or "-" in numbers[1:]
    return f"{'layers' if several else 'layer'} {numbers}"


def place(number: int) -> tuple[bool, int]:
    """What layers are sorted by: those that count from the front come first."""
    return number < 0, number


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last of each run of numbers that follow each other."""
    first = last = None
    for number in numbers:
        if last is not None and number == last + 1 and number != 0:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last
