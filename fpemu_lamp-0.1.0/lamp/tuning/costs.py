"""What a step of a machine costs: bits of arithmetic, or numbers of one's own.

A cost is that of one unit of work, times the units of work of a token: multiply-adds of a product,
elements of a function or a sum.  :data:`COSTS` has the measures that come with lamp:

``"bits"``
    A multiply-add costs the product of the significand bits of its two operands, the size of the
    array of a multiplier, plus the bits of its accumulator.  An element of a function or a sum
    costs the bits of its result.
``"accumulators"``
    A multiply-add costs the bits of its accumulator; functions and sums cost nothing.

Operands that a step does not round have the significand bits of the machine's arrays, 24 or 53.
An operand in a block format also costs the bits of its scale, spread over the block.  An
accumulator is as wide as its format; what adds up blocks costs the width of its inner accumulator
and, once per block, that of its outer one; an exact accumulator is as wide as all products of its
inputs.
Look-ahead adds a multiply-add of the precision that recomputes for each component recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from fpemu import Format, accumulators
from fpemu import format as named_format
from fpemu.accumulators import ScaledCore
from fpemu.scaling import BlockFormat
from lamp.machines import Function, Product, Sum
from lamp.models import Shape

__all__ = ["COSTS", "accumulator_bits", "width", "work"]

# The cost of a unit of work of a step, given the format of operands that it does not round.
_Cost = Callable[[Any, Format], float]

_FLOAT32: Final = named_format("float32")


# --- bits of a step -------------------------------------------------------------------------------


def width(accumulator: Any) -> float:
    """The bits that an accumulator adds in, for each term of a sum.

    Parameters
    ----------
    accumulator : Accumulator or ScaledCore

    Returns
    -------
    float

    Examples
    --------
    >>> import fpemu
    >>> from lamp.tuning.costs import width
    >>> width(fpemu.Sequential("e8m4")), width(fpemu.Blocked("float32", 16, "e8m4"))
    (13.0, 15.0)
    """
    found = _WIDTHS.get(type(accumulator))
    return float(accumulator.format.bits if found is None else found(accumulator))


def _exact(accumulator: Any) -> float:
    """The bits of all products of two inputs, with a sign."""
    inputs = [each or _FLOAT32 for each in accumulator.input_formats]
    return 1.0 + sum(each.emax + 1 - each.quantum_exponent for each in inputs)


_WIDTHS: Final[Mapping[type, Callable[[Any], float]]] = {
    accumulators.Sequential: lambda a: max(f.bits for f in (a.format, a.via) if f is not None),
    accumulators.Blocked: lambda a: width(a.inner) + a.format.bits / a.block,
    accumulators.Promoted: lambda a: width(a.inner) + a.format.bits / a.block,
    accumulators.Exact: _exact,
    ScaledCore: lambda a: width(a.core),
}
"""Accumulators that are not as wide as their format alone."""


def _significand(operands: Format | BlockFormat | None, plain: Format) -> int:
    if isinstance(operands, BlockFormat):
        return operands.element.precision
    return (operands or plain).precision


def _scale_bits(product: Product) -> float:
    """The bits of the scales of both operands, for each multiply-add."""
    operands = product.operands
    if isinstance(operands, BlockFormat):
        return 2 * operands.scale.bits / operands.block
    return 2 * _FLOAT32.bits / product.block if product.scaling == "block" else 0.0


def _bits(step: Any, plain: Format) -> float:
    if not isinstance(step, Product):
        return float((getattr(step, "steps", None) or step.output).bits)
    significand = _significand(step.operands, plain)
    return significand**2 + width(step.accumulator) + _scale_bits(step)


def accumulator_bits(step: Product | Function | Sum, plain: Format) -> float:
    """The bits of a product's accumulator; functions and sums have none.

    Parameters
    ----------
    step : Product, Function or Sum
    plain : Format
        Takes no part; :data:`COSTS` has functions of two arguments.

    Returns
    -------
    float
    """
    return width(step.accumulator) if isinstance(step, Product) else 0.0


COSTS: Final[Mapping[str, _Cost]] = {"bits": _bits, "accumulators": accumulator_bits}
"""The measures of cost by name: functions of a step and of the format of plain operands.

:meta hide-value:
"""


# --- the work of a token --------------------------------------------------------------------------


def work(shape: Shape, length: int) -> dict[str, float]:
    """The units of work of each step for a token, on average over a text.

    Parameters
    ----------
    shape : lamp.models.Shape
        The sizes of the model.
    length : int
        The number of tokens in a window of the text.

    Returns
    -------
    dict of str to float
        Multiply-adds of a product, elements of a function or a sum: in each layer, but of
        `embedding` and `lm_head` in all.  The norm behind the last layer is left out.

    Examples
    --------
    >>> import lamp
    >>> from lamp.tuning.costs import work
    >>> work(lamp.from_pretrained("embedded").shape, length=256)["scores"]
    32896.0
    """
    query, key = shape.heads * shape.dimension, shape.key_heads * shape.dimension
    seen = (length + 1) / 2  # keys, on average
    return {
        "embedding": shape.width,
        "norm": 2 * shape.width,
        "qkv": shape.width * (query + 2 * key),
        "scores": query * seen,
        "softmax": shape.heads * seen,
        "values": query * seen,
        "attention_output": query * shape.width,
        "mlp_up": shape.width * shape.inner * (2 if shape.gated else 1),
        "activation": shape.inner * (2 if shape.gated else 1),
        "mlp_down": shape.inner * shape.width,
        "residual": 2 * shape.width,
        "lm_head": shape.width * shape.vocabulary,
    }
