"""Look-ahead recomputation of matrix products: where, by which rules, and how much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fpemu
from lamp._kernels.rows import total
from lamp.lookahead.rules import LAMP, PLACES
from lamp.lookahead.selection import select_rows
from lamp.machines import Operand, Product

__all__ = ["LookAhead", "Recomputation", "Tiles", "error_weights", "replace_selected"]


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
    """

    selected: int
    components: int
    terms: int
    tiles: Tiles | None = None


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

    @property
    def is_causal(self) -> bool:
        """Whether what is recomputed for a token does not depend on later tokens."""
        rules = (getattr(self, place) for place in PLACES)
        return all(rule is None or rule.is_causal for rule in rules)


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
    high: NDArray[Any],
    overflowed: NDArray[np.bool_],
    settings: LAMP,
    *,
    probabilities: NDArray[Any] | None,
    sensitivity: NDArray[Any] | None,
    weights: NDArray[Any] | None,
    stream: int,
) -> NDArray[np.bool_]:
    """Replace the components that a rule picks by those in high precision, in place.

    Parameters
    ----------
    low : ndarray, shape (rows, n)
        The components to replace some of; those that overflowed are in high precision already.
    high : ndarray, shape (rows, n)
        The components in high precision.
    overflowed : ndarray of bool, shape (rows, n)
        Components that count as picked whatever the rule.
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
        Which components are in high precision.
    """
    lengths = np.full(len(low), low.shape[1], np.int64)
    z = low if probabilities is None else probabilities
    mask = overflowed | select_rows(
        z,
        lengths,
        settings,
        weights=weights,
        sensitivity=sensitivity,
        arguments=low,
        stream=stream,
    )
    np.copyto(low, high, where=mask)
    return mask
