"""Targets and shortcuts of roundings as rows of tables, which is how kernels are given them.

One array takes a call, and what a kernel's entry for Python takes to be compiled, much less than as
many numbers as a target has.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.rounding import LAYOUTS, Shortcut, Target, shortcut_of, target_of
from fpemu._kernels.vectors import data_of

__all__ = [
    "TABLE_TYPE",
    "row_reader",
    "shortcut_at",
    "shortcuts_of",
    "table_of",
    "target_at",
    "targets_of",
]

_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)

TABLE_TYPE: Final = types.Array(types.uint64, 2, "C", readonly=True)
"""Numba's type of a table of targets or shortcuts of float64."""


@functools.lru_cache(maxsize=4096)
def targets_of(
    *roundings: tuple[FormatFacts, RoundingFacts], dtype: np.dtype[Any] = _FLOAT64
) -> NDArray[Any]:
    """The targets of formats and roundings, a row each, for :func:`target_at`."""
    return table_of(*(target_of(*rounding, dtype) for rounding in roundings), dtype=dtype)


@functools.lru_cache(maxsize=4096)
def shortcuts_of(
    *roundings: tuple[FormatFacts, RoundingFacts], dtype: np.dtype[Any] = _FLOAT64
) -> NDArray[Any]:
    """The shortcuts of formats and roundings, a row each, for :func:`shortcut_at`."""
    return table_of(*(shortcut_of(*rounding, dtype) for rounding in roundings), dtype=dtype)


def table_of(*rows: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Named tuples of words and numbers of a carrier as rows of words."""
    word = LAYOUTS[dtype].word
    table = np.array([[number.view(word) for number in row] for row in rows], word)
    table.flags.writeable = False
    return table


def row_reader(kind: type, *numbers: str) -> Any:
    """An intrinsic ``f(table, row)`` that gives a row of a table as a named tuple.

    Its fields are words, but for the `numbers` of the carrier.
    """

    def typed(_typing_context: Any, table: Any, row: Any) -> Any:
        result = _type_of(kind, table.dtype, numbers)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = data_of(context, builder, signature.args[0], arguments[0])
            count = ir.Constant(arguments[1].type, len(result))
            first = builder.mul(arguments[1], count)
            values = []
            for index, field in enumerate(result):
                place = builder.add(first, ir.Constant(first.type, index))
                word = builder.load(builder.gep(data, [place]))
                values.append(builder.bitcast(word, context.get_value_type(field)))
            return context.make_tuple(builder, result, values)

        return result(table, types.intp), generate

    return intrinsic(typed)


def _type_of(kind: type, word: Any, numbers: tuple[str, ...]) -> types.Type:
    number = types.float32 if word.bitwidth == 32 else types.float64
    fields = kind._fields  # type: ignore[attr-defined]
    if not numbers:
        return types.NamedUniTuple(word, len(fields), kind)
    return types.NamedTuple([number if name in numbers else word for name in fields], kind)


target_at: Final = row_reader(Target)
"""A row of a table of targets."""

shortcut_at: Final = row_reader(
    Shortcut, "quantum_scale", "zero", "threshold", "threshold_negative"
)
"""A row of a table of shortcuts."""
