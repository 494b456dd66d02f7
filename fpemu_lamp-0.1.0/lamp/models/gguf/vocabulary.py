"""The tokenizer in a GGUF file, byte-level BPE or SentencePiece's, by the library tokenizers.

How words are cut, and what a file means that does not say it, is as in llama.cpp.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gguf import TokenType
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from lamp.models import sentencepiece
from lamp.models.gguf.reader import File, open_file
from lamp.models.tokenizer import Tokenizer, add_special_tokens

__all__ = ["end_tokens", "load_tokenizer"]


@dataclass(frozen=True)
class _Words:
    """How text is cut into words, which merges stay within.

    Parameters
    ----------
    patterns : tuple of str
        Regular expressions, one after the other: what matches is a word, and what lies between.
    whole : bool
        Whether a word of the vocabulary is one token, whatever the merges.
    begins : bool
        Whether a text begins with ``bos_token`` where the file does not say.
    """

    patterns: tuple[str, ...]
    whole: bool = False
    begins: bool = False


_GPT_2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENDINGS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS: Final = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_LINES}"
_LETTERS: Final = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_THREES: Final = rf"{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}"
)
_PLAIN: Final = _Words((_GPT_2,))
_DIGITS: Final = _Words((r"\p{N}", _GPT_2))
_LLAMA_3: Final = _Words((_THREES,), whole=True, begins=True)
_QWEN_2: Final = _Words((rf"{_LETTERS}|\p{{N}}|{_SYMBOLS}",))
_DEFAULT: Final = "default"
_WORDS: Final = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4"), _PLAIN),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _DIGITS),
    **dict.fromkeys(("exaone", "minerva-7b"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA_3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _Words((_THREES,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"), _QWEN_2),
    "tekken": _Words((_CASED,), whole=True, begins=True),
    "falcon": _Words((r"[\p{P}$+<=>^~|`]+", _GPT_2, "[0-9][0-9][0-9]")),
    _DEFAULT: _Words((r"[\p{P}$+<=>^~|]+", _GPT_2, r"\p{N}+", "[0-9][0-9][0-9]")),
}
"""By llama.cpp's name, which is in the file."""
_BYTE_LEVEL: Final = "gpt2"
_SENTENCEPIECE: Final = "llama"
_ROLES: Final = {
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "padding": "pad_token",
}
_USUAL: Final = {_SENTENCEPIECE: {"bos": 1, "eos": 2, "unknown": 0}, _BYTE_LEVEL: {}}
"""The numbers of special tokens that a file does not give, by kinds of tokenizers."""
_ENDS: Final = ("eos", "eot", "eom")
"""Tokens that end a text, a turn and a message."""


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a GGUF file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Tokenizer
        Encoded text decodes to itself, without the bytes that the vocabulary has no token for:
        they are left out, as transformers and llama.cpp do.

    Raises
    ------
    FileNotFoundError
        If the file holds no tokenizer.
    ValueError
        If the file is broken, or the tokenizer is of a kind that is not known.

    Warns
    -----
    UserWarning
        If the file does not say how a byte-level tokenizer cuts words.
    """
    file = open_file(path)
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise FileNotFoundError(f"{path} holds no tokenizer")
    if kind not in _USUAL:
        raise ValueError(
            f"{path} holds a tokenizer of kind {kind!r}, expected {_BYTE_LEVEL!r}, byte-level BPE, "
            f"or {_SENTENCEPIECE!r}, SentencePiece"
        )
    words = _words(file) if kind == _BYTE_LEVEL else None
    try:
        return _tokenizer(file, words)
    except Exception as error:  # tokenizers raises plain exceptions
        raise ValueError(f"the tokenizer of {path} cannot be read: {error!r}") from error


def end_tokens(path: Path) -> tuple[int, ...]:
    """The numbers of the tokens that end a text, a turn or a message.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    tuple of int
        Empty if the file names none.
    """
    metadata = open_file(path).metadata
    found = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in _ENDS)
    return tuple(dict.fromkeys(number for number in found if type(number) is int))


def _words(file: File) -> _Words:
    """How a byte-level tokenizer cuts text into words."""
    name = file.metadata.get("tokenizer.ggml.pre")
    if name is None:
        warnings.warn(
            f"{file.path} does not say how its tokenizer cuts text into words: it is taken for "
            f"{_DEFAULT!r}, as llama.cpp does, and tokens may differ from those of its training",
            stacklevel=4,
        )
        name = _DEFAULT
    if not isinstance(name, str) or name not in _WORDS:
        raise ValueError(
            f"{file.path} cuts text into words as {name!r} does, expected one of "
            f"{', '.join(_WORDS)}"
        )
    return _WORDS[name]


def _tokenizer(file: File, words: _Words | None) -> Tokenizer:
    """A tokenizer with its special tokens and its chat template."""
    special = {
        role: token
        for name, role in _ROLES.items()
        if (token := _special(file.metadata, name)) is not None
    }
    if words is None:
        backend = sentencepiece.backend(_pieces(file.metadata))
    else:
        backend = _byte_level_bpe(file.metadata, words)
        _add_tokens(backend, file.metadata)
    backend.post_processor = _ends(file.metadata, words is None or words.begins)
    add_special_tokens(backend, special.values())
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"tokenizer.chat_template is {template!r:.40}, expected a string")
    return Tokenizer(backend, special, template)


def _special(metadata: Mapping[str, Any], name: str) -> str | None:
    """The token of a role."""
    key, tokens = f"tokenizer.ggml.{name}_token_id", metadata["tokenizer.ggml.tokens"]
    number = metadata.get(key, _USUAL[metadata["tokenizer.ggml.model"]].get(name))
    if number is None:
        return None
    if type(number) is not int or not 0 <= number < len(tokens):
        raise ValueError(f"{key} is {number!r}, expected a number below {len(tokens)}")
    return str(tokens[number])


def _pieces(metadata: Mapping[str, Any]) -> sentencepiece.Pieces:
    tokens = metadata["tokenizer.ggml.tokens"]
    return sentencepiece.Pieces(
        tokens,
        metadata["tokenizer.ggml.scores"],
        metadata.get("tokenizer.ggml.token_type") or [sentencepiece.Kind.NORMAL] * len(tokens),
        begins_with_space=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
        single_spaces=bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False)),
    )


def _byte_level_bpe(metadata: Mapping[str, Any], words: _Words) -> Backend:
    tokens = metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ValueError("two tokens of the vocabulary are the same")
    merges = [tuple(pair.split(" ")) for pair in metadata["tokenizer.ggml.merges"]]
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=words.whole))
    cuts: list[Any] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in words.patterns
    ]
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, own])
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: Backend, metadata: Mapping[str, Any]) -> None:
    """Mark the tokens that are never split: special ones, and those that users have added."""
    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata.get("tokenizer.ggml.token_type", [])
    for wanted, special in (
        ((TokenType.UNKNOWN, TokenType.CONTROL), True),
        ((TokenType.USER_DEFINED,), False),
    ):
        added: list[Any] = [
            AddedToken(token, special=special, normalized=False)
            for token, kind in zip(tokens, kinds, strict=bool(kinds))
            if kind in wanted
        ]
        backend.add_tokens(added)


def _ends(metadata: Mapping[str, Any], begins: bool) -> Any:
    """A post-processor that puts tokens around every text, if the file asks for them."""
    first = _end(metadata, "bos", begins)
    last = _end(metadata, "eos", False)
    return processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *first, "$B:1", *last],
        special_tokens=[
            (token, metadata["tokenizer.ggml.tokens"].index(token)) for token in {*first, *last}
        ],
    )


def _end(metadata: Mapping[str, Any], which: str, default: bool) -> list[str]:
    """The token that every text begins or ends with, if there is one."""
    if not metadata.get(f"tokenizer.ggml.add_{which}_token", default):
        return []
    token = _special(metadata, which)
    if token is None:
        raise ValueError(f"texts are to have a token {which!r}, which the file does not name")
    return [token]
