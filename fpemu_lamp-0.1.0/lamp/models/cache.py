"""Keys and values of the tokens that a model has read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamp.models.weights import Shape

__all__ = ["Cache"]


class Cache:
    """Keys and values of the tokens that a model has read, layer by layer.

    Parameters
    ----------
    shape : Shape
        The sizes of the model.
    dtype : numpy.dtype
        The carrier of the machine.
    capacity : int
        The number of tokens that fit.

    Attributes
    ----------
    length : int
        The number of tokens read; a forward pass sets it after its last layer.
    """

    def __init__(self, shape: Shape, dtype: np.dtype[Any], capacity: int) -> None:
        sizes = (shape.layers, 2, shape.key_heads, capacity, shape.dimension)
        self._numbers = np.empty(sizes, dtype)
        self.length = 0

    def cut(self, length: int) -> bool:
        """Keep the first tokens alone.

        Parameters
        ----------
        length : int

        Returns
        -------
        bool
            Whether it could be done.
        """
        self.length = length
        return True

    def extended(
        self, layer: int, key: NDArray[Any], value: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Append keys and values of new tokens to those of a layer.

        Parameters
        ----------
        layer : int
        key, value : ndarray, shape (key heads, tokens, d)

        Returns
        -------
        keys, values : ndarray, shape (key heads, length + tokens, d)
            Views of all keys and values of the layer.
        """
        stop = self.length + key.shape[1]
        self._numbers[layer, 0, :, self.length : stop] = key
        self._numbers[layer, 1, :, self.length : stop] = value
        keys, values = self._numbers[layer, :, :, :stop]
        return keys, values
