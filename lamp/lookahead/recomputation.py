"""Look-ahead recomputation of matrix products: where, by which rules, and how much."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fpemu
from lamp._kernels.rows import total
from lamp.lookahead.rules import LAMP, PLACES
from lamp.lookahead.selection import select_rows
from lamp.machines import Hardware, Operand, Product

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
    """The places of look-ahead and the rule of each.

    Parameters
    ----------
    softmax, norm, activation, logits : LAMP, optional
        The rule of the place; None if look-ahead is off there.

    Raises
    ------
    TypeError
        If one of them is not a LAMP.
    ValueError
        If one is for another place.
    """

    softmax: LAMP | None = None
    norm: LAMP | None = None
    activation: LAMP | None = None
    logits: LAMP | None = None

    def __post_init__(self) -> None:
        for place in PLACES:
            rule = getattr(self, place)
            if rule is not None and not isinstance(rule, LAMP):
                raise TypeError(f"{place} must be a LAMP or None, not {rule!r}")
            if rule is not None and rule.on != place:
                raise ValueError(f"{place} must be a rule for that place, not {rule}")

    @classmethod
    def of(cls, lamp: LAMP | Iterable[LAMP] | None) -> LookAhead:
        """Look-ahead by one or several rules, each for another place.

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
            If two are for the same place.
        """
        several = isinstance(lamp, Iterable) and not isinstance(lamp, str)
        given = list(lamp) if several else [] if lamp is None else [lamp]  # type: ignore[arg-type]
        places: dict[str, LAMP] = {}
        for each in given:
            if not isinstance(each, LAMP):
                raise TypeError(
                    f"lamp must be a LAMP, several or None, not {type(each).__name__} {each!r}"
                )
            if each.on in places:
                raise ValueError(f"there are two rules for {each.on}: {places[each.on]} and {each}")
            places[each.on] = each
        return cls(**places)

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
        rules = [rule for place in PLACES if (rule := getattr(self, place)) is not None]
        for rule, each in itertools.product(rules, machine.machines.values()):
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
        rules = (getattr(self, place) for place in PLACES)
        return all(rule is None or rule.is_causal for rule in rules)

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
        return (of_left * np.swapaxes(of_right, -1, -2)).astype(left.dtype)
    if operands[0].scales is not None or not isinstance(operands[0].values, np.ndarray):
        raise ValueError(f"weights {name!r} are not known where operands have scales: use others")
    which = "first" if name == "running_1" else "second"
    a, b = (operand.values for operand in operands)
    if a.ndim == 2:
        return _running(a, b, step, lengths, which).astype(left.dtype)
    # Matrix by matrix, as running sums come in float64.
    weights = np.empty((*a.shape[:-1], b.shape[-1]), left.dtype)
    for place, x, y in zip(weights, a, b, strict=True):
        place[:] = _running(x, y, step, lengths, which)
    return weights


def _running(a: Any, b: Any, step: Product, lengths: Any, which: str) -> NDArray[Any]:
    _, sums = fpemu.matmul(a, b, step.accumulator, row_lengths=lengths, running=True)
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
    np.copyto(mask, mask.dtype.type(len(levels)), where=overflowed)
    for number, numbers in enumerate(levels, 1):
        np.copyto(low, numbers, where=mask == number)
