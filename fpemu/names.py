"""Accumulators by name: those of formats, matrix units, and kinds with their parameters.

- A format, ``bfloat16`` or ``e8m4``, stands for its sequential sums.
- A matrix unit has its name in :mod:`fpemu.devices`, such as ``hopper.wgmma.e4m3``.
- A kind is followed by its parameters in the order of its class, or with their names, with colons
  between them: ``blocked:e8m7:16``, ``pairwise:e8m7``, ``exact:float32``,
  ``sequential:bfloat16:rtz:via=float32``, ``promoted:hopper.wgmma.e4m3:float32:128``.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

from fpemu import devices
from fpemu.accumulators import KINDS, Accumulator, ScaledCore, Sequential

__all__ = ["accumulator"]

# Which have units, but are none themselves.
_ARCHITECTURES: Final = {name.partition(".")[0] for name in devices.list()}
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,9}")
_TRUTH: Final = {"true": True, "false": False}


def accumulator(name: str) -> Accumulator | ScaledCore:
    """The accumulator of a name.

    Parameters
    ----------
    name : str
        A format, a matrix unit, or a kind with its parameters, as this module describes them.

    Returns
    -------
    Accumulator or ScaledCore

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> from fpemu import names
    >>> names.accumulator("blocked:e8m7:16")
    fpemu.Blocked('e8m7', 16)
    >>> print(names.accumulator("tensor_core:8:12:format=e8m13"))
    tensor core(8 terms, 12 bits, e8m13, rtz)
    """
    kind, *words = name.split(":")
    if kind in KINDS:
        return _of_kind(name, KINDS[kind], words)
    if words:
        raise ValueError(f"unknown kind {kind!r} in {name!r}: expected {', '.join(KINDS)}")
    if "." in name or devices.architecture(name) in _ARCHITECTURES:
        found: Accumulator | ScaledCore = devices.get(name)
        return found
    return Sequential(name)


def _of_kind(name: str, kind: Any, words: list[str]) -> Accumulator:
    """An accumulator of a kind, whose parameters are words."""
    parameters = inspect.signature(kind).parameters
    known = [*parameters]
    values: dict[str, Any] = {}
    for place, word in enumerate(words):
        key, given, text = word.rpartition("=")
        if not given and place < len(known):
            key = known[place]
        if key not in known or key in values:
            raise ValueError(f"{name!r} has {word!r}: expected {':'.join(known)}")
        values[key] = _value(key, text)
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in values
    ]
    if missing:
        raise ValueError(f"{name!r} lacks {', '.join(missing)}: expected {':'.join(known)}")
    try:
        made: Accumulator = kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r}: {error}") from None
    return made


def _value(key: str, text: str) -> Any:
    """The value of a parameter."""
    if key == "inner":
        return accumulator(text)
    return int(text) if _INTEGER.fullmatch(text) else _TRUTH.get(text, text)
