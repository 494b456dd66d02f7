"""Keys and values that a model of transformers keeps from one token to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lamp.integrations.transformers.running import unseen

__all__ = ["Kept"]


class Kept:
    """A cache of transformers and how many tokens it has read.

    Parameters
    ----------
    config : PretrainedConfig
        Of the model; it says which layers have windows.
    capacity : int
        The number of tokens that fit.
    """

    def __init__(self, config: Any, capacity: int) -> None:
        self.past, self.length = DynamicCache(config=config), 0
        for number, layer in enumerate(self.past.layers):
            if type(layer) is DynamicLayer:
                self.past.layers[number] = _Roomy(capacity)

    def cut(self, length: int) -> bool:
        """Keep the first tokens alone; False if a window has let go of what they need."""
        if length < self.length:
            try:
                self.past.crop(length - self.length)  # a negative number: how many to remove
            except (RuntimeError, ValueError):
                return False
            if self.past.get_seq_length() != length:
                return False
        self.length = length
        return True


class _Roomy(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer's keys and values at the beginning of memory that has room for those of all tokens.

    The layer that transformers has copies all of them whenever a token is read.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity
        self._rooms: tuple[NDArray[Any], ...] = ()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        new, start = (key_states, value_states), self.get_seq_length()
        stop = start + key_states.shape[2]
        with unseen():  # nothing is rounded
            if start == 0:
                self._rooms = tuple(self._room_for(x) for x in new)
                self.is_initialized, self.device = True, key_states.device
            elif self.keys is None or self.keys.data_ptr() != self._rooms[0].ctypes.data:
                raise RuntimeError("keys that a cache keeps were replaced by others")
            for room, x in zip(self._rooms, new, strict=True):
                room[:, :, start:stop] = x.numpy()
            self.keys, self.values = (torch.from_numpy(room[:, :, :stop]) for room in self._rooms)
        return self.keys, self.values

    def _room_for(self, x: torch.Tensor) -> NDArray[Any]:
        """Memory for all tokens of keys or values like some."""
        texts, heads, _, width = x.shape
        return np.empty((texts, heads, self._capacity, width), x.numpy().dtype)
