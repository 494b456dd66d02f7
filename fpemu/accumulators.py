"""How a machine adds up an inner product: accumulators as plain data.

Exact products of the carrier values enter; an accumulator says when and into what they and their
partial sums are rounded.  :mod:`fpemu.linalg` runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fpemu import formats as _formats
from fpemu.formats import Format, FormatLike
from fpemu.rounding import Rounding, RoundingLike, as_rounding

__all__ = ["Accumulator", "Blocked", "Sequential"]


@dataclass(frozen=True, init=False)
class Sequential:
    """Term after term in index order, from +0: ``acc <- round(acc + a*b)``.

    Parameters
    ----------
    format : Format or str
        The format of the accumulator.
    rounding : Rounding or str
        Its rounding, which is that of the other roundings below too.
    fused : bool
        Whether ``acc + a*b`` is rounded once.  Otherwise the product is rounded first.
    product : Format or str, optional
        The format the product is rounded into, `format` if left out; implies ``fused=False``.
    via : Format or str, optional
        A format that every sum is rounded into before it is rounded into `format`.  The double
        rounding of software that adds in float32 and rounds afterwards is ``via="float32"``.

    Raises
    ------
    ValueError
        If a format or mode is unknown.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.dot([1.0, 2.0**-9], [1.0, 1.0], fpemu.Sequential("e8m7"))
    np.float64(1.0)
    """

    format: Format
    rounding: Rounding
    fused: bool
    product: Format | None
    via: Format | None

    def __init__(
        self,
        format: FormatLike,
        rounding: RoundingLike = "rne",
        fused: bool = True,
        product: FormatLike | None = None,
        via: FormatLike | None = None,
    ) -> None:
        _set(self, "format", _formats.format(format))
        _set(self, "rounding", as_rounding(rounding))
        _set(self, "fused", bool(fused) and product is None)
        _set(self, "product", None if product is None else _formats.format(product))
        _set(self, "via", None if via is None else _formats.format(via))

    def __str__(self) -> str:
        facts = [str(self.format), self.rounding.mode]
        if not self.fused:
            facts.append(f"product in {self.product or self.format}")
        if self.via is not None:
            facts.append(f"via {self.via}")
        return f"sequential({', '.join(facts)})"


@dataclass(frozen=True, init=False)
class Blocked:
    """Block after block: each summed by an inner accumulator, then ``acc <- round(acc + sum)``.

    Parameters
    ----------
    format : Format or str
        The format of the outer accumulator, which starts at +0.
    block : int
        Terms in a block; the last one may be shorter.
    inner : Format, str or Sequential
        How a block is summed, from +0; a format stands for ``Sequential(format)``.
    rounding : Rounding or str
        The rounding of the outer accumulator.

    Raises
    ------
    ValueError
        If `block` is not positive, or a format or mode is unknown.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.dot([1.0] + [2.0**-9] * 8, [1.0] * 9, fpemu.Blocked("e8m7", block=4))
    np.float64(1.015625)
    """

    format: Format
    block: int
    inner: Sequential
    rounding: Rounding

    def __init__(
        self,
        format: FormatLike,
        block: int,
        inner: FormatLike | Sequential = "float32",
        rounding: RoundingLike = "rne",
    ) -> None:
        if not isinstance(block, int) or isinstance(block, bool):
            raise TypeError(f"block must be an int, not {type(block).__name__}")
        if block < 1:
            raise ValueError(f"block must be at least 1, not {block}")
        _set(self, "format", _formats.format(format))
        _set(self, "block", block)
        _set(self, "inner", inner if isinstance(inner, Sequential) else Sequential(inner))
        _set(self, "rounding", as_rounding(rounding))

    def __str__(self) -> str:
        return f"blocked({self.format}, {self.rounding.mode}, {self.block} x {self.inner})"


Accumulator = Sequential | Blocked


def _set(instance: Any, name: str, value: Any) -> None:
    """Set a field of a frozen dataclass while it is being made."""
    object.__setattr__(instance, name, value)
