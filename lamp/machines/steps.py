"""The steps of a machine as data: products, functions, sums, and attention by tiles."""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

import fpemu
from fpemu import Accumulator, Format
from fpemu._reprs import constructed
from fpemu.accumulators import ScaledCore, as_accumulator
from fpemu.formats import operand_format
from fpemu.rounding import as_rounding
from fpemu.scaling import BlockFormat, block_format
from lamp.machines.orders import checked_order

__all__ = ["DIVISIONS", "OVERFLOWS", "SCALINGS", "Function", "Product", "Sum", "Tiled"]

DIVISIONS: Final = ("last", "tile")
"""When attention by tiles divides by the running sum, see :class:`Tiled`."""

SCALINGS: Final = ("none", "tensor", "row", "block")
"""What shares a scale of the operands, see :class:`Product`."""

OVERFLOWS: Final = {
    "ieee": "",
    "saturate": ", saturated",
    "propagate": ", saturated but for infinities",
    "infinity": ", overflow to infinity",
}
"""How a rounding treats overflow, in words that follow its mode."""

_MOST_PRECISION: Final = 24  # of correctly rounded functions


# --- checks of fields -----------------------------------------------------------------------------


def _set(instance: Any, name: str, value: Any) -> None:
    """Set a field of a frozen dataclass in its ``__post_init__``."""
    object.__setattr__(instance, name, value)


def _checked_accumulator(spec: Any) -> Accumulator | ScaledCore:
    accumulator = as_accumulator(spec)
    if not isinstance(accumulator, (Accumulator, ScaledCore)):
        raise TypeError(f"accumulator must be an accumulator or a format, not {spec!r}")
    if not is_dataclass(accumulator):
        raise TypeError(
            f"{type(accumulator).__name__} must be a frozen dataclass, whose fields tell machines "
            "apart"
        )
    return accumulator


def _checked_operands(spec: Any, accumulator: Any) -> Format | BlockFormat | None:
    """The format of the operands: the given one, or what the accumulator takes."""
    taken, other = accumulator.input_formats
    if taken != other:
        raise ValueError(f"{accumulator} takes operands in different formats, which no step has")
    if isinstance(accumulator, ScaledCore):
        return _scaled_operands(spec, accumulator)
    operands = _operands_of(spec)
    if operands is None:
        return taken  # type: ignore[no-any-return]
    if taken is None or operands == taken:
        return operands
    if isinstance(operands, Format) and operands.bits == taken.bits:
        # A unit reads codes: such operands would be other numbers.  e4m3 is float8_e4m3fn to units.
        raise ValueError(
            f"{accumulator} takes {taken} (largest {taken.max_finite:g}), not {operands} (largest "
            f"{operands.max_finite:g}), whose codes of {operands.bits} bits mean other numbers"
        )
    if isinstance(operands, Format) and _holds(taken, operands):
        return operands
    raise ValueError(f"{accumulator} takes {taken}, not {operands}")


def _scaled_operands(spec: Any, unit: ScaledCore) -> BlockFormat:
    operands = _operands_of(spec)
    if isinstance(operands, BlockFormat):
        held = operands.element, operands.scale, operands.block
        if held == (unit.input_formats[0], unit.scale, unit.scale_block):
            return operands
    kind = f"blocks of {unit.scale_block} {unit.input_formats[0]}"
    raise ValueError(f"{unit} takes {kind}, not {operands}")


def _operands_of(spec: Any) -> Format | BlockFormat | None:
    if spec is None or isinstance(spec, BlockFormat):
        return spec
    return block_format(spec) if spec in fpemu.scaling.FORMATS else operand_format(spec)


def _holds(outer: Format, inner: Format) -> bool:
    """Whether every finite member of `inner` is a member of `outer`."""
    return (
        inner.precision <= outer.precision
        and inner.max_finite <= outer.max_finite
        and inner.smallest_subnormal >= outer.smallest_subnormal
    )


def _checked_scale(scale: Any) -> float:
    try:
        number = 0.0 if isinstance(scale, (bool, np.bool_)) else float(scale)
        if 0 < number < np.inf and number == scale and float(np.float32(number)) == number:
            return number
    except (TypeError, ValueError):
        pass
    raise ValueError(f"scale must be a positive float32 number, not {scale!r}")


def _checked_count(count: Any, name: str) -> int:
    if isinstance(count, (int, np.integer)) and not isinstance(count, bool) and count >= 1:
        return int(count)
    raise ValueError(f"{name} must be a positive integer, not {count!r}")


# --- steps ----------------------------------------------------------------------------------------


def _result(step: Any) -> str:
    """How a step rounds its result, in words."""
    rounding = step.rounding
    return f" -> {step.output} ({rounding.mode}{OVERFLOWS[rounding.overflow]})"


@dataclass(frozen=True, repr=False)
class Product:
    """A matrix product: operands are rounded, inner products summed, the result rounded.

    A bias is added to the sums, and the exact result of that addition is rounded once into
    `output`.  Scores are divided by the square root of the head dimension instead, likewise.

    Parameters
    ----------
    accumulator : Accumulator or ScaledCore
        How inner products are summed, such as a unit of :mod:`fpemu.devices`.  A format or its name
        stands for ``Sequential(format)``.
    operands : Format, BlockFormat or str, optional
        The format that both operands are rounded into.  By default that of the accumulator's
        inputs; if it takes any number, operands are not rounded.  Another format is one of fewer
        bits whose numbers the accumulator's inputs hold: ``"e4m3"``, whose largest number is 240,
        is not what a unit such as ``hopper.wgmma.e4m3`` takes, float8_e4m3fn.
    output : Format or str, optional
        The format of the result, by default that of the accumulator.
    rounding : Rounding or str
        How operands and result are rounded.
    scaling : {"none", "tensor", "row", "block"}
        Operands are divided by scales before they are rounded, and sums are multiplied by these
        scales in float32.  ``"tensor"``: one scale per weight matrix, and `scale` for activations.
        ``"row"``: one scale per row of the left operand and per column of the right one.
        ``"block"``: one scale per `block` terms of those; the sums of the blocks are scaled and
        added in float32.  A scale takes the largest magnitude to the largest number of the
        operands' format and is rounded up into float32.
    scale : float
        The scale of activations under ``"tensor"``, and the scale of the whole array in a block
        format that has one.  It is fixed: a scale computed from the numbers would make a token
        depend on later ones.
    block : int
        The number of terms that share a scale under ``"block"``.
    order : {"ascending", "descending"}, Order or nested sequence of int, optional
        For scores: the order in which the channels of queries and keys are summed, a permutation
        for each layer and head.  Both operands are permuted before they are rounded and multiplied,
        and recomputed scores are summed in the same order.  ``"ascending"`` stands for the
        root mean square of the products of a channel's queries and keys, from the smallest;
        :func:`lamp.calibrated` finds it from a text, and no model runs before that.  By default,
        channels are summed as they come.

    Raises
    ------
    ValueError
        If a field is out of range or contradicts another.
    TypeError
        If `accumulator` is neither an accumulator nor a format.
    """

    accumulator: Any = "float32"
    operands: Any = None
    output: Any = None
    rounding: Any = "rne"
    scaling: str = "none"
    scale: float = 1.0
    block: int = 128
    order: Any = None

    def __post_init__(self) -> None:
        accumulator = _checked_accumulator(self.accumulator)
        output = accumulator.format if self.output is None else self.output
        _set(self, "accumulator", accumulator)
        _set(self, "rounding", as_rounding(self.rounding))
        _set(self, "operands", _checked_operands(self.operands, accumulator))
        _set(self, "output", fpemu.format(output))
        if self.scaling not in SCALINGS:
            raise ValueError(f"unknown scaling {self.scaling!r}: expected {', '.join(SCALINGS)}")
        if self.scaling != "none" and not isinstance(self.operands, Format):
            raise ValueError(
                f"scaling {self.scaling!r} needs a format of the operands, not {self.operands}"
            )
        _set(self, "scale", _checked_scale(self.scale))
        _set(self, "block", _checked_count(self.block, "block"))
        _set(self, "order", checked_order(self.order))

    def __repr__(self) -> str:
        return constructed(self, "lamp")

    def __str__(self) -> str:
        parts = [str(self.accumulator)]
        if self.operands is not None:
            parts.insert(0, f"{self.operands} operands{self.scales}")
        if self.order is not None:
            parts.append(f"channels {self.order}")
        return ", ".join(parts) + _result(self)

    @property
    def scales(self) -> str:
        """The scales of the operands, in words."""
        words = {
            "none": "",
            "tensor": f" over {self.scale:g}",
            "row": " scaled by rows",
            "block": f" scaled by {self.block} terms",
        }
        return words[self.scaling]

    @cached_property
    def is_stochastic(self) -> bool:
        """Whether results depend on random bits."""
        accumulator = self.accumulator
        draws = isinstance(accumulator, Accumulator) and accumulator.is_stochastic
        return bool(self.rounding.is_stochastic) or draws

    @property
    def is_causal(self) -> bool:
        """Whether zeros that follow the terms of a sum never change its result."""
        return bool(self.accumulator.ignores_trailing_zeros)

    def derived(self, *labels: Any) -> Product:
        """The same product with seeds of its own, see :meth:`fpemu.Rounding.derived`."""
        accumulator = self.accumulator
        if isinstance(accumulator, Accumulator):
            accumulator = accumulator.derived(*labels)
        return replace(self, accumulator=accumulator, rounding=self.rounding.derived(*labels))


@dataclass(frozen=True, repr=False)
class Function:
    """A softmax, norm or activation.

    Parameters
    ----------
    output : Format or str
        The format of the result.
    rounding : Rounding or str
        How the result is rounded.
    steps : Format or str, optional
        The format that every inner step is rounded into, as in :func:`fpemu.functions.softmax`;
        sums are sequential in it.  By default everything is computed in float64 and rounded once.
    """

    output: Any = "float32"
    rounding: Any = "rne"
    steps: Any = None

    def __post_init__(self) -> None:
        _set(self, "output", fpemu.format(self.output))
        _set(self, "rounding", as_rounding(self.rounding))
        if self.steps is not None:
            _set(self, "steps", fpemu.format(self.steps))

    def __repr__(self) -> str:
        return constructed(self, "lamp")

    def __str__(self) -> str:
        inner = "in float64" if self.steps is None else f"every step in {self.steps}"
        return inner + _result(self)

    @property
    def is_stochastic(self) -> bool:
        """Whether results depend on random bits."""
        return bool(self.rounding.is_stochastic)

    def derived(self, *labels: Any) -> Function:
        """The same function with a seed of its own, see :meth:`fpemu.Rounding.derived`."""
        return replace(self, rounding=self.rounding.derived(*labels))


@dataclass(frozen=True, repr=False)
class Sum:
    """The sum of two arrays, rounded once.

    Parameters
    ----------
    output : Format or str
        The format of the result.
    rounding : Rounding or str
        How the result is rounded.
    """

    output: Any = "float32"
    rounding: Any = "rne"

    def __post_init__(self) -> None:
        _set(self, "output", fpemu.format(self.output))
        _set(self, "rounding", as_rounding(self.rounding))

    def __repr__(self) -> str:
        return constructed(self, "lamp")

    def __str__(self) -> str:
        return f"exact{_result(self)}"

    @property
    def is_stochastic(self) -> bool:
        """Whether results depend on random bits."""
        return bool(self.rounding.is_stochastic)

    def derived(self, *labels: Any) -> Sum:
        """The same sum with a seed of its own, see :meth:`fpemu.Rounding.derived`."""
        return replace(self, rounding=self.rounding.derived(*labels))


# --- attention by tiles ---------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Tiled:
    """Attention by tiles: an online softmax, as in FlashAttention, every inner step rounded.

    Queries come in tiles of `rows`, by their positions in the text, and keys in tiles of `columns`.
    A row of queries goes through the tiles of keys in order, with a running maximum m (at first
    -inf), a running sum l and running outputs o (at first +0).  The steps `scores`, `recomputed`
    and `values` are those of the machine.  At a tile, with scores y of the keys that the row sees:

    1. ``m' = max(m, max y)``, rounded into `running_maximum`;
    2. ``e = exp(y - m')`` by `exponential`; +0 for keys that the row does not see, or while m' is
       -inf;
    3. ``a = exp(m - m')`` by `rescaling`; there is no rescaling at the first tile, or while m is
       -inf;
    4. ``l``, the product of ``l`` and ``a`` rounded into the format of `running_sum`, and then the
       terms e added by that accumulator;
    5. ``o``, the product of ``o`` and ``a`` rounded into the format of the accumulator of `values`,
       and then the products of e and the values added by that accumulator.

    At the end the exact quotient ``o / l`` is rounded once into the output of `values`.

    Parameters
    ----------
    rows, columns : int
        The queries and the keys of a tile.
    parts : int
        Look-ahead recomputes parts of tiles: all rows times ``columns / parts`` keys.
    exponential : Function or format
        The exponential of a difference.  If `steps` is given, the difference is rounded into that
        format, and its exponential is rounded correctly into `output`, as from a table.  Otherwise
        both are computed in float64, and the exponential is rounded into `output`.
    rescaling : Function or format
        The factor of step 3, likewise.
    running_maximum : Function or format, optional
        What the running maximum is rounded into.  By default it is exact.
    running_sum : Accumulator or format
        How exponentials are summed: it begins with the running sum.
    division : {"last", "tile"}
        ``"last"`` as above (FlashAttention-2).  ``"tile"``: the running outputs are normalized at
        each tile (FlashAttention).  Then e is divided by the new l, rounded by the step `softmax`,
        before it multiplies values; ``o`` is rescaled by ``l a / l'``, rounded into the output of
        `rescaling`, the old sum times a over the new one; and nothing is divided at the end.

    Raises
    ------
    ValueError
        If a field is out of range or contradicts another.
    TypeError
        If a field is of another kind.

    References
    ----------
    T. Dao, D. Y. Fu, S. Ermon, A. Rudra, C. Re, "FlashAttention", arXiv 2205.14135, algorithm 1.
    T. Dao, "FlashAttention-2", arXiv 2307.08691, algorithm 1.  M. Milakov, N. Gimelshein, "Online
    normalizer calculation for softmax", arXiv 1805.02867.

    Examples
    --------
    >>> import lamp
    >>> machine = lamp.Hardware("tiles", scores="e8m4", attention=lamp.Tiled(exponential="float16"))
    >>> print(machine.attention.running_sum)
    sequential(float32, rne)
    """

    rows: int = 128
    columns: int = 64
    parts: int = 4
    exponential: Any = Function()
    rescaling: Any = Function()
    running_maximum: Any = None
    running_sum: Any = "float32"
    division: str = "last"

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "parts"):
            _set(self, name, _checked_count(getattr(self, name), name))
        if self.columns % self.parts:
            raise ValueError(
                f"parts must divide the columns of a tile, not {self.parts} of {self.columns}"
            )
        for name in ("exponential", "rescaling", "running_maximum"):
            step = getattr(self, name)
            if isinstance(step, (str, Format)):
                step = Function(step)
            if not (isinstance(step, Function) or (step is None and name == "running_maximum")):
                raise TypeError(f"{name} must be a Function or a format, not {step!r}")
            _set(self, name, step)
        if self.running_maximum is not None and self.running_maximum.steps is not None:
            raise ValueError("running_maximum has no inner steps to round")
        for name in ("exponential", "rescaling"):
            _check_exponential(getattr(self, name), name)
        accumulator = _checked_accumulator(self.running_sum)
        _check_terms(accumulator, self.exponential.output)
        _set(self, "running_sum", accumulator)
        if self.division not in DIVISIONS:
            raise ValueError(
                f"division must be {' or '.join(map(repr, DIVISIONS))}, not {self.division!r}"
            )

    def __repr__(self) -> str:
        return constructed(self, "lamp")

    def __str__(self) -> str:
        maximum = "exact"
        if self.running_maximum is not None:
            maximum = _result(self.running_maximum).removeprefix(" -> ")
        return (
            f"tiles of {self.rows} x {self.columns} in {self.parts} parts; "
            f"maximum {maximum}; exponential {self.exponential}; rescaling {self.rescaling}; "
            f"sums {self.running_sum}; divided {_WHEN[self.division]}"
        )

    @property
    def is_stochastic(self) -> bool:
        """Whether results depend on random bits."""
        return any(part.is_stochastic for part in self._random().values())

    def derived(self, *labels: Any) -> Tiled:
        """The same attention with seeds of its own, see :meth:`fpemu.Rounding.derived`."""
        random = self._random()
        return replace(self, **{name: part.derived(name, *labels) for name, part in random.items()})

    def _random(self) -> dict[str, Any]:
        """The parts that may be stochastic."""
        names = ("exponential", "rescaling", "running_maximum", "running_sum")
        parts = {name: getattr(self, name) for name in names}
        return {name: part for name, part in parts.items() if part is not None}


_WHEN: Final = {"last": "last", "tile": "at each tile"}


def _check_exponential(step: Function, name: str) -> None:
    """Raise a ValueError if no correctly rounded exponential has that format."""
    if step.steps is not None and step.output.precision > _MOST_PRECISION:
        raise ValueError(
            f"{name} with steps is rounded correctly, into at most {_MOST_PRECISION} significand "
            f"bits, but {step.output} has {step.output.precision}"
        )


def _check_terms(accumulator: Any, terms: Format) -> None:
    """Raise a ValueError if the accumulator of running sums does not take exponentials."""
    if isinstance(accumulator, ScaledCore):
        raise ValueError(f"running_sum must take plain numbers, not blocks: {accumulator}")
    for taken in accumulator.input_formats:
        if taken is not None and not _holds(taken, terms):
            raise ValueError(f"running_sum: {accumulator} takes {taken}, not {terms}")
