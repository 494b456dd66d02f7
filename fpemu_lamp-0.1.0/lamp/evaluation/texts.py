"""Texts: tokens that models read in windows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from lamp.models import Decoder

__all__ = ["Text", "Window", "window_sizes", "windows"]

_DEFAULT_LENGTH: Final = 512  # of a window, in models that have more positions


@dataclass(frozen=True)
class Window:
    """A part of a text that goes through a model at once.

    Parameters
    ----------
    tokens : ndarray of int
        The tokens that the model reads.
    following : ndarray of int64
        The token behind each; -1 for none.
    context : int
        The number of leading tokens that are context only: their logits are not compared.
    """

    tokens: NDArray[Any]
    following: NDArray[np.int64]
    context: int = 0


def windows(
    tokens: NDArray[Any], length: int | None, stride: int | None, begins: Sequence[int] = ()
) -> list[Window]:
    """Cut tokens into windows.

    Parameters
    ----------
    tokens : ndarray of int, shape (tokens,) or (windows, tokens)
        One text, or windows that are texts of their own.
    length, stride : int or None
        As :func:`lamp.evaluate` takes them.
    begins : sequence of int
        The tokens that every window begins with, in front of those of the text.  They are compared
        where a text begins, and are context in the windows that go on with it.

    Returns
    -------
    list of Window

    Raises
    ------
    ValueError
        If there are no tokens, or length and stride make no windows.
    """
    if not tokens.size:
        raise ValueError("there are no tokens")
    if length is None:
        if stride is not None:
            raise ValueError("a stride needs the length of the windows")
        return [_window(text, begins) for text in np.atleast_2d(tokens)]
    step = length if stride is None else stride
    if tokens.ndim != 1 or not 1 <= step <= length or length <= len(begins):
        raise ValueError(
            f"windows of {length} tokens with a stride of {step} need one text, a stride from 1 to "
            f"the length, and more tokens than the {len(begins)} that begin them; the tokens have "
            f"shape {tokens.shape}"
        )
    room = length - len(begins)
    found: list[Window] = []
    covered = 0
    for start in range(0, len(tokens), min(step, room)):
        stop = min(start + room, len(tokens))
        context = len(begins) + covered - start if found else 0
        behind = int(tokens[stop]) if stop < len(tokens) else -1
        found.append(_window(tokens[start:stop], begins, context, behind))
        covered = stop
        if covered == len(tokens):
            break
    return found


def _window(
    text: NDArray[Any], begins: Sequence[int], context: int = 0, behind: int = -1
) -> Window:
    """A window of the tokens of a text and of those that begin it; `behind` it comes a token."""
    tokens = np.concatenate([np.asarray(begins, text.dtype), text]) if begins else text
    return Window(tokens, np.append(tokens[1:], behind).astype(np.int64), context)


def _read(count: int, length: int, stride: int, begins: int) -> int:
    """How many tokens are read of a text of `count`, with those that begin its windows."""
    room = length - begins
    beyond = max(count - room, 0)
    return count + begins * (1 + -(-beyond // min(stride, room)))


def fitting(total: int, length: int, stride: int, begins: int) -> int:
    """How many tokens of a text there are among `total` that are read.

    Parameters
    ----------
    total : int
        The number of tokens that are read, with those that begin windows.
    length, stride : int
        The sizes of the windows.
    begins : int
        The number of tokens that begin each window.

    Returns
    -------
    int
        The largest number that leaves room for the beginnings, at least 1.
    """
    low, high = 1, max(total, 1)
    while low < high:
        middle = (low + high + 1) // 2
        if _read(middle, length, stride, begins) <= total:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True)
class Text:
    """Tokens that models read in windows.

    Parameters
    ----------
    source : str
        Where the tokens are from, in words.
    tokens : ndarray of int64, shape (n,)
        The tokens of the text, without those that begin windows.
    length : int
        The number of tokens in a window.
    stride : int
        The number of tokens from one window to the next; those before it are context only.
    available : int
        The number of tokens that the source has, as far as it was read, with those that begin
        windows.
    asked : int or None
        The number of tokens that was asked for; None for all.
    shuffled : int or None
        The seed by which the tokens are shuffled; None if they are not.
    left_out : str
        What was not read of the source, in words; empty if nothing was left out.
    begins : tuple of int
        The tokens that every window begins with, such as the one that begins texts of Llama 2.
    """

    source: str
    tokens: NDArray[np.int64]
    length: int
    stride: int
    available: int
    asked: int | None = None
    shuffled: int | None = None
    left_out: str = ""
    begins: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        tokens: ArrayLike,
        model: Decoder,
        *,
        source: str = "the text",
        count: int | None = None,
        length: int | None = None,
        stride: int | None = None,
        shuffled: int | None = None,
        begins: Sequence[int] = (),
    ) -> Text:
        """Take tokens from a source, in windows that fit a model.

        Parameters
        ----------
        tokens : array_like of int, shape (n,)
            The tokens of the source.
        model : Decoder
            The model that reads them.
        source : str
            Where the tokens are from, in words.
        count : int, optional
            The number of tokens to take from the start, with those that begin windows; by default
            all.  If the source has fewer, :meth:`notes` says so.
        length : int, optional
            The number of tokens in a window; by default as many as the model has positions, at
            most 512.
        stride : int, optional
            The number of tokens from one window to the next; by default the length.
        shuffled : int, optional
            A seed by which the tokens that were taken are shuffled.
        begins : sequence of int
            The tokens that every window begins with, in front of those of the text; they are not
            shuffled.

        Returns
        -------
        Text

        Raises
        ------
        ValueError
            If there are no tokens, a token is not in the vocabulary, or a window does not fit the
            model.
        TypeError
            If the tokens are not integers.

        Examples
        --------
        >>> import lamp
        >>> from lamp.evaluation import Text
        >>> text = Text.of([5, 6, 7], lamp.GPT2.from_pretrained("embedded"), count=4)
        >>> text.length, text.notes()
        (512, ['the text has 3 tokens, fewer than the 4 asked for'])
        """
        length, stride = window_sizes(model, length, stride, len(begins))
        first = tuple(_checked(begins, model, source).tolist()) if len(begins) else ()
        numbers = _checked(tokens, model, source)
        if count is not None and count < 1:
            raise ValueError(f"the count of tokens must be positive, not {count}")
        size = None if count is None else fitting(count, length, stride, len(first))
        taken, left_out = numbers[:size], ""
        read, available = (
            _read(len(each), length, stride, len(first)) for each in (taken, numbers)
        )
        if len(taken) < len(numbers):
            left_out = f"{source}: the first {read} tokens of {available} are read"
        if shuffled is not None:
            taken = np.random.default_rng(shuffled).permutation(taken)
        asked, seed = (None if each is None else int(each) for each in (count, shuffled))
        return cls(source, taken, length, stride, available, asked, seed, left_out, first)

    @property
    def read(self) -> int:
        """The number of tokens that are read once, with those that begin windows."""
        return _read(len(self.tokens), self.length, self.stride, len(self.begins))

    @property
    def compared(self) -> int:
        """The number of positions that are compared."""
        return len(self.tokens) + len(self.begins)

    @property
    def windows(self) -> list[Window]:
        """The windows, in the order of the text."""
        return windows(self.tokens, self.length, self.stride, self.begins)

    @property
    def digest(self) -> str:
        """The SHA-256 of the text's tokens as little-endian 64-bit integers."""
        return hashlib.sha256(self.tokens.astype("<i8").tobytes()).hexdigest()

    def notes(self) -> list[str]:
        """Say in words where the text differs from what was asked for."""
        if self.left_out:
            return [self.left_out]
        if self.asked is None or self.available >= self.asked:
            return []
        return [f"{self.source} has {self.available} tokens, fewer than the {self.asked} asked for"]

    def record(self) -> dict[str, Any]:
        """Return the text as plain data."""
        return {
            "source": self.source,
            "tokens": self.read,
            "begins": list(self.begins),
            "available": self.available,
            "asked": self.asked,
            "length": self.length,
            "stride": self.stride,
            "windows": len(self.windows),
            "shuffled": self.shuffled,
            "tokens_sha256": self.digest,
        }


def window_sizes(
    model: Decoder, length: int | None, stride: int | None, begins: int = 0
) -> tuple[int, int]:
    """Return the length and the stride of windows for a model, checked.

    Parameters
    ----------
    model : Decoder
    length, stride : int or None
        As :meth:`Text.of` takes them.
    begins : int
        The number of tokens that begin each window.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If a window does not fit the model, or the stride is longer than a window.
    """
    positions = model.shape.positions
    if length is None:
        length = min(positions, _DEFAULT_LENGTH)
    if not 1 <= length <= positions:
        raise ValueError(f"length must lie in 1..{positions}, the model's positions, not {length}")
    if length <= begins:
        raise ValueError(f"length must be above {begins}, the tokens that begin a window")
    stride = length if stride is None else stride
    if not 1 <= stride <= length:
        raise ValueError(f"stride must lie in 1..{length}, the length of a window, not {stride}")
    return int(length), int(stride)


def _checked(tokens: ArrayLike, model: Decoder, source: str) -> NDArray[np.int64]:
    """Return tokens as an array, all of them in a model's vocabulary."""
    numbers = np.asarray(tokens)
    if numbers.ndim != 1 or not numbers.size:
        raise ValueError(f"{source} must be a sequence of tokens, not of shape {numbers.shape}")
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"tokens must be integers, but {source} holds {numbers.dtype}")
    outside = (numbers < 0) | (numbers >= model.shape.vocabulary)
    if outside.any():
        place = int(np.argmax(outside))
        raise ValueError(
            f"token {numbers[place]} at position {place} of {source} is not in "
            f"0..{model.shape.vocabulary - 1}"
        )
    return numbers.astype(np.int64)
