"""Checks of token numbers that a caller gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lamp.models.weights import Shape

__all__ = ["check_numbers", "check_stop", "check_tokens"]


def check_tokens(tokens: ArrayLike, shape: Shape, *, batch: bool = False) -> NDArray[np.int64]:
    """The tokens of a text, or of several with `batch`.

    Parameters
    ----------
    tokens : array_like of int, shape (length,) or, with `batch`, (batch, length)
    shape : Shape
        The sizes of the model: vocabulary and positions.
    batch : bool
        Whether an array of two dimensions is allowed.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If there are no tokens or too many, or a token is not in the vocabulary.
    TypeError
        If tokens are not integers.
    """
    if isinstance(tokens, str):
        raise TypeError(f"tokens must be integers, not the text {tokens!r}: encode() gives them")
    expected = "one sequence" + (" or several of one length" if batch else "")
    try:
        numbers = np.asarray(tokens)
    except ValueError as error:  # a ragged list
        raise ValueError(f"tokens must be {expected}: {error}") from error
    if numbers.ndim != 1 and not (batch and numbers.ndim == 2):
        raise ValueError(f"tokens must be {expected}, not an array of shape {numbers.shape}")
    if not numbers.size:
        raise ValueError("there are no tokens")
    length = numbers.shape[-1]
    if length > shape.positions:
        raise ValueError(f"{length} tokens are more than the model's {shape.positions} positions")
    return check_numbers(numbers, shape.vocabulary)


def check_stop(stop: ArrayLike, vocabulary: int) -> frozenset[int]:
    """The tokens that end a text.

    Raises
    ------
    ValueError
        If one is not in the vocabulary.
    TypeError
        If one is not an integer.
    """
    numbers = np.atleast_1d(np.asarray(stop))
    if not numbers.size:
        return frozenset()
    try:
        return frozenset(check_numbers(numbers, vocabulary).tolist())
    except (ValueError, TypeError) as error:
        raise type(error)(f"stop: {error}") from error


def check_numbers(numbers: NDArray[Any], vocabulary: int) -> NDArray[np.int64]:
    """Token numbers of any shape as int64.

    Raises
    ------
    ValueError
        If one is not in the vocabulary.
    TypeError
        If they are not integers.
    """
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"tokens must be integers, not {numbers.dtype}")
    outside = (numbers < 0) | (numbers >= vocabulary)
    if outside.any():
        index = tuple(np.argwhere(outside)[0].tolist())
        row = f" of row {index[0]}" if len(index) == 2 else ""
        position = f" at position {index[-1]}{row}" if index else ""
        raise ValueError(f"token {numbers[index]}{position} is not in 0..{vocabulary - 1}")
    return numbers.astype(np.int64)
