"""Weights in the width of their format: as a machine holds them and as its steps take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fpemu import Format, Packed
from fpemu.scaling import BlockFormat, Scaled
from lamp.machines import Operand, Product

__all__ = [
    "columns",
    "is_narrow",
    "is_worth_it",
    "joined",
    "narrowest",
    "numbers",
    "packed",
    "reads_codes",
    "unpacked",
]

_LEAST: Final = 2**18  # numbers that are worth the compilation of a kernel that reads codes
_SCALES: Final = "bfloat16"  # holds the scales of all block formats


@dataclass(frozen=True)
class PackedScaled:
    """A matrix in a block format whose blocks lie along columns."""

    elements: Packed
    scales: Packed
    format: BlockFormat
    tensor_scale: float

    def columns(self, first: int, last: int) -> PackedScaled:
        """Some columns, the first of which is a multiple of 64."""
        elements, scales = (x.columns(first, last) for x in (self.elements, self.scales))
        return PackedScaled(elements, scales, self.format, self.tensor_scale)

    def scaled(self) -> Scaled:
        """The matrix as products take it."""
        scales = self.scales.numbers().astype(np.float64)
        return Scaled._of(self.elements.numbers(), scales, self.format, 0, self.tensor_scale)


def reads_codes(step: Product) -> bool:
    """Whether products of a step read codes and any layout: they take a matrix as a whole."""
    read = Packed.is_read_by(step.accumulator)
    return read and step.scaling != "block" and not isinstance(step.operands, BlockFormat)


def is_worth_it(size: int) -> bool:
    """Whether a matrix of that many numbers is kept in the width of its format."""
    return size >= _LEAST


def is_narrow(step: Product, size: int) -> bool:
    """Whether the right operand of a step, of so many numbers, takes a byte or two for each."""
    format = step.operands.element if isinstance(step.operands, BlockFormat) else step.operands
    return is_worth_it(size) and format is not None and Packed.holds(format)


def narrowest(x: NDArray[Any], format: Format | str) -> Any:
    """A matrix in the width of its format, if that is narrow."""
    if not Packed.holds(format):
        return x
    try:
        return Packed(x, format)
    except ValueError:  # an infinity
        return x


def numbers(x: Any) -> NDArray[Any]:
    """The numbers of a matrix that may be packed."""
    return x.numbers() if isinstance(x, Packed) else x


def packed(operand: Operand, step: Product) -> Operand:
    """The right operand of a step in the width of its format."""
    format = step.operands
    if isinstance(format, BlockFormat):
        (scaled,) = operand.values
        elements = narrowest(scaled.elements, format.element)
        scales = narrowest(scaled.scales, _SCALES)
        if isinstance(elements, Packed) and isinstance(scales, Packed):
            found = PackedScaled(elements, scales, format, scaled.tensor_scale)
            return Operand((found,), operand.scales)
        return operand
    assert format is not None  # or the step takes the weights as they are
    return Operand(narrowest(operand.values, format), operand.scales)


def unpacked(operand: Operand) -> Operand:
    """An operand as products take it."""
    if isinstance(operand.values, tuple):
        pairs = (x.scaled() if isinstance(x, PackedScaled) else x for x in operand.values)
        return Operand(tuple(pairs), operand.scales)
    return operand


def columns(operand: Operand, part: slice) -> Operand:
    """Some columns of a right operand, the first of which is a multiple of 64."""
    scales = operand.scales
    if np.ndim(scales) == 2 and scales.shape[1] > 1:
        scales = scales[:, part]
    return Operand(_columns(operand.values, part), scales)


def _columns(x: Any, part: slice) -> Any:
    if isinstance(x, tuple):
        return tuple(_columns(each, part) for each in x)
    if isinstance(x, Packed | PackedScaled):
        return x.columns(part.start, part.stop)
    if isinstance(x, Scaled):
        parts = (each[:, part] for each in (x.elements, x.scales))
        return Scaled._of(*parts, x.format, x.axis, x.tensor_scale)
    return x[:, part]


def joined(operands: Sequence[Operand]) -> Operand:
    """Right operands side by side; all but the last have a multiple of 64 columns."""
    if len(operands) == 1:
        return operands[0]
    scales = [each.scales for each in operands]
    together = np.concatenate(scales, axis=1) if np.ndim(scales[0]) == 2 else scales[0]
    return Operand(_joined([each.values for each in operands]), together)


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, tuple):
        return (_joined([part[0] for part in parts]),)
    if all(isinstance(part, Packed) for part in parts):
        return _beside(parts)
    if all(isinstance(part, PackedScaled) for part in parts):
        elements, scales = (
            _beside([getattr(part, name) for part in parts]) for name in ("elements", "scales")
        )
        return PackedScaled(elements, scales, first.format, first.tensor_scale)
    if isinstance(first, Scaled | PackedScaled):
        plain = [part.scaled() if isinstance(part, PackedScaled) else part for part in parts]
        arrays = (
            np.concatenate([getattr(part, name) for part in plain], axis=1)
            for name in ("elements", "scales")
        )
        return Scaled._of(*arrays, first.format, 0, first.tensor_scale)
    return np.concatenate([numbers(part) for part in parts], axis=1)


def _beside(parts: list[Packed]) -> Packed:
    return Packed.beside(parts, sum(part.shape[1] for part in parts))
