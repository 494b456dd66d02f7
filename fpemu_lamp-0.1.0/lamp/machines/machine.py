"""A simulated machine as data: the arithmetic of every step of a model.

A step is a matrix product, a function or a sum.  Its result is rounded into the step's output
format; the next step reads it from an array in the machine's carrier.  A machine may compute some
layers of a model otherwise than the rest.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Final

import numpy as np

import fpemu
from fpemu import _html
from fpemu._listing import Listed
from fpemu._reprs import constructed
from fpemu.scaling import BlockFormat
from lamp.machines.definitions import definitions, kind_name
from lamp.machines.layers import in_words, layer_numbers, place, spelled
from lamp.machines.steps import Function, Product, Sum, Tiled

__all__ = ["LAYER_FIELDS", "STEPS", "Hardware", "UnusedStepWarning", "digest"]

_MOST_LEVELS: Final = 255  # the largest number that a mask of them holds
OTHERWISE: Final = "otherwise than the rest:"
"""What :meth:`Hardware.described` says of layers before their steps."""

# Steps that machines usually compute alike.
_ALIKE: Final = (
    ("qkv", "attention_output", "mlp_up", "mlp_down", "lm_head"),
    ("norm", "softmax", "activation"),
    ("embedding", "residual"),
)

_PRODUCT: Final = Product()
_FUNCTION: Final = Function()
_SUM: Final = Sum()


def _set(instance: Any, name: str, value: Any) -> None:
    """Set a field of a frozen dataclass in its ``__post_init__``."""
    object.__setattr__(instance, name, value)


class UnusedStepWarning(UserWarning):
    """A machine names a step that a model does not have, see :meth:`lamp.Hardware.named_steps`."""


# --- checks of fields -----------------------------------------------------------------------------


def _made(make: Callable[[Any], Any], given: Any, name: str) -> Any:
    """What stands for a field, made from what was given; errors name the field."""
    try:
        return make(given)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def _checked_step(given: Any, name: str, kind: Any) -> Any:
    """A step of a machine, from it or from what stands for it."""
    step = given if isinstance(given, (Product, Function, Sum)) else _made(kind, given, name)
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


def _checked_field(given: Any, name: str) -> Any:
    """The format of weights, a step, or how attention goes through the keys."""
    if name == "weights":
        return _made(fpemu.format, given, name)
    if name == "attention":
        if given is None or isinstance(given, Tiled):
            return given
        raise TypeError(f"attention must be a Tiled or None, not {given!r}")
    if name == "recomputed" and isinstance(given, (tuple, list)):
        return _checked_levels(given)
    step = _checked_step(given, name, STEPS[name])
    if name == "activation" and step.steps is not None:
        raise ValueError("activation: an activation has no inner steps to round")
    if name == "values" and (
        isinstance(step.operands, BlockFormat) or step.scaling in ("row", "block")
    ):
        raise ValueError(
            "values can have no scales by row or block: they lie along the tokens, and an "
            "early token would depend on later ones"
        )
    return step


def _collected(given: Any) -> dict[int, dict[str, Any]]:
    """What layers do otherwise, by number and field; a machine holds pairs in place of mappings."""
    if not isinstance(given, (Mapping, tuple)):
        raise TypeError(f"layers must be a mapping of layers to machines or steps, not {given!r}")
    found: dict[int, dict[str, Any]] = {}
    for where, changed in given.items() if isinstance(given, Mapping) else given:
        numbers = layer_numbers(where)
        steps = _checked_changes(changed, spelled(numbers))
        for number in numbers:
            held = found.setdefault(number, {})
            for name, step in steps.items():
                if held.setdefault(name, step) != step:
                    raise ValueError(
                        f"layer {number} is given {name} twice: {held[name]}, and {step}"
                    )
    return found


def _checked_changes(changed: Any, where: str) -> dict[str, Any]:
    """The fields in which layers differ, from a machine or a mapping."""
    if isinstance(changed, Hardware):
        if changed.layers:
            raise ValueError(
                f"layer {where}: {changed.name!r} differs by layer itself: give a machine that "
                "does not"
            )
        return {name: getattr(changed, name) for name in LAYER_FIELDS}
    if not isinstance(changed, (Mapping, tuple)):
        raise TypeError(f"layer {where} must be a machine or a mapping of steps, not {changed!r}")
    steps = dict(changed)
    for name, step in steps.items():
        if name not in LAYER_FIELDS:
            raise ValueError(
                f"layer {where}: {name!r} is no step of a layer: expected {', '.join(LAYER_FIELDS)}"
            )
        try:
            steps[name] = _checked_field(step, name)
        except (ValueError, TypeError) as error:
            raise type(error)(f"layer {where}: {error}") from error
    return steps


def _derived(step: Any, *labels: Any) -> Any:
    """A step, or each of several, with seeds of its own."""
    if not isinstance(step, tuple):
        return step.derived(*labels)
    return tuple(each.derived(*labels, level) for level, each in enumerate(step, 1))


# --- machines -------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Hardware(metaclass=Listed):
    """A machine that runs a language model: the arithmetic of every step.

    Where a Product is expected, an accumulator or a format will do; where a
    Function or a Sum is expected, the format of its output will.

    ================  ========  ============================================
    field             type      meaning
    ================  ========  ============================================
    name              str       what the machine is called
    weights           Format    stored weights; a checkpoint is rounded into it
    embedding         Sum       token plus position embedding
    norm              Function  every LayerNorm or RMSNorm
    qkv               Product   queries, keys, values of the normed stream
    scores            Product   queries times keys / sqrt(head dimension)
    softmax           Function  probabilities from scores
    values            Product   probabilities times values
    attention_output  Product   all heads, projected into the residual stream
    mlp_up            Product   projection into the feed-forward layer
    activation        Function  nonlinearity of the feed-forward layer
    mlp_down          Product   projection into the residual stream
    residual          Sum       residual stream plus the output of a layer
    lm_head           Product   logits
    recomputed        Product   components that look-ahead selects
    attention         Tiled     attention by tiles; None: row by row
    layers            mapping   layers that differ, see `with_layers`
    ================  ========  ============================================

    Methods of a machine are `described`, `with_layers`, `of_layer`, `save` and
    others, see ``dir(machine)``.

    Examples
    --------
    >>> import lamp
    >>> print(lamp.Hardware("low scores", scores="e8m4").scores.accumulator)
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
    layers: Any = ()

    # Set by lamp.machines.files, which builds on this module.
    load: ClassVar[Callable[[str | os.PathLike[str]], Hardware]]
    save: ClassVar[Callable[[Hardware, str | os.PathLike[str]], None]]
    _named: ClassVar[Callable[[Any], Hardware]]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, not {self.name!r}")
        for name in ("weights", *STEPS, "attention"):
            _set(self, name, _checked_field(getattr(self, name), name))
        # Fields that are as in the rest of the machine say nothing: equal machines are one.
        differing = (
            (
                number,
                tuple((name, steps[name]) for name in LAYER_FIELDS if self._differs(steps, name)),
            )
            for number, steps in sorted(_collected(self.layers).items(), key=lambda x: place(x[0]))
        )
        _set(self, "layers", tuple((number, steps) for number, steps in differing if steps))

    def _differs(self, steps: Mapping[str, Any], name: str) -> bool:
        return name in steps and steps[name] != getattr(self, name)

    # --- what people see --------------------------------------------------------------------------

    def described(self) -> Iterator[tuple[str, str]]:
        """Every step in words, as ``lamp hardware show`` prints them.

        Yields
        ------
        label, how : str
            The name of a step, and how it is computed.  The steps of layers that differ follow a
            line for these layers, whose second text is `OTHERWISE`.
        """
        for step in ("weights", *STEPS, *(("attention",) if self.attention else ())):
            yield from _described(step, getattr(self, step))
        for numbers, steps in self.layers_alike():
            yield in_words(spelled(numbers)), OTHERWISE
            for step, value in steps:
                yield from _described(step, value)

    def __repr__(self) -> str:
        if self._is_named():
            return f"lamp.hardware({self.name!r})"
        return constructed(self, "lamp")

    def _is_named(self) -> bool:
        """Whether the name alone stands for the machine; names of files do not."""
        if self.name.endswith(".toml"):
            return False
        try:
            return type(self)._named(self.name) == self
        except (OSError, ValueError, TypeError):
            return False

    def _repr_html_(self) -> str:
        return _html.facts(self.name, self.described())

    # --- layers -----------------------------------------------------------------------------------

    def with_layers(self, layers: Mapping[Any, Any], name: str | None = None) -> Hardware:
        """The machine with some layers that compute otherwise than the rest.

        Parameters
        ----------
        layers : mapping
            By the number of a layer, a tuple of numbers, or a text such as ``"0-2,-1"``: a machine,
            its name, or a mapping of steps, which may be given as in :class:`Hardware`.  Negative
            numbers count from the end.  A machine stands for all that it does in a layer, which is
            all but `embedding` and `lm_head`; `weights`, the format of the layer's own, and
            `attention` are among it.  What is not given stays as it is.
        name : str, optional
            By default the machine's name and the beginning of the :func:`lamp.machines.digest` of
            what comes of it.

        Returns
        -------
        Hardware

        Raises
        ------
        ValueError
            If a layer is given the same step twice, a step is none of a layer, or a machine differs
            by layer itself.
        TypeError
            If a layer is given something else.

        Examples
        --------
        The first and the last layer in bfloat16, the rest in 8 bits:

        >>> import lamp
        >>> machine = lamp.hardware("hopper-fp8").with_layers({(0, -1): "bf16"})
        >>> [machine.of_layer(layer, 6).qkv.output.name for layer in (0, 1, 5)]
        ['bfloat16', 'bfloat16', 'bfloat16']
        >>> [str(machine.of_layer(layer, 6).qkv.operands) for layer in (0, 1, 5)]
        ['bfloat16', 'float8_e4m3fn', 'bfloat16']
        """
        if not isinstance(layers, Mapping):
            raise TypeError(
                f"layers must be a mapping of layers to machines or steps, not {layers!r}"
            )
        named = {
            where: type(self)._named(changed) if isinstance(changed, str) else changed
            for where, changed in layers.items()
        }
        held = _collected(self.layers)
        for number, steps in _collected(named).items():
            held.setdefault(number, {}).update(steps)
        found = replace(self, layers=held)
        if name is None:
            name = self.name if found == self else f"{self.name}-{digest(found)[:8]}"
        return replace(found, name=name)

    def of_layer(self, layer: int, layers: int) -> Hardware:
        """The machine of one layer of a model, with random bits of its own.

        Parameters
        ----------
        layer : int
            From 0; the number of layers stands for what is behind the last one.
        layers : int
            How many layers the model has.

        Returns
        -------
        Hardware
            One without layers.

        Raises
        ------
        ValueError
            As :meth:`check_layers`.
        """
        if not self.layers:
            return self.derived(layer)
        return self._plain[self._resolved(layers).get(layer)].derived(layer)

    def check_layers(self, layers: int, model: str = "the model") -> None:
        """Raise a ValueError unless a model has every layer of the machine, once.

        Parameters
        ----------
        layers : int
            How many layers the model has.
        model : str
            What a message calls it.

        Raises
        ------
        ValueError
            If the machine has a layer that the model has not, or two numbers of it, such as 5 and
            -1, are the same layer of the model.
        """
        self._resolved(layers, model)

    def counted(self, layers: int) -> Hardware:
        """The same machine for models of so many layers, with all of them counted from the front.

        Parameters
        ----------
        layers : int
            How many layers the models have.

        Returns
        -------
        Hardware

        Raises
        ------
        ValueError
            As :meth:`check_layers`.
        """
        found = {
            layer: dict(self.layers)[number] for layer, number in self._resolved(layers).items()
        }
        return replace(self, layers=tuple(found.items()))

    def _resolved(self, layers: int, model: str = "the model") -> dict[int | None, int]:
        """The machine's number of each layer of a model that differs from the rest."""
        found: dict[int | None, int] = {}
        for number, _ in self.layers:
            if not -layers <= number < layers:
                raise ValueError(
                    f"{self.name!r} says what layer {number} computes, but {model} has {layers} "
                    f"layers, 0 to {layers - 1}"
                )
            layer = number % layers
            if layer in found:
                raise ValueError(
                    f"{self.name!r} has layers {found[layer]} and {number}, which are the same one "
                    f"of {model}, of {layers} layers"
                )
            found[layer] = number
        return found

    def layers_alike(self) -> list[tuple[tuple[int, ...], tuple[tuple[str, Any], ...]]]:
        """The layers that differ, those that do so alike together: their numbers and fields."""
        found: dict[Any, list[int]] = {}
        for number, steps in self.layers:
            found.setdefault(steps, []).append(number)
        return [(tuple(numbers), steps) for steps, numbers in found.items()]

    @property
    def machines(self) -> Mapping[int | None, Hardware]:
        """A machine without layers for each layer that differs; that of the rest is at None."""
        return self._plain

    @cached_property
    def _plain(self) -> dict[int | None, Hardware]:
        rest = replace(self, layers=()) if self.layers else self
        return {None: rest} | {
            number: replace(rest, name=f"{self.name}, layer {number}", **dict(steps))
            for number, steps in self.layers
        }

    def mapped(self, change: Callable[[Hardware], Hardware]) -> Hardware:
        """The machine with a change made to all of it, whatever the layer.

        Parameters
        ----------
        change : callable
            Makes a machine of a machine without layers.

        Returns
        -------
        Hardware
            It has the name that the change gives to the rest.
        """
        changed = {number: change(machine) for number, machine in self._plain.items()}
        return replace(changed.pop(None), layers=changed)

    # --- what holds for all layers ----------------------------------------------------------------

    @property
    def levels(self) -> tuple[Product, ...]:
        """The products that recompute, the lowest precision first: one or several."""
        recomputed = self.recomputed
        return recomputed if isinstance(recomputed, tuple) else (recomputed,)

    def named_steps(self, among: Collection[str]) -> tuple[str, ...]:
        """The steps among some that the machine computes otherwise than the others of their kind.

        Products of weights are of a kind, functions, and sums: most machines compute each kind in
        one way.  What layers do otherwise does not count.

        Parameters
        ----------
        among : collection of str
            Names of steps.

        Returns
        -------
        tuple of str
            All of a kind of which there are no others.

        Examples
        --------
        >>> import lamp
        >>> lamp.hardware("hopper-fp8").named_steps({"lm_head", "activation"})
        ()
        >>> lamp.Hardware("low logits", lm_head="e8m4").named_steps({"lm_head", "activation"})
        ('lm_head',)
        """
        found = []
        for kind in _ALIKE:
            others = [getattr(self, name) for name in kind if name not in among]
            usual = max(others, key=others.count, default=None)
            found += [name for name in kind if name in among and getattr(self, name) != usual]
        return tuple(found)

    @property
    def carrier(self) -> np.dtype[Any]:
        """The type of arrays between steps: float32 if it holds all their numbers, else float64.

        It is the same in all layers.  No step's result depends on it; only some of what rules take
        errors to be proportional to is computed in it.
        """
        held = [_formats(machine) for machine in self._plain.values()]
        return np.dtype(np.result_type(*(format.carrier for formats in held for format in formats)))

    @cached_property
    def scores_are_low(self) -> bool:
        """Whether `scores` differs from the last of `levels`, which has the same channel order."""
        return bool(replace(self.scores, order=None) != self.levels[-1])

    @property
    def is_causal(self) -> bool:
        """Whether a token's numbers can be computed before later tokens are known.

        They cannot if random bits are drawn by position in an array that grows, or if a sum is a
        tree whose shape depends on the number of terms; a tile always has all its terms.
        """
        return all(
            not each._is_stochastic and (each.attention is not None or each.values.is_causal)
            for each in self._plain.values()
        )

    def derived(self, layer: int) -> Hardware:
        """A machine without layers with random bits of its own for a layer.

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

    @cached_property
    def _is_stochastic(self) -> bool:
        """Whether any step draws random bits."""
        steps = self._steps().values()
        parts = (part for step in steps for part in (step if isinstance(step, tuple) else (step,)))
        return any(part.is_stochastic for part in parts)

    def _steps(self) -> dict[str, Any]:
        """All that rounds: the steps, and the inner steps of attention."""
        steps = {name: getattr(self, name) for name in STEPS}
        return steps if self.attention is None else {**steps, "attention": self.attention}


def _described(step: str, value: Any) -> Iterator[tuple[str, str]]:
    """The lines of a step: its name, and how it is computed."""
    if step == "weights":
        yield step, f"stored in {value}"
    elif isinstance(value, tuple):  # several products that recompute
        yield from ((f"{step}, {level}", str(each)) for level, each in enumerate(value, 1))
    else:
        yield step, "by rows" if value is None else str(value)


def _formats(machine: Hardware) -> list[Any]:
    """The formats of all numbers between the steps of a machine without layers."""
    steps = [getattr(machine, name) for name in STEPS if name != "recomputed"]
    return [machine.weights, *(step.output for step in (*steps, *machine.levels))]


def _kinds_of_steps() -> Iterator[tuple[str, Any]]:
    for field in fields(Hardware):
        if isinstance(field.default, (Product, Function, Sum)):
            yield field.name, type(field.default)


STEPS: Final[dict[str, Any]] = dict(_kinds_of_steps())
"""The kind of every step of a machine, by name."""

_OUTSIDE: Final = ("embedding", "lm_head")
LAYER_FIELDS: Final = (
    "weights",
    *(name for name in STEPS if name not in _OUTSIDE),
    "attention",
)
"""What may differ by layer: the format of weights, the steps within a layer, attention."""


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
    if not machine.layers:  # as it was before machines had layers
        del facts["layers"]
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
