"""The arithmetic that torch's operations are emulated in, and its steps on carriers."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from fpemu import arithmetic, formats, functions, scaling
from fpemu._kernels.scans import scan
from fpemu.accumulators import Accumulator, ScaledCore, Sequential
from fpemu.carriers import Carrier
from fpemu.formats import Format
from fpemu.linalg import matmul, row_sums, row_sums_of_squares
from fpemu.rounding import Rounding
from fpemu.rounding import round as round_into
from fpemu.torch.tensors import arithmetic_dtype, number

__all__ = ["Arithmetic", "Steps"]

_MOST_PRECISION: Final = 24  # of correctly rounded functions


def _logistic(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-x))


def _erf(x: Any) -> Any:
    import torch

    return torch.special.erf(torch.from_numpy(x)).numpy()


# Functions in float64: those that fpemu.functions has, for wider formats, and those it does not.
_IN_FLOAT64: Final[dict[str, Callable[..., Any]]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": _logistic,
    "erf": _erf,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x * np.sqrt(0.5))),
    "gelu_tanh": lambda x: (
        0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x * x * x)))
    ),
    "silu": lambda x: x * _logistic(x),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "log10": np.log10,
    "erfc": lambda x: 1.0 - _erf(x),
    "pow": np.power,
    "atan2": np.arctan2,
    "hypot": np.hypot,
}


@dataclass(frozen=True)
class Steps:
    """The steps of one operation, each rounded once.

    Attributes
    ----------
    dtype : torch.dtype
        Of the operation's result.
    format : Format
        Of the results of arithmetic.
    of_functions : Format
        Of the results of functions.
    draw : callable
        The rounding of the next step.
    accumulate : callable
        The accumulator of the next sum.
    approximate : Counter
        Counts the functions that were evaluated in float64 and then rounded.
    """

    dtype: Any
    format: Format
    of_functions: Format
    draw: Callable[[], Rounding]
    accumulate: Callable[[], Accumulator]
    approximate: Counter[str]

    def number(self, x: Any) -> Any:
        """A Python number as an operand."""
        return number(x, self.dtype)

    def add(self, a: Any, b: Any) -> Any:
        """The sum."""
        return arithmetic.add(a, b, self.format, self.draw())

    def subtract(self, a: Any, b: Any) -> Any:
        """The difference."""
        return arithmetic.subtract(a, b, self.format, self.draw())

    def multiply(self, a: Any, b: Any) -> Any:
        """The product."""
        return arithmetic.multiply(a, b, self.format, self.draw())

    def divide(self, a: Any, b: Any) -> Any:
        """The quotient."""
        return arithmetic.divide(a, b, self.format, self.draw())

    def sqrt(self, x: Any) -> Any:
        """The square root."""
        return arithmetic.sqrt(x, self.format, self.draw())

    def round(self, x: Any) -> Any:
        """Numbers rounded into the format."""
        return round_into(x, self.format, self.draw())

    def function(self, name: str, *x: Any) -> Any:
        """A function by name: correctly rounded, or through float64 where fpemu has it not so."""
        if name in functions.__all__ and self.of_functions.precision <= _MOST_PRECISION:
            return getattr(functions, name)(*x, self.of_functions, self.draw())
        self.approximate[name] += 1
        wide = [np.ascontiguousarray(each, np.float64) for each in x]
        with np.errstate(all="ignore"):
            values = _IN_FLOAT64[name](*wide)
        narrow = all(np.asarray(each).dtype == np.float32 for each in x)
        rounded = np.asarray(round_into(values, self.of_functions, self.draw()))
        fits = narrow and self.of_functions.carrier == np.float32
        return rounded.astype(np.float32) if fits else rounded

    def sums(self, rows: Any) -> Any:
        """The sums of rows, the axis kept, in the accumulator's format."""
        return row_sums(rows, self.accumulate())

    def sums_of_squares(self, rows: Any) -> Any:
        """The sums of the squares of rows, the axis kept, in the accumulator's format."""
        return row_sums_of_squares(rows, self.accumulate())

    def scan(self, rows: Any, *, products: bool) -> Any:
        """Running sums or products of rows, each rounded into the format."""
        return scan(rows, self.format, self.draw(), products=products)


@dataclass(frozen=True)
class Arithmetic:
    """What operations are emulated in.

    Parameters
    ----------
    matmul : Accumulator or ScaledCore, optional
        Sums of matrix products; left out, those are torch's.
    elementwise : Format, optional
        Of results; left out, arithmetic and functions by themselves are torch's, and steps within
        other operations have the format of the dtype that torch computes in.
    functions : Format, optional
        Of the results of functions; by default `elementwise`.
    reductions : Accumulator, optional
        Sums; by default ``Sequential(elementwise, rounding)``.
    rounding : Rounding
        Of everything but the sums.
    convert : Rounding, optional
        How operands of matrix products are rounded into the formats that `matmul` takes.
    operands : BlockFormat, optional
        The block-scaled format that operands of matrix products are brought into.
    approximate : Counter
        Counts functions that were evaluated in float64.
    """

    matmul: Accumulator | ScaledCore | None = None
    elementwise: Format | None = None
    functions: Format | None = None
    reductions: Accumulator | None = None
    rounding: Rounding = field(default_factory=Rounding)
    convert: Rounding | None = None
    operands: scaling.BlockFormat | None = None
    approximate: Counter[str] = field(default_factory=Counter, compare=False)
    _number: Counter[str] = field(default_factory=Counter, compare=False)

    def _next(self) -> int:
        """The number of the next step, by which it draws random bits of its own."""
        self._number["steps"] += 1
        return self._number["steps"]

    def _draw(self) -> Rounding:
        return self.rounding.derived(self._next()) if self.rounding.is_stochastic else self.rounding

    def steps(self, dtype: Any) -> Steps:
        """The steps of an operation on tensors of a dtype."""
        format = self.elementwise or formats.format(arithmetic_dtype(dtype))
        sums = self.reductions or Sequential(format, self.rounding)
        return Steps(
            dtype,
            format,
            self.functions or format,
            self._draw,
            functools.partial(self._derived, sums),
            self.approximate,
        )

    def _derived(self, sums: Accumulator) -> Accumulator:
        return sums.derived(self._next()) if sums.is_stochastic else sums

    def product(self, a: Carrier, b: Carrier) -> Any:
        """The matrix product, in the accumulator's format."""
        if self.operands is not None:
            return self._scaled_product(a, b)
        assert isinstance(self.matmul, Accumulator)
        return matmul(a, b, self._derived(self.matmul), convert=self.convert)

    def _scaled_product(self, a: Carrier, b: Carrier) -> Any:
        """The product of operands in blocks along the inner dimension, matrix by matrix."""
        left: Any = np.atleast_2d(a)
        right: Any = b[:, np.newaxis] if b.ndim == 1 else b
        batch, (rows, terms), columns = left.shape[:-2], left.shape[-2:], right.shape[-1]
        result = np.zeros((math.prod(batch), rows, columns))
        left = left.reshape(len(result), rows, terms)
        right = right.reshape(len(result), terms, columns)
        for i in range(len(result) if left.size and right.size else 0):
            result[i] = self._one_scaled_product(left[i], right[i])
        shape = (*batch, *(rows,) * (a.ndim > 1), *(columns,) * (b.ndim > 1))
        return result.reshape(shape)

    def _one_scaled_product(self, a: Carrier, b: Carrier) -> Any:
        assert self.operands is not None
        assert self.matmul is not None
        unit = self.matmul
        return scaling.matmul(
            scaling.quantize(a, self.operands, axis=1, rounding=self._draw()),
            scaling.quantize(b, self.operands, axis=0, rounding=self._draw()),
            self._derived(unit) if isinstance(unit, Accumulator) else unit,
        )

    def stored(self, values: Any) -> Any:
        """What an accumulator gives, rounded into the format of results if there is one."""
        return (
            values
            if self.elementwise is None
            else round_into(values, self.elementwise, self._draw())
        )
