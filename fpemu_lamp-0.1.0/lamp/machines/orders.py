"""The order in which the channels of queries and keys are summed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ORDERS", "Order", "checked_order", "sorted_channels"]

ORDERS: Final = {"ascending": 1, "descending": -1}
"""The orders that are found from a text, and the sign of the magnitudes that they sort."""


@dataclass(frozen=True)
class Order:
    """A permutation of the channels for each layer and head.

    Parameters
    ----------
    permutations : sequence of sequence of sequence of int
        By layer, by head, the numbers of the channels in the order in which they are summed.

    Raises
    ------
    ValueError
        If a head's numbers are not those of its channels, each once, or heads differ in size.

    Examples
    --------
    >>> from lamp.machines import Order
    >>> order = Order([[[2, 0, 1], [0, 1, 2]]])
    >>> order.shape, order.of_layer(0).tolist()
    ((1, 2, 3), [[2, 0, 1], [0, 1, 2]])
    """

    permutations: tuple[tuple[tuple[int, ...], ...], ...]

    def __post_init__(self) -> None:
        table = _checked_table(self.permutations)
        held = tuple(tuple(tuple(head) for head in layer) for layer in table.tolist())
        object.__setattr__(self, "permutations", held)

    def __str__(self) -> str:
        layers, heads, _ = self.shape
        return f"by a table of {layers} layers and {heads} heads ({self.digest[:8]})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number of layers, of heads and of channels."""
        layers = self.permutations
        return len(layers), len(layers[0]), len(layers[0][0])

    @property
    def digest(self) -> str:
        """The SHA-256 of the table as little-endian 64-bit integers."""
        return hashlib.sha256(np.array(self.permutations, "<i8").tobytes()).hexdigest()

    def of_layer(self, layer: int) -> NDArray[np.int64]:
        """The permutations of a layer, of shape (heads, channels)."""
        return np.array(self.permutations[layer], np.int64)


def _checked_table(permutations: Any) -> NDArray[np.int64]:
    """Permutations as an array of shape (layers, heads, channels)."""
    if isinstance(permutations, Sequence) and permutations == ():
        raise ValueError("an order of channels needs a permutation for each layer and head")
    try:
        table = np.asarray(permutations)
    except ValueError:  # lists of different lengths
        table = np.empty(0)
    if table.dtype.kind not in "iu" or table.ndim != 3 or not table.size:
        raise ValueError(
            "an order of channels must be lists of integers by layer and head, all of one length"
        )
    wrong = (np.sort(table, axis=-1) != np.arange(table.shape[-1])).any(axis=-1)
    if wrong.any():
        layer, head = np.argwhere(wrong)[0]
        raise ValueError(
            f"an order of channels must hold 0 to {table.shape[-1] - 1} once each, unlike that of "
            f"layer {layer}, head {head}"
        )
    return table.astype(np.int64)


def checked_order(given: Any) -> Order | str | None:
    """An order, the name of one that is yet to be found, or None.

    Parameters
    ----------
    given : Order, str, nested sequence of int, or None

    Returns
    -------
    Order, str or None

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if given is None or isinstance(given, Order):
        return given
    if isinstance(given, str):
        if given in ORDERS:
            return given
        raise ValueError(
            f"unknown order {given!r}: expected {', '.join(ORDERS)}, or a permutation of the "
            "channels for each layer and head"
        )
    return Order(given)


def sorted_channels(magnitudes: ArrayLike, name: str) -> Order:
    """The order of channels by their magnitudes; of equal ones the first comes first.

    Parameters
    ----------
    magnitudes : array_like, shape (layers, heads, channels)
        Such as the mean squares of the products of queries and keys.
    name : {"ascending", "descending"}

    Returns
    -------
    Order

    Raises
    ------
    ValueError
        If there is no such order, or a magnitude is NaN.
    """
    if name not in ORDERS:
        raise ValueError(f"unknown order {name!r}: expected {', '.join(ORDERS)}")
    numbers = ORDERS[name] * np.asarray(magnitudes, np.float64)
    if np.isnan(numbers).any():
        raise ValueError("magnitudes of channels are NaN: the model's queries or keys overflow")
    return Order(np.argsort(numbers, axis=-1, kind="stable"))  # type: ignore[arg-type]
