"""Arithmetic and functions on tensors, element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from fpemu.torch.arithmetic import Arithmetic, Steps
from fpemu.torch.dispatch import Handler
from fpemu.torch.tensors import number, result_dtype, tensor_like

__all__ = ["ARITHMETIC", "FUNCTIONS"]

aten = torch.ops.aten


def _fraction_dtype(*operands: Any) -> Any:
    """The dtype of a result that is no integer even if its operands are."""
    dtype = result_dtype(*operands)
    whole = not (dtype.is_floating_point or dtype.is_complex)
    return torch.get_default_dtype() if whole else dtype


def _elementwise(
    compute: Callable[..., Any], *, fractions: bool = False, operands: int = 2
) -> Handler:
    """A handler that computes with steps on the numbers of its first few arguments."""

    def handler(arithmetic: Arithmetic, *args: Any, **options: Any) -> Any:
        given = args[:operands]
        whole = not fractions or options.get("rounding_mode") is not None
        dtype = (result_dtype if whole else _fraction_dtype)(*given)
        if not dtype.is_floating_point:
            return NotImplemented
        numbers = [number(each, dtype) for each in given]
        further = args[operands:]
        values = compute(arithmetic.steps(dtype), *numbers, *further, **options)
        return tensor_like(values, dtype, *given)

    return handler


# --- arithmetic -----------------------------------------------------------------------------------


def _scaled(steps: Steps, x: Any, factor: Any) -> Any:
    """A product with ``alpha`` or ``value``, which is left out if that is 1."""
    return x if factor == 1 else steps.multiply(x, steps.number(factor))


def _add(steps: Steps, a: Any, b: Any, alpha: Any = 1) -> Any:
    return steps.add(a, _scaled(steps, b, alpha))


def _subtract(steps: Steps, a: Any, b: Any, alpha: Any = 1) -> Any:
    return steps.subtract(a, _scaled(steps, b, alpha))


def _subtract_from(steps: Steps, a: Any, b: Any, alpha: Any = 1) -> Any:
    return steps.subtract(b, _scaled(steps, a, alpha))


_TO_INTEGERS: Final[dict[str | None, Callable[[Any], Any]]] = {
    None: lambda x: x,
    "floor": np.floor,
    "trunc": np.trunc,
}


def _divide(steps: Steps, a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    return _TO_INTEGERS[rounding_mode](steps.divide(a, b))


def _add_product(steps: Steps, x: Any, a: Any, b: Any, value: Any = 1) -> Any:
    return steps.add(x, steps.multiply(_scaled(steps, a, value), b))


def _add_quotient(steps: Steps, x: Any, a: Any, b: Any, value: Any = 1) -> Any:
    return steps.add(x, steps.divide(_scaled(steps, a, value), b))


def _interpolated(steps: Steps, start: Any, end: Any, weight: Any) -> Any:
    """From the nearer end, as torch does."""
    way = steps.subtract(end, start)
    from_start = steps.add(start, steps.multiply(weight, way))
    rest = steps.subtract(np.ones_like(weight), weight)
    from_end = steps.subtract(end, steps.multiply(rest, way))
    return np.where(np.abs(weight) < 0.5, from_start, from_end)


def _remainder(steps: Steps, a: Any, b: Any) -> Any:
    """With the sign of b: an exact remainder, and a sum where that has the other sign."""
    with np.errstate(invalid="ignore"):
        rest = np.fmod(a, b)
    other = (rest != 0) & (np.signbit(rest) != np.signbit(b))
    return steps.round(np.where(other, steps.add(rest, b), rest))


# What a power is computed as; torch has the same.
_POWERS: Final[dict[float, Callable[[Steps, Any], Any]]] = {
    0.0: lambda steps, x: np.ones_like(x),
    0.5: lambda steps, x: steps.sqrt(x),
    1.0: lambda steps, x: steps.round(x),
    2.0: lambda steps, x: steps.multiply(x, x),
    3.0: lambda steps, x: steps.multiply(steps.multiply(x, x), x),
    -0.5: lambda steps, x: steps.function("rsqrt", x),
    -1.0: lambda steps, x: steps.divide(np.ones_like(x), x),
    -2.0: lambda steps, x: steps.divide(np.ones_like(x), steps.multiply(x, x)),
}


def _power(steps: Steps, x: Any, exponent: Any) -> Any:
    if exponent.ndim == 0 and float(exponent) in _POWERS:
        return _POWERS[float(exponent)](steps, x)
    return steps.function("pow", *np.broadcast_arrays(x, exponent))


ARITHMETIC: Final[dict[Any, Handler]] = {
    aten.add: _elementwise(_add),
    aten.sub: _elementwise(_subtract),
    aten.rsub: _elementwise(_subtract_from),
    aten.mul: _elementwise(lambda steps, a, b: steps.multiply(a, b)),
    aten.div: _elementwise(_divide, fractions=True),
    aten.reciprocal: _elementwise(
        lambda steps, x: steps.divide(np.ones_like(x), x), operands=1, fractions=True
    ),
    aten.sqrt: _elementwise(lambda steps, x: steps.sqrt(x), operands=1, fractions=True),
    aten.addcmul: _elementwise(_add_product, operands=3),
    aten.addcdiv: _elementwise(_add_quotient, operands=3),
    aten.lerp: _elementwise(_interpolated, operands=3),
    aten.pow: _elementwise(_power),
    aten.remainder: _elementwise(_remainder),
}

# --- functions ------------------------------------------------------------------------------------


def _function(name: str, operands: int = 1) -> Handler:
    return _elementwise(
        lambda steps, *x: steps.function(name, *np.broadcast_arrays(*x)),
        operands=operands,
        fractions=True,
    )


def _gelu(steps: Steps, x: Any, approximate: str = "none") -> Any:
    return steps.function({"none": "gelu", "tanh": "gelu_tanh"}[approximate], x)


_UNARY: Final = """
    exp exp2 expm1 log log2 log1p log10 tanh sigmoid erf erfc rsqrt silu
    sin cos tan asin acos atan sinh cosh asinh acosh atanh
""".split()  # noqa: SIM905 - shorter

FUNCTIONS: Final[dict[Any, Handler]] = {
    **{getattr(aten, name): _function(name) for name in _UNARY},
    aten.gelu: _elementwise(_gelu, operands=1),
    aten.atan2: _function("atan2", operands=2),
    aten.hypot: _function("hypot", operands=2),
}
