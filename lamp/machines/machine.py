"""The simulated machine: how each step of a model computes, as data.

A step is a matrix product, a function or a sum.  Between two steps stand members of the first one's
output format, held in the machine's carrier.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np

import fpemu
from fpemu import Accumulator, Format, Pairwise, Sequential
from fpemu.accumulators import ScaledCore
from fpemu.formats import FormatLike
from fpemu.rounding import as_rounding
from fpemu.scaling import BlockFormat, block_format

__all__ = ["SCALINGS", "Function", "Hardware", "Product", "Sum"]

SCALINGS: Final = ("none", "tensor", "row", "block")
"""What the scales of operands belong to, see :class:`Product`."""


def _format(spec: FormatLike) -> Format:
    return fpemu.format(spec)


def _operands(spec: Any, accumulator: Any) -> Format | BlockFormat | None:
    """The operands' format: given, or what the accumulator takes."""
    taken, other = accumulator.input_formats
    if taken != other:
        raise ValueError(f"{accumulator} takes operands in different formats, which no step has")
    scaled = isinstance(accumulator, ScaledCore)
    if spec is None and not scaled:
        return taken  # type: ignore[no-any-return]
    operands: Any = spec
    if not isinstance(spec, BlockFormat):
        operands = block_format(spec) if spec in fpemu.scaling.FORMATS else spec
    if isinstance(operands, BlockFormat):
        held = operands.element, operands.scale, operands.block
        if scaled and held == (taken, accumulator.scale, accumulator.scale_block):
            return operands
        if not scaled and taken is None:
            return operands
    elif operands is not None and not scaled:
        operands = _format(operands)
        if taken is None or _holds(taken, operands):
            return operands  # type: ignore[no-any-return]
    kind = f"blocks of {accumulator.scale_block} " if scaled else ""
    raise ValueError(f"{accumulator} takes {kind}{taken}, not {operands}")


def _holds(outer: Format, inner: Format) -> bool:
    """Whether every finite member of a format is one of another."""
    return (
        inner.precision <= outer.precision
        and inner.max_finite <= outer.max_finite
        and inner.smallest_subnormal >= outer.smallest_subnormal
    )


def _set(instance: Any, name: str, value: Any) -> None:
    object.__setattr__(instance, name, value)


def _result(step: Any) -> str:
    """What becomes of a step's result, in words."""
    rounding = step.rounding
    saturated = ", saturated" if rounding.overflow == "saturate" else ""
    return f" -> {step.output} ({rounding.mode}{saturated})"


@dataclass(frozen=True)
class Product:
    """A matrix product: operands rounded, inner products summed, the result rounded.

    A bias is added to the sums, and the exact result of that addition rounded once into `output`.
    Scores are divided by the square root of the head dimension instead, likewise.

    Parameters
    ----------
    accumulator : Accumulator or ScaledCore
        How inner products are summed, such as a unit of :mod:`fpemu.devices`.  A format or its name
        stands for ``Sequential(format)``.
    operands : Format, BlockFormat or str, optional
        What both operands are rounded into; left out, what the accumulator takes, or nothing.
    output : Format or str, optional
        The format of the result; left out, that of the accumulator.
    rounding : Rounding or str
        How operands and result are rounded.
    scaling : {"none", "tensor", "row", "block"}
        Operands are divided by scales before they are rounded, sums multiplied by them in float32.
        ``"tensor"``: one scale for a weight, `scale` for an activation.  ``"row"``: a scale for
        each row of the left and each column of the right operand.  ``"block"``: one for each
        `block` terms of those, whose sums are scaled and added in float32.  Scales take the largest
        magnitude to the largest number of the operands' format and are rounded into float32, up.
    scale : float
        The scale of activations under ``"tensor"`` and the scale of the whole array for a block
        format that has one.  It is fixed, as one found from the numbers would make a token depend
        on later ones.
    block : int
        How many terms have a scale under ``"block"``.

    Raises
    ------
    ValueError
        If a field is out of range or does not go with the others.
    """

    accumulator: Any = "float32"
    operands: Any = None
    output: Any = None
    rounding: Any = "rne"
    scaling: str = "none"
    scale: float = 1.0
    block: int = 128

    def __post_init__(self) -> None:
        accumulator = self.accumulator
        if isinstance(accumulator, (str, Format)):
            accumulator = Sequential(accumulator)
        if not isinstance(accumulator, (Accumulator, ScaledCore)):
            raise TypeError(f"accumulator must be an accumulator or a format, not {accumulator!r}")
        _set(self, "accumulator", accumulator)
        _set(self, "rounding", as_rounding(self.rounding))
        _set(self, "operands", _operands(self.operands, accumulator))
        output = accumulator.format if self.output is None else self.output
        _set(self, "output", _format(output))
        if self.scaling not in SCALINGS:
            raise ValueError(f"unknown scaling {self.scaling!r}: expected {', '.join(SCALINGS)}")
        if self.scaling != "none" and not isinstance(self.operands, Format):
            raise ValueError(
                f"scaling {self.scaling!r} needs a format of the operands, not {self.operands}"
            )
        if not 0 < self.scale < np.inf or float(np.float32(self.scale)) != self.scale:
            raise ValueError(f"scale must be a positive float32 number, not {self.scale}")
        if not isinstance(self.block, int) or self.block < 1:
            raise ValueError(f"block must be a positive integer, not {self.block!r}")

    def __str__(self) -> str:
        parts = [str(self.accumulator)]
        if self.operands is not None:
            parts.insert(0, f"{self.operands} operands{self.scales}")
        return ", ".join(parts) + _result(self)

    @property
    def scales(self) -> str:
        """What is divided out of the operands, in words."""
        words = {
            "none": "",
            "tensor": f" over {self.scale:g}",
            "row": " scaled by rows",
            "block": f" scaled by {self.block} terms",
        }
        return words[self.scaling]

    @property
    def is_stochastic(self) -> bool:
        """Whether results depend on random bits."""
        accumulator = self.accumulator
        draws = isinstance(accumulator, Accumulator) and accumulator.is_stochastic
        return bool(self.rounding.is_stochastic) or draws

    @property
    def is_causal(self) -> bool:
        """Whether more terms of zero at the end of a sum change nothing."""
        if isinstance(self.accumulator, ScaledCore):
            return True
        return not any(
            isinstance(part, Pairwise) and part.block is None for part in self.accumulator.parts()
        )

    def derived(self, *labels: Any) -> Product:
        """The product with seeds of its own."""
        accumulator = self.accumulator
        if isinstance(accumulator, Accumulator):
            accumulator = accumulator.derived(*labels)
        return replace(self, accumulator=accumulator, rounding=self.rounding.derived(*labels))


@dataclass(frozen=True)
class Function:
    """A softmax, norm or activation.

    Parameters
    ----------
    output : Format or str
        The format of the result.
    rounding : Rounding or str
        How it is rounded.
    steps : Format or str, optional
        The format that every inner step is rounded into, as in
        :func:`fpemu.functions.softmax`; sums are formed in it, term after term.  Left out, all is
        computed in float64 and rounded once.
    """

    output: Any = "float32"
    rounding: Any = "rne"
    steps: Any = None

    def __post_init__(self) -> None:
        _set(self, "output", _format(self.output))
        _set(self, "rounding", as_rounding(self.rounding))
        if self.steps is not None:
            _set(self, "steps", _format(self.steps))

    def __str__(self) -> str:
        inner = "in float64" if self.steps is None else f"every step in {self.steps}"
        return inner + _result(self)

    @property
    def is_stochastic(self) -> bool:
        """Whether results depend on random bits."""
        return bool(self.rounding.is_stochastic)

    def derived(self, *labels: Any) -> Function:
        """The function with a seed of its own."""
        return replace(self, rounding=self.rounding.derived(*labels))


@dataclass(frozen=True)
class Sum:
    """The sum of two arrays, rounded once.

    Parameters
    ----------
    output : Format or str
        The format of the result.
    rounding : Rounding or str
        How it is rounded.
    """

    output: Any = "float32"
    rounding: Any = "rne"

    def __post_init__(self) -> None:
        _set(self, "output", _format(self.output))
        _set(self, "rounding", as_rounding(self.rounding))

    def __str__(self) -> str:
        return f"exact{_result(self)}"

    @property
    def is_stochastic(self) -> bool:
        """Whether results depend on random bits."""
        return bool(self.rounding.is_stochastic)

    def derived(self, *labels: Any) -> Sum:
        """The sum with a seed of its own."""
        return replace(self, rounding=self.rounding.derived(*labels))


Step = Product | Function | Sum


@dataclass(frozen=True)
class Hardware:
    """The arithmetic of a machine that runs a model: one step after the other, as it comes.

    Where a Product is expected, an accumulator or a format does; where a Function or a Sum is, the
    format of its output.

    Parameters
    ----------
    name : str
        What the machine is called.
    weights : Format or str
        The format the weights are stored in: what a checkpoint holds is rounded into it, to
        nearest.
    embedding : Sum
        Token plus position.
    norm : Function
        Every LayerNorm.
    qkv : Product
        Queries, keys and values from the normalised stream.
    scores : Product
        Queries times keys, over the square root of the head dimension.
    softmax : Function
        Probabilities from scores.
    values : Product
        Probabilities times values.
    attention_output : Product
        What the heads give, back into the stream.
    mlp_up : Product
        Into the feed-forward layer.
    activation : Function
        Its nonlinearity.
    mlp_down : Product
        Back into the stream.
    residual : Sum
        The stream plus what a layer adds.
    lm_head : Product
        Logits.
    recomputed : Product
        What replaces a product that look-ahead has recomputed.

    Raises
    ------
    ValueError
        If a step is not possible.
    TypeError
        If a step is of another kind.

    Examples
    --------
    >>> import lamp
    >>> machine = lamp.Hardware("low scores", scores="e8m4")
    >>> print(machine.scores.accumulator)
    sequential(e8m4, rne)
    """

    name: str
    weights: Any = "float32"
    embedding: Any = Sum()
    norm: Any = Function()
    qkv: Any = Product()
    scores: Any = Product()
    softmax: Any = Function()
    values: Any = Product()
    attention_output: Any = Product()
    mlp_up: Any = Product()
    activation: Any = Function()
    mlp_down: Any = Product()
    residual: Any = Sum()
    lm_head: Any = Product()
    recomputed: Any = Product()

    def __post_init__(self) -> None:
        _set(self, "weights", _format(self.weights))
        for name, kind in STEPS.items():
            step = getattr(self, name)
            if not isinstance(step, (Product, Function, Sum)):
                step = kind(step)
            if not isinstance(step, kind):
                raise TypeError(
                    f"{name} must be a {kind.__name__}, not a {type(step).__name__}: {step}"
                )
            _set(self, name, step)
        if self.activation.steps is not None:
            raise ValueError("an activation has no inner steps to round")
        if isinstance(self.values.operands, BlockFormat) or self.values.scaling in ("row", "block"):
            raise ValueError(
                "values can have no scales by row or block: they lie along the tokens, and an "
                "early token would depend on later ones"
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Hardware:
        """The machine in a TOML file, see :func:`lamp.machines.files.load`."""
        from lamp.machines import files as machine_files

        return machine_files.load(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the machine to a TOML file, see :func:`lamp.machines.files.save`."""
        from lamp.machines import files as machine_files

        machine_files.save(self, path)

    @property
    def carrier(self) -> np.dtype[Any]:
        """float32 if it holds every number between two steps, else float64."""
        formats = [self.weights, *(step.output for step in self._all().values())]
        return np.dtype(np.result_type(*(format.carrier for format in formats)))

    @property
    def scores_are_low(self) -> bool:
        """Whether the scores are computed in anything else than the recomputed precision."""
        return bool(self.scores != self.recomputed)

    @property
    def is_causal(self) -> bool:
        """Whether a token's numbers can be computed before later tokens are known.

        They cannot where random bits go by places in arrays that grow, nor where a tree of sums
        takes its shape from their length.
        """
        stochastic = any(step.is_stochastic for step in self._all().values())
        return not stochastic and self.values.is_causal

    def derived(self, layer: int) -> Hardware:
        """The machine with random bits of its own for a layer."""
        if not any(step.is_stochastic for step in self._all().values()):
            return self
        own = {name: step.derived(name, layer) for name, step in self._all().items()}
        return replace(self, **own)

    def _all(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STEPS}


def _steps() -> Iterator[tuple[str, Any]]:
    for field in fields(Hardware):
        if isinstance(field.default, (Product, Function, Sum)):
            yield field.name, type(field.default)


STEPS: Final[dict[str, Any]] = dict(_steps())
"""The steps of a machine and of what kind they are."""
