"""Texts read one after the other; what two of them have in common is computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu._kernels.launching import default_environment
from lamp.models.decoder import Decoder
from lamp.models.tokens import check_tokens

__all__ = ["Reading"]


class Reading:
    """Logits of texts, one after the other.

    The tokens that a text shares with the text before it are not computed again, where that gives
    the same bits: on machines and with rules for which no token depends on later ones.

    Parameters
    ----------
    model : Decoder
        The model.
    capacity : int
        The number of tokens of the longest text.

    Attributes
    ----------
    computed : int
        The number of tokens that have gone through the model.

    Examples
    --------
    >>> import lamp
    >>> model = lamp.from_pretrained("embedded", hardware="bf16")
    >>> reading = lamp.models.Reading(model, 8)
    >>> _ = reading.logits([5, 6, 7, 8])
    >>> found = reading.logits([5, 6, 7, 9, 10], last=2)
    >>> bool((found == model.logits([5, 6, 7, 9, 10])[-2:]).all()), reading.computed
    (True, 6)
    """

    def __init__(self, model: Decoder, capacity: int) -> None:
        self._model = model
        self._capacity = capacity
        self._cache: Any = None
        self._tokens = np.empty(0, np.int64)
        self.computed = 0

    def logits(self, tokens: ArrayLike, last: int | None = None) -> NDArray[Any]:
        """Next-token logits behind the last tokens of a text.

        Parameters
        ----------
        tokens : array_like of int, shape (length,)
            The text.
        last : int, optional
            The number of tokens whose logits are wanted; by default all.

        Returns
        -------
        ndarray, shape (last, vocabulary)
            The same bits as those of :meth:`Decoder.logits`.

        Raises
        ------
        ValueError
            If the text is empty or longer than the capacity, a token is not in the vocabulary, or
            `last` is more than the text has.
        """
        text = check_tokens(tokens, self._model.shape)
        wanted = len(text) if last is None else last
        if len(text) > self._capacity:
            raise ValueError(f"a text of {len(text)} tokens, more than the {self._capacity} given")
        if not 0 <= wanted <= len(text):
            raise ValueError(f"last must lie in 0..{len(text)}, not {last}")
        if not self._model._is_causal:
            self.computed += len(text)
            return self._model.logits(text)[len(text) - wanted :]
        shared = min(_shared(self._tokens, text), len(text) - wanted)
        cache, self._cache = self._cache, None  # it is of no use after an error
        if cache is None or not cache.cut(shared):
            cache, shared = self._model._new_cache(self._capacity), 0
        with default_environment():
            found = self._model._forward(text[shared:], cache).logits
        self._cache, self._tokens = cache, text
        self.computed += len(text) - shared
        return found[len(found) - wanted :]


def _shared(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """The number of tokens with which both texts begin."""
    size = min(len(one), len(other))
    return int(np.append(one[:size] == other[:size], False).argmin())
