"""A text and its continuation by a model, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Continuation"]

_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
"""The decoding of the bytes of half a character."""


@dataclass
class Continuation:
    """A text that a model continues, up to a token or a text that ends it.

    Parameters
    ----------
    model : Decoder
        Decodes the tokens.
    beginning : list of int
        The tokens of the text.
    stop : sequence of int
        Tokens that end the continuation; they are no text.
    until : sequence of str
        Texts that end the continuation; they are left out of it.
    added : list of int
        The tokens that have come so far.
    """

    model: Any
    beginning: list[int]
    stop: Sequence[int] = ()
    until: Sequence[str] = ()
    added: list[int] = field(default_factory=list)
    _is_cut: bool = False

    @property
    def ended(self) -> str:
        """Why it ends: the model has ended it, one of the texts has come, or the count."""
        if self._is_cut:
            return "stop"
        return "end of text" if self.added and self.added[-1] in self.stop else "count"

    def pieces(self, stream: Iterator[int]) -> Iterator[str]:
        """The text of tokens as they come, in whole characters.

        Parameters
        ----------
        stream : iterator of int
            The tokens; no more of them are asked for once the text has ended.

        Yields
        ------
        str
        """
        tokens = list(self.beginning)
        before = len(self.model.decode(tokens))
        shown = before
        for token in stream:
            self.added.append(token)
            if token in self.stop:
                continue  # it is the last one, and no text
            tokens.append(token)
            text = self.model.decode(tokens)
            if (end := self._end(text, before)) is not None:
                self._is_cut = True
                yield text[shown:end]
                return
            if not text.endswith(_UNFINISHED):
                ready = len(text) - self._held(text[before:])
                yield text[shown:ready]
                shown = max(shown, ready)
        yield self.model.decode(tokens)[shown:]

    def _end(self, text: str, start: int) -> int | None:
        """Where the first of the texts that end it begins."""
        places = [place for each in self.until if (place := text.find(each, start)) >= 0]
        return min(places, default=None)

    def _held(self, text: str) -> int:
        """How many of the last characters may be the beginning of one of these texts."""
        return max(
            (
                size
                for each in self.until
                for size in range(1, min(len(each), len(text) + 1))
                if text.endswith(each[:size])
            ),
            default=0,
        )
