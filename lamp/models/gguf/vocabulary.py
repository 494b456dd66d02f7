"""The tokenizer in a GGUF file: byte-level BPE, by the library tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gguf import TokenType
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from lamp.models.gguf.reader import File, open_file
from lamp.models.tokenizer import Tokenizer, add_special_tokens

__all__ = ["load_tokenizer"]


@dataclass(frozen=True)
class _Words:
    """How text is cut into words, which merges stay within.

    Parameters
    ----------
    pattern : str, optional
        A regular expression of words; left out, GPT-2's.
    digits : bool
        Whether every digit is a word.
    whole : bool
        Whether a word of the vocabulary is one token, whatever the merges.
    begins : bool
        Whether a text begins with ``bos_token`` where the file does not say.
    """

    pattern: str | None = None
    digits: bool = False
    whole: bool = False
    begins: bool = False


_DIGITS: Final = _Words(digits=True)
_LLAMA_3: Final = _Words(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    whole=True,
    begins=True,
)
_WORDS: Final = {
    "gpt-2": _Words(),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "llama-bpe": _LLAMA_3,
}
"""By llama.cpp's name, which is in the file."""
_ROLES: Final = {
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "padding": "pad_token",
}


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
    """
    file = open_file(path)
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise FileNotFoundError(f"{path} holds no tokenizer")
    if kind != "gpt2":
        raise ValueError(
            f"{path} holds a tokenizer of kind {kind!r}, expected 'gpt2', which is byte-level BPE"
        )
    words = file.metadata.get("tokenizer.ggml.pre")
    if words not in _WORDS:
        raise ValueError(
            f"{path} cuts text into words as {words!r} does, expected one of {', '.join(_WORDS)}"
        )
    try:
        return _tokenizer(file, _WORDS[words])
    except Exception as error:  # tokenizers raises plain exceptions
        raise ValueError(f"the tokenizer of {path} cannot be read: {error!r}") from error


def _tokenizer(file: File, words: _Words) -> Tokenizer:
    """A tokenizer with its special tokens and its chat template."""
    tokens = file.metadata["tokenizer.ggml.tokens"]
    special = {
        role: tokens[number]
        for name, role in _ROLES.items()
        if (number := file.metadata.get(f"tokenizer.ggml.{name}_token_id")) is not None
    }
    backend = _byte_level_bpe(file.metadata, words)
    _add_tokens(backend, file.metadata)
    backend.post_processor = _ends(file.metadata, words)
    add_special_tokens(backend, special.values())
    return Tokenizer(backend, special, file.metadata.get("tokenizer.chat_template"))


def _byte_level_bpe(metadata: Mapping[str, Any], words: _Words) -> Backend:
    tokens = metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ValueError("two tokens of the vocabulary are the same")
    merges = [tuple(pair.split(" ")) for pair in metadata["tokenizer.ggml.merges"]]
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=words.whole))
    cuts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if words.digits else []
    if words.pattern is not None:
        cuts.append(pre_tokenizers.Split(Regex(words.pattern), "isolated"))
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words.pattern is None)
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


def _ends(metadata: Mapping[str, Any], words: _Words) -> Any:
    """A post-processor that puts tokens around every text, if the file asks for them."""
    first = _end(metadata, "bos", words.begins)
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
    return [metadata["tokenizer.ggml.tokens"][metadata[f"tokenizer.ggml.{which}_token_id"]]]
