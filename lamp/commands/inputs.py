"""What commands read: texts and token numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lamp import checkpoints, runs
from lamp.commands.options import usage

if TYPE_CHECKING:
    from lamp.decoder import Decoder

_STANDARD_INPUT = "-"


def read_text(
    model: Decoder,
    *,
    text: str | None,
    token_ids: str | None,
    tokens: int,
    length: int | None,
    stride: int | None,
    shuffled: int | None,
) -> runs.Text:
    """The text that the options of a command say."""
    with usage("--length, --stride"):
        length, stride = runs.window_sizes(model, length, stride)
    source, numbers = _tokens(model, text, token_ids)
    return runs.Text.of(
        numbers,
        model,
        source=source,
        count=tokens,
        length=length,
        stride=stride,
        shuffled=shuffled,
    )


def _tokens(
    model: Decoder, text: str | None, token_ids: str | None
) -> tuple[str, NDArray[np.int64]]:
    """Where tokens are from, and they themselves."""
    if token_ids is not None:
        return token_ids, read_token_ids(Path(token_ids))
    if text == _STANDARD_INPUT:
        return "standard input", encode(model, read_standard_input())
    words = checkpoints.read_text(None if text is None else Path(text))
    return "the held-out sample" if text is None else text, encode(model, words)


def encode(model: Decoder, text: str) -> NDArray[np.int64]:
    """The tokens of a text; a model without a tokenizer is told what to do."""
    try:
        return model.encode(text)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}: give token numbers, by --token-ids FILE") from error


def read_standard_input() -> str:
    """All of standard input."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8 text: {error}") from error
    if not text:
        raise ValueError("standard input is empty: expected a text")
    return text


def read_token_ids(path: Path) -> NDArray[np.int64]:
    """Token numbers in a file."""
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"no file of token numbers {str(path)!r}")
    if path.suffix == ".npy":
        return _read_array(path)
    numbers = []
    for word in path.read_bytes().split():
        try:
            numbers.append(np.int64(int(word)))
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"{path} holds {word.decode(errors='replace')!r} at position {len(numbers)}: "
                "expected token numbers between white space"
            ) from error
    return np.array(numbers, np.int64)


def _read_array(path: Path) -> NDArray[np.int64]:
    try:
        numbers = np.load(path, allow_pickle=False)
        shape, kind = numbers.shape, numbers.dtype
    except (ValueError, EOFError, OSError, AttributeError) as error:
        raise ValueError(f"{path} is not a .npy file of integers: {error}") from error
    if len(shape) != 1 or kind.kind not in "iu":
        raise ValueError(
            f"{path} holds an array of {kind} of shape {shape}: expected integers in one row"
        )
    found: NDArray[np.int64] = numbers
    return found
