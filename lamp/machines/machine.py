"""A simulated machine as data: the arithmetic of every step of a model.

A step is a matrix product, a function or a sum.  Its result is rounded into the step's output
format; the next step reads it from an array in the machine's carrier.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

import fpemu
from fpemu.scaling import BlockFormat
from lamp.machines.definitions import definitions, kind_name
from lamp.machines.steps import Function, Product, Sum, Tiled

__all__ = ["STEPS", "Hardware", "digest"]

_MOST_LEVELS: Final = 255  # the largest number that a mask of them holds
_PRODUCT: Final = Product()
_FUNCTION: Final = Function()
_SUM: Final = Sum()


def _set(instance: Any, name: str, value: Any) -> None:
    """Set a field of a frozen dataclass in its ``__post_init__``."""
    object.__setattr__(instance, name, value)


# --- checks of fields -----------------------------------------------------------------------------


def _checked_step(given: Any, name: str, kind: Any) -> Any:
    """A step of a machine, from it or from what stands for it."""
    step = given if isinstance(given, (Product, Function, Sum)) else kind(given)
    if not isinstance(step, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not a {type(step).__name__}: {step}")
    if name != "scores" and getattr(step, "order", None) is not None:
        raise ValueError(f"{name}: only scores have an order of channels")
    return step


def _checked_levels(given: Any) -> Any:
    """The products that recompute; one alone is not in a tuple."""
    if not 0 < len(given) <= _MOST_LEVELS:
        raise ValueError(f"recomputed must be 1 to {_MOST_LEVELS} products, not {len(given)}")
    levels = tuple(_checked_step(each, "recomputed", Product) for each in given)
    return levels[0] if len(levels) == 1 else levels


def _derived(step: Any, *labels: Any) -> Any:
    """A step, or each of several, with seeds of its own."""
    if not isinstance(step, tuple):
        return step.derived(*labels)
    return tuple(each.derived(*labels, level) for level, each in enumerate(step, 1))


# --- machines -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hardware:
    """A machine that runs a language model: the arithmetic of every step.

    Where a Product is expected, an accumulator or a format will do; where a Function or a Sum is
    expected, the format of its output will.

    Parameters
    ----------
    name : str
        What the machine is called.
    weights : Format or str
        The format of stored weights.  The numbers of a checkpoint are rounded into it, to nearest.
    embedding : Sum
        Token embedding plus position embedding.
    norm : Function
        Every LayerNorm or RMSNorm.
    qkv : Product
        Queries, keys and values from the normalized residual stream.
    scores : Product
        Queries times keys, divided by the square root of the head dimension.
    softmax : Function
        Probabilities from scores.
    values : Product
        Probabilities times values.
    attention_output : Product
        The outputs of all heads, projected into the residual stream.
    mlp_up : Product
        The projection into the feed-forward layer.
    activation : Function
        The nonlinearity of the feed-forward layer.
    mlp_down : Product
        The projection of the feed-forward layer into the residual stream.
    residual : Sum
        The residual stream plus the output of a layer.
    lm_head : Product
        Logits.
    recomputed : Product or sequence of them
        How components that look-ahead selects are recomputed.  Several products are several
        precisions, the lowest first: look-ahead then has an amount for each, and the components
        that matter most are recomputed by the last.
    attention : Tiled, optional
        How attention goes through the keys: by tiles.  By default row by row, with the steps
        `scores`, `softmax` and `values` one after the other.

    Raises
    ------
    ValueError
        If a model cannot have such a step.
    TypeError
        If a step is of another kind, or `name` is not a string.

    Examples
    --------
    >>> import lamp
    >>> machine = lamp.Hardware("low scores", scores="e8m4")
    >>> print(machine.scores.accumulator)
    sequential(e8m4, rne)
    """

    name: str
    weights: Any = "float32"
    embedding: Any = _SUM
    norm: Any = _FUNCTION
    qkv: Any = _PRODUCT
    scores: Any = _PRODUCT
    softmax: Any = _FUNCTION
    values: Any = _PRODUCT
    attention_output: Any = _PRODUCT
    mlp_up: Any = _PRODUCT
    activation: Any = _FUNCTION
    mlp_down: Any = _PRODUCT
    residual: Any = _SUM
    lm_head: Any = _PRODUCT
    recomputed: Any = _PRODUCT
    attention: Any = None

    # Set by lamp.machines.files, which builds on this module.
    load: ClassVar[Callable[[str | os.PathLike[str]], Hardware]]
    save: ClassVar[Callable[[Hardware, str | os.PathLike[str]], None]]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, not {self.name!r}")
        _set(self, "weights", fpemu.format(self.weights))
        for name, kind in STEPS.items():
            step = getattr(self, name)
            several = name == "recomputed" and isinstance(step, (tuple, list))
            _set(self, name, _checked_levels(step) if several else _checked_step(step, name, kind))
        if not (self.attention is None or isinstance(self.attention, Tiled)):
            raise TypeError(f"attention must be a Tiled or None, not {self.attention!r}")
        if self.activation.steps is not None:
            raise ValueError("activation: an activation has no inner steps to round")
        if isinstance(self.values.operands, BlockFormat) or self.values.scaling in ("row", "block"):
            raise ValueError(
                "values can have no scales by row or block: they lie along the tokens, and an "
                "early token would depend on later ones"
            )

    @property
    def levels(self) -> tuple[Product, ...]:
        """The products that recompute, the lowest precision first: one or several."""
        recomputed = self.recomputed
        return recomputed if isinstance(recomputed, tuple) else (recomputed,)

    @property
    def carrier(self) -> np.dtype[Any]:
        """The type of arrays between steps: float32 if it holds all their numbers, else float64."""
        steps = [getattr(self, name) for name in STEPS if name != "recomputed"]
        formats = [self.weights, *(step.output for step in (*steps, *self.levels))]
        return np.dtype(np.result_type(*(format.carrier for format in formats)))

    @property
    def scores_are_low(self) -> bool:
        """Whether `scores` differs from the last of `levels`, which has the same channel order."""
        return bool(replace(self.scores, order=None) != self.levels[-1])

    @property
    def is_causal(self) -> bool:
        """Whether a token's numbers can be computed before later tokens are known.

        They cannot if random bits are drawn by position in an array that grows, or if a sum is a
        tree whose shape depends on the number of terms; a tile always has all its terms.
        """
        return not self._is_stochastic and (self.attention is not None or self.values.is_causal)

    def derived(self, layer: int) -> Hardware:
        """The machine with random bits of its own for a layer.

        Parameters
        ----------
        layer : int

        Returns
        -------
        Hardware
            The same one if no step is stochastic.
        """
        if not self._is_stochastic:
            return self
        number = operator.index(layer)
        steps = self._steps().items()
        return replace(self, **{name: _derived(step, name, number) for name, step in steps})

    @property
    def _is_stochastic(self) -> bool:
        """Whether any step draws random bits."""
        steps = self._steps().values()
        parts = (part for step in steps for part in (step if isinstance(step, tuple) else (step,)))
        return any(part.is_stochastic for part in parts)

    def _steps(self) -> dict[str, Any]:
        """All that rounds: the steps, and the inner steps of attention."""
        steps = {name: getattr(self, name) for name in STEPS}
        return steps if self.attention is None else {**steps, "attention": self.attention}


def _kinds_of_steps() -> Iterator[tuple[str, Any]]:
    for field in fields(Hardware):
        if isinstance(field.default, (Product, Function, Sum)):
            yield field.name, type(field.default)


STEPS: Final[dict[str, Any]] = dict(_kinds_of_steps())
"""The kind of every step of a machine, by name."""


# --- what tells machines apart --------------------------------------------------------------------


def digest(machine: Hardware) -> str:
    """The SHA-256 of everything in a machine but its name.

    Parameters
    ----------
    machine : Hardware

    Returns
    -------
    str
        64 hexadecimal digits, equal for two machines if and only if they differ in nothing but
        their names.  The code of accumulators of one's own counts.

    Examples
    --------
    >>> import lamp
    >>> from dataclasses import replace
    >>> from lamp.machines import digest
    >>> machine = lamp.hardware("hopper")
    >>> digest(machine) == digest(replace(machine, name="mine"))
    True
    >>> digest(machine) == digest(replace(machine, norm="float16"))
    False
    """
    facts = _facts(replace(machine, name=""))
    if own := definitions(machine):
        facts["definitions"] = own
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _facts(value: Any) -> Any:
    """All that takes part in comparisons, as plain data; what is None is left out."""
    if is_dataclass(value):
        held = {each.name: getattr(value, each.name) for each in fields(value) if each.compare}
        facts = {name: _facts(part) for name, part in held.items() if part is not None}
        return {"kind": kind_name(type(value)), **facts}
    if isinstance(value, tuple):
        return [_facts(each) for each in value]
    return int(value) if isinstance(value, (bool, np.bool_, np.integer)) else value
