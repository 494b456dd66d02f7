"""Look-ahead recomputation of matrix products: where, by which rules, and how much."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import fpemu
from lamp._kernels import recomputing
from lamp._kernels.rows import total
from lamp.lookahead.rules import LAMP, PLACES
from lamp.lookahead.selection import select_rows
from lamp.machines import Hardware, Operand, Product, in_words, read_numbers, spelled

__all__ = [
    "LookAhead",
    "Recomputation",
    "Tiles",
    "error_weights",
    "put_levels",
    "replace_selected",
]


@dataclass(frozen=True)
class Tiles:
    """How many tiles of attention were recomputed, in part at least, and how many of their parts.

    Tiles and parts count if a row sees one of their keys.

    Parameters
    ----------
    recomputed : int
        Tiles with a recomputed part.
    tiles : int
    recomputed_parts : int
    parts : int
    """

    recomputed: int = 0
    tiles: int = 0
    recomputed_parts: int = 0
    parts: int = 0

    def __add__(self, other: Tiles) -> Tiles:
        return Tiles(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Recomputation:
    """How much of a step of a layer was recomputed.

    Parameters
    ----------
    selected : int
        The number of components that were computed in high precision.
    components : int
        The number of all components; scores have one per causal pair.
    terms : int
        The number of multiply-adds of a component.
    tiles : Tiles, optional
        For scores of attention by tiles, how many tiles and parts these are.
    levels : tuple of int
        Where there are several precisions to recompute in, the number of components of each.
    widths : tuple of int
        Then the bits of the accumulators of the step and of each precision.
    """

    selected: int
    components: int
    terms: int
    tiles: Tiles | None = None
    levels: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, mask: NDArray[Any], step: Product, machine: Hardware, *, components: int, terms: int
    ) -> Recomputation:
        """How much was recomputed.

        Parameters
        ----------
        mask : ndarray of bool or uint8
            Which components, or by which of the machine's products, see :func:`lamp.select`.
        step : Product
            What computes the others.
        machine : Hardware
        components, terms : int

        Returns
        -------
        Recomputation
        """
        selected = int(np.count_nonzero(mask))
        if len(machine.levels) == 1:
            return cls(selected, components, terms)
        counts = np.bincount(np.ravel(mask), minlength=len(machine.levels) + 1)[1:]
        widths = (each.accumulator.format.bits for each in (step, *machine.levels))
        return cls(selected, components, terms, None, tuple(counts.tolist()), tuple(widths))

    def __add__(self, other: Recomputation) -> Recomputation:
        """Of the components of both, which have as many terms and the same precisions."""
        tiles = self.tiles
        if tiles is not None and other.tiles is not None:
            tiles += other.tiles
        return replace(
            self,
            selected=self.selected + other.selected,
            components=self.components + other.components,
            tiles=tiles,
            levels=tuple(a + b for a, b in zip(self.levels, other.levels, strict=True)),
        )


@dataclass(frozen=True)
class LookAhead:
    """The places of look-ahead and the rules of each.

    Parameters
    ----------
    softmax, norm, activation, logits : LAMP or tuple of LAMP, optional
        The rule of the place, or several, each for other layers; None if look-ahead is off there.

    Raises
    ------
    TypeError
        If one of them is not a LAMP.
    ValueError
        If one is for another place, or two are for the same layers.
    """

    softmax: Any = None
    norm: Any = None
    activation: Any = None
    logits: Any = None

    def __post_init__(self) -> None:
        for place in PLACES:
            given = getattr(self, place)
            several = given if isinstance(given, tuple) else () if given is None else (given,)
            for rule in several:
                if not isinstance(rule, LAMP):
                    raise TypeError(f"{place} must be a LAMP or None, not {rule!r}")
                if rule.on != place:
                    raise ValueError(f"{place} must be a rule for that place, not {rule}")
            _check_apart(several)
            held = several if len(several) > 1 else several[0] if several else None
            object.__setattr__(self, place, held)

    @classmethod
    def of(cls, lamp: LAMP | Iterable[LAMP] | None) -> LookAhead:
        """Look-ahead by one or several rules, each for another place or other layers.

        Parameters
        ----------
        lamp : LAMP, iterable of LAMP, or None

        Returns
        -------
        LookAhead

        Raises
        ------
        TypeError
            If one of them is not a LAMP.
        ValueError
            If two are for the same place and layers.
        """
        several = isinstance(lamp, Iterable) and not isinstance(lamp, str)
        given = list(lamp) if several else [] if lamp is None else [lamp]  # type: ignore[arg-type]
        places: dict[str, tuple[LAMP, ...]] = {}
        for each in given:
            if not isinstance(each, LAMP):
                raise TypeError(
                    f"lamp must be a LAMP, several or None, not {type(each).__name__} {each!r}"
                )
            places[each.on] = (*places.get(each.on, ()), each)
        return cls(**places)

    @property
    def rules(self) -> tuple[LAMP, ...]:
        """All rules."""
        return tuple(rule for place in PLACES for rule in self._at(place))

    def _at(self, place: str) -> tuple[LAMP, ...]:
        given = getattr(self, place)
        return given if isinstance(given, tuple) else () if given is None else (given,)

    def of_layer(self, layer: int, layers: int) -> LookAhead:
        """The rules of one layer of a model: one for each place at most.

        Parameters
        ----------
        layer : int
            From 0; the number of layers stands for what is behind the last one.
        layers : int
            How many layers the model has.

        Returns
        -------
        LookAhead
        """
        if not any(rule.layers for rule in self.rules):
            return self
        found: dict[str, LAMP] = {}
        for rule in self.rules:
            if layer in _numbers(rule, layers):
                found[rule.on] = replace(rule, layers="")
            elif not rule.layers:
                found.setdefault(rule.on, rule)
        return LookAhead(**found)

    def check_layers(self, layers: int, model: str = "the model") -> None:
        """Raise a ValueError unless a model has every layer of the rules, once for each place.

        Parameters
        ----------
        layers : int
            How many layers the model has.
        model : str
            What a message calls it.

        Raises
        ------
        ValueError
            If a rule is for a layer that the model has not, or two are for the same one.
        """
        for rule in self.rules:
            for number in read_numbers(rule.layers) if rule.layers else ():
                if not -layers <= number < layers:
                    raise ValueError(
                        f"{rule} is for layer {number}, but {model} has {layers} layers, 0 to "
                        f"{layers - 1}"
                    )
        for place in PLACES:
            _check_apart(self._at(place), layers)

    def check(self, machine: Hardware) -> None:
        """Raise a ValueError unless each rule has an amount for each product that recomputes.

        Parameters
        ----------
        machine : Hardware

        Raises
        ------
        ValueError
            If a rule has more or fewer amounts than `recomputed` has products, in any layer.
        """
        for rule, each in itertools.product(self.rules, machine.machines.values()):
            products = len(each.levels)
            if len(rule.levels) != products:
                has = "one product" if products == 1 else f"{products} products"
                raise ValueError(
                    f"{each.name} recomputes by {has}, so that a rule takes as many amounts, not "
                    f"{len(rule.levels)}: {rule}"
                )

    @property
    def is_causal(self) -> bool:
        """Whether what is recomputed for a token does not depend on later tokens."""
        return all(rule.is_causal for rule in self.rules)

    def is_causal_on(self, machine: Hardware) -> bool:
        """Whether nothing that a model computes for a token on a machine depends on later tokens.

        Parameters
        ----------
        machine : Hardware

        Returns
        -------
        bool
        """
        attentions = (each.attention for each in machine.machines.values())
        # A part of a tile is recomputed for all of its rows.
        tall = any(tiled is not None and tiled.rows > 1 for tiled in attentions)
        return machine.is_causal and self.is_causal and not (tall and self.softmax is not None)


def _numbers(rule: LAMP, layers: int = 0) -> set[int]:
    """The layers that a rule names, counted from the front if there are known to be so many."""
    numbers = read_numbers(rule.layers) if rule.layers else ()
    return {number % layers if layers else number for number in numbers}


def _check_apart(rules: Sequence[LAMP], layers: int = 0) -> None:
    """Raise a ValueError if two rules for a place are for the same layers of so many, if known."""
    for first, second in itertools.combinations(rules, 2):
        one, other = (_numbers(rule, layers) for rule in (first, second))
        if one & other or not (one or other):
            where = f" in {in_words(spelled(sorted(one & other)))}" if one else ""
            raise ValueError(f"there are two rules for {first.on}{where}: {first} and {second}")


def error_weights(
    name: str,
    factors: tuple[NDArray[Any], NDArray[Any]],
    operands: tuple[Operand, Operand],
    step: Product,
    lengths: NDArray[np.int64] | None = None,
) -> NDArray[Any]:
    """Numbers to which the errors of a product's components are assumed to be proportional.

    Parameters
    ----------
    name : {"products", "norms", "running_1", "running_2"}
        See :data:`lamp.lookahead.rules.WEIGHTS`.
    factors : tuple of ndarray, shapes (..., m, k) and (..., k, n)
        The factors before they are rounded.
    operands : tuple of Operand
        The factors as the step takes them.
    step : Product
        The step that multiplies them.
    lengths : ndarray of int64, shape (m,), optional
        The number of leading columns to compute in each row.

    Returns
    -------
    ndarray, shape (..., m, n)

    Raises
    ------
    ValueError
        If operands have scales and `name` stands for running sums.
    """
    left, right = factors
    if name == "products":
        plain = fpemu.Sequential("float32" if left.dtype == np.float32 else "float64")
        return np.asarray(fpemu.matmul(np.abs(left), np.abs(right), plain, row_lengths=lengths))
    if name == "norms":
        of_left, of_right = _norms(left), _norms(np.swapaxes(right, -1, -2))
        found = np.empty((*left.shape[:-1], right.shape[-1]), left.dtype)
        # numpy rounds float64 products as it goes.
        across = np.swapaxes(of_right, -1, -2)
        np.multiply(of_left, across, out=found, dtype=np.float64, casting="same_kind")
        return found
    if operands[0].scales is not None or not isinstance(operands[0].values, np.ndarray):
        raise ValueError(f"weights {name!r} are not known where operands have scales: use others")
    which: Literal["first", "second"] = "first" if name == "running_1" else "second"
    a, b = (operand.values for operand in operands)
    if a.ndim == 2:
        return _running(a, b, step, lengths, which).astype(left.dtype)
    # Matrix by matrix, as running sums come in float64.
    weights = np.empty((*a.shape[:-1], b.shape[-1]), left.dtype)
    for place, x, y in zip(weights, a, b, strict=True):
        place[:] = _running(x, y, step, lengths, which)
    return weights


def _running(
    a: Any, b: Any, step: Product, lengths: Any, which: Literal["first", "second"]
) -> NDArray[Any]:
    _, sums = fpemu.matmul(a, b, step.accumulator, row_lengths=lengths, running=which)
    return np.asarray(getattr(sums, which))


def _norms(x: NDArray[Any]) -> NDArray[np.float64]:
    """The 2-norms of vectors along the last axis, which is kept."""
    return np.sqrt(total(np.square(x, dtype=np.float64)))


def replace_selected(
    low: NDArray[Any],
    levels: Sequence[NDArray[Any]],
    overflowed: NDArray[np.bool_],
    settings: LAMP,
    *,
    probabilities: NDArray[Any] | None,
    sensitivity: NDArray[Any] | None,
    weights: NDArray[Any] | None,
    stream: int,
) -> NDArray[Any]:
    """Replace the components that a rule picks by those in high precision, in place.

    Parameters
    ----------
    low : ndarray, shape (rows, n)
        The components to replace some of; those that overflowed are in the highest precision
        already.
    levels : sequence of ndarray, shape (rows, n)
        The components in each precision that there is to recompute in.
    overflowed : ndarray of bool, shape (rows, n)
        Components that count as picked for the highest precision whatever the rule.
    settings : LAMP
        The rule.
    probabilities : ndarray, shape (rows, n), optional
        f of `low` for rules of a softmax; other rules need none.
    sensitivity, weights : ndarray, shape (rows, n), optional
        See :func:`lamp.select`.
    stream : int
        Tells random selections apart.

    Returns
    -------
    ndarray of bool, shape (rows, n)
        Which components are in high precision; of uint8 if there are several, see
        :func:`lamp.select`.
    """
    lengths = np.full(len(low), low.shape[1], np.int64)
    z = low if probabilities is None else probabilities
    mask = select_rows(
        z,
        lengths,
        settings,
        weights=weights,
        sensitivity=sensitivity,
        arguments=low,
        stream=stream,
    )
    put_levels(low, levels, mask, overflowed)
    return mask


def put_levels(
    low: NDArray[Any],
    levels: Sequence[NDArray[Any]],
    mask: NDArray[Any],
    overflowed: NDArray[np.bool_],
) -> None:
    """Replace the components of a mask by those in their precisions, in place.

    Parameters
    ----------
    low : ndarray
        The components to replace some of.
    levels : sequence of ndarray
        The components in each precision.
    mask : ndarray of bool or uint8
        Which to replace, or by which precision, see :func:`lamp.select`; those that overflowed are
        put in, with the highest.
    overflowed : ndarray of bool
    """
    if overflowed.any():
        np.copyto(mask, mask.dtype.type(len(levels)), where=overflowed)
    flat = low.reshape(-1), mask.view(np.uint8).reshape(-1)
    assert np.shares_memory(flat[0], low), "numbers that are replaced lie side by side"
    for number, numbers in enumerate(levels, 1):
        high = np.ascontiguousarray(numbers, low.dtype).reshape(-1)
        recomputing.put(flat[0], high, flat[1], number)
