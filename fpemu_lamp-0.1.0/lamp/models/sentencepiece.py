"""Tokenizers of SentencePiece, by the library tokenizers: their pieces, and files of them.

A GGUF file holds the pieces themselves; a ``tokenizer.model`` is a message in the encoding of
protocol buffers, of which the fields that matter here are read.

References
----------
T. Kudo and J. Richardson, "SentencePiece: a simple and language independent subword tokenizer and
detokenizer", EMNLP 2018; the fields are those of ``sentencepiece_model.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

__all__ = ["Kind", "Pieces", "backend", "read_pieces"]

_SPACE: Final = "\u2581"  # in the place of a space
_LONGEST: Final = 4096  # characters of a piece


class Kind(IntEnum):
    """What a piece is; the numbers are SentencePiece's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Pieces:
    """A vocabulary, and how a text is prepared for it.

    Parameters
    ----------
    words : sequence of str
        By their numbers.
    scores : sequence of float
        Pairs are merged into the piece with the highest score first; of a unigram model, the
        logarithms of probabilities.
    kinds : sequence of int
        See :class:`Kind`.
    unigram : bool
        Whether a text is cut into the most probable pieces, instead of by merges.
    begins_with_space : bool
        Whether a space is put in front of a text.
    single_spaces : bool
        Whether several spaces count as one, and those at the ends as none.
    characters : bytes
        A compiled map of characters, which SentencePiece applies first.  The library tokenizers
        applies it to what it takes for a character: marks that combine, such as accents on
        ligatures or on half-width kana, may give other tokens than SentencePiece does.
    special : mapping of str to int
        The numbers of special tokens by their roles, such as ``"bos_token"``.
    """

    words: Sequence[str]
    scores: Sequence[float]
    kinds: Sequence[int]
    unigram: bool = False
    begins_with_space: bool = True
    single_spaces: bool = False
    characters: bytes = b""
    special: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = {len(self.words), len(self.scores), len(self.kinds)}
        if len(counts) > 1 or not self.words:
            raise ValueError("pieces, scores and kinds must be as many, and at least one")
        if len(set(self.words)) < len(self.words):
            raise ValueError("two pieces of the vocabulary are the same")
        if any(len(word) > _LONGEST for word in self.words):
            raise ValueError(f"a piece of the vocabulary has more than {_LONGEST} characters")

    @property
    def unknown(self) -> int | None:
        """The number of the piece for what no other piece stands for."""
        return next((n for n, kind in enumerate(self.kinds) if kind == Kind.UNKNOWN), None)


def backend(pieces: Pieces, *, spaces_inside: bool = True) -> Backend:
    """The tokenizer of a vocabulary, without tokens put around a text.

    Parameters
    ----------
    pieces : Pieces
    spaces_inside : bool
        Whether a space is put in front of every stretch of text between special tokens, as
        llama.cpp does, or in front of the first alone, which transformers calls not legacy.

    Returns
    -------
    tokenizers.Tokenizer
    """
    made = Backend(_unigram(pieces) if pieces.unigram else _merging(pieces))
    made.normalizer = normalizers.Sequence(list(_preparation(pieces, spaces_inside)))
    if pieces.begins_with_space and not spaces_inside:
        made.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=False)
    strip = [decoders.Strip(" ", 1, 0)] if pieces.begins_with_space else []
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    made.decoder = decoders.Sequence(steps)
    for kinds, special in (((Kind.UNKNOWN, Kind.CONTROL), True), ((Kind.USER_DEFINED,), False)):
        made.add_tokens(
            [
                AddedToken(word, special=special, normalized=False)
                for word, kind in zip(pieces.words, pieces.kinds, strict=True)
                if kind in kinds
            ]
        )
    return made


def _preparation(pieces: Pieces, spaces_inside: bool) -> Iterator[Any]:
    """The steps from a text to the characters of pieces."""
    if pieces.characters:
        yield normalizers.Precompiled(pieces.characters)
    if pieces.single_spaces:
        yield normalizers.Replace(Regex(r"\A +| +\z"), "")
        yield normalizers.Replace(Regex(" +"), " ")
    if pieces.begins_with_space and spaces_inside:
        yield normalizers.Prepend(_SPACE)
    yield normalizers.Replace(" ", _SPACE)
    if pieces.single_spaces:  # what stands for a space in the text itself counts as one, too
        yield normalizers.Replace(Regex(rf"{_SPACE}+\z"), "")


def _unigram(pieces: Pieces) -> models.Unigram:
    vocabulary = list(zip(pieces.words, pieces.scores, strict=True))
    return models.Unigram(vocabulary, pieces.unknown, Kind.BYTE in pieces.kinds)


def _merging(pieces: Pieces) -> models.BPE:
    numbers = {word: number for number, word in enumerate(pieces.words)}
    unknown = pieces.unknown
    return models.BPE(
        vocab=numbers,
        merges=_merges(pieces),
        unk_token=None if unknown is None else pieces.words[unknown],
        fuse_unk=True,
        byte_fallback=Kind.BYTE in pieces.kinds,
    )


def _merges(pieces: Pieces) -> list[tuple[str, str]]:
    """All pairs of pieces that are a piece together, those of the highest scores first."""
    mergeable = {
        word: -score
        for word, score, kind in zip(pieces.words, pieces.scores, pieces.kinds, strict=True)
        if kind in (Kind.NORMAL, Kind.USER_DEFINED, Kind.UNUSED)
    }
    return [
        (word[:cut], word[cut:])
        for word in sorted(mergeable, key=mergeable.__getitem__)
        for cut in range(1, len(word))
        if word[:cut] in mergeable and word[cut:] in mergeable
    ]


# --- tokenizer.model ------------------------------------------------------------------------------


def read_pieces(path: Path) -> Pieces:
    """The vocabulary in a ``tokenizer.model``.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Pieces

    Raises
    ------
    ValueError
        If the file is broken, or the model is of a kind that is not implemented.
    """
    try:
        return _pieces(path.read_bytes())
    except (ValueError, TypeError, struct.error) as error:
        raise ValueError(f"{path} is not a model of SentencePiece: {error}") from error


_PIECE: Final = 1
_TRAINER: Final = 2
_NORMALIZER: Final = 3
_UNIGRAM: Final = 1
_BPE: Final = 2
_SPECIAL: Final = {"unk_token": (40, 0), "bos_token": (41, 1), "eos_token": (42, 2)}
"""Fields of the numbers of special tokens, and what they are by default."""


def _pieces(content: bytes) -> Pieces:
    words, scores, kinds = [], [], []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for name, value in _fields(content):
        if name == _PIECE:
            piece = dict(_fields(value))
            words.append(bytes(piece.get(1, b"")).decode())
            scores.append(struct.unpack("<f", piece.get(2, bytes(4)))[0])
            kinds.append(piece.get(3, Kind.NORMAL))
        elif name == _TRAINER:
            trainer |= _fields(value)
        elif name == _NORMALIZER:
            normalizer |= _fields(value)
    kind = trainer.get(3, _UNIGRAM)
    if kind not in (_UNIGRAM, _BPE):
        raise ValueError(f"it is of type {kind}, expected {_UNIGRAM} or {_BPE}, unigram or BPE")
    if trainer.get(24, 0) or not normalizer.get(5, 1):
        raise ValueError("spaces behind words, or left as they are, are not implemented")
    numbers = {role: trainer.get(name, usual) for role, (name, usual) in _SPECIAL.items()}
    return Pieces(
        words,
        scores,
        kinds,
        unigram=kind == _UNIGRAM,
        begins_with_space=bool(normalizer.get(3, 1)),
        single_spaces=bool(normalizer.get(4, 1)),
        characters=bytes(normalizer.get(2, b"")),
        # Negative numbers, which stand for none, are read as large ones.
        special={role: number for role, number in numbers.items() if number < len(words)},
    )


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: their numbers, and integers or bytes."""
    if not isinstance(content, bytes):
        raise ValueError("a number is in the place of a message")
    at = 0
    while at < len(content):
        key, at = _integer(content, at)
        name, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _integer(content, at)
            yield name, value
            continue
        if kind == 2:
            size, at = _integer(content, at)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError(f"a field is of type {kind}")
        if size > len(content) - at:
            raise ValueError("it is cut short")
        yield name, content[at : at + size]
        at += size


_SIZES: Final = {1: 8, 5: 4}
"""The bytes of fields of a fixed size, by their types."""


def _integer(content: bytes, at: int) -> tuple[int, int]:
    """A number, 7 bits a byte, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise ValueError("it is cut short")
        byte = content[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a number is too long")
