"""The texts and token ids that commands read."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import typer
from numpy.typing import NDArray

from fpemu.cli.options import usage
from lamp import evaluation
from lamp._files import Stream
from lamp.cli import options

if TYPE_CHECKING:
    from lamp.models import Decoder

_IN_WORDS: Final = {
    **{name: sample.words for name, sample in evaluation.SAMPLES.items()},
    evaluation.STANDARD_INPUT: "standard input",
}


@dataclass(frozen=True)
class Asked:
    """The text that the options of a command describe, in their order."""

    text: str | None
    token_ids: str | None
    tokens: str
    length: int | None
    stride: int | None
    field: str
    special_tokens: bool
    shuffle: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check what can be known without a model."""
        if self.text is not None and self.token_ids is not None:
            hint = "--text, --token-ids"
            raise typer.BadParameter("give a text or token ids, not both", param_hint=hint)
        if self.seed is not None and not self.shuffle:
            message = f"{self.seed} is the seed of --shuffle, which is not given"
            raise typer.BadParameter(message, param_hint="--seed")

    def read(self, model: Decoder) -> evaluation.Text:
        """Read it, in windows of a model's."""
        count, shuffled = options.count(self.tokens), (self.seed or 0) if self.shuffle else None
        with usage("--length, --stride"):
            length, stride = evaluation.window_sizes(model, self.length, self.stride)
        if self.token_ids is not None:
            return evaluation.Text.of(
                read_token_ids(Path(self.token_ids)),
                model,
                source=self.token_ids,
                count=count,
                length=length,
                stride=stride,
                shuffled=shuffled,
            )
        try:
            model.tokenizer  # noqa: B018  (it is loaded here)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}: give token ids, by --token-ids FILE") from error
        text = evaluation.HELD_OUT if self.text is None else self.text
        source = evaluation.Source(
            text,
            field=self.field,
            tokens=count,
            length=length,
            stride=stride,
            shuffled=self.shuffle,
            seed=self.seed or 0,
            special_tokens=self.special_tokens,
            name=_IN_WORDS.get(text, text),
        )
        return source.read(model)


def read_token_ids(path: Path) -> NDArray[np.int64]:
    """Read the token ids in a file."""
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"no file of token ids {str(path)!r}")
    if path.suffix == ".npy":
        return _read_array(path)
    numbers = []
    with contextlib.closing(Stream.open(path)) as stream:
        words = stream.head().split()
    for word in words:
        try:
            numbers.append(np.int64(int(word)))
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"{path} holds {word[:40]!r} at position {len(numbers)}: "
                "expected token ids separated by white space"
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
            f"{path} holds an array of {kind} of shape {shape}: expected one dimension of integers"
        )
    found: NDArray[np.int64] = numbers
    return found
