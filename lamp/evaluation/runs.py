"""Runs: a model on a text, under one machine or several in step, against a reference.

Windows go through the reference and all machines one after the other, so that the reference is
computed once and the logits of one window are in memory at a time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lamp.evaluation.metrics import Metrics, Totals, Window, windows
from lamp.lookahead import LAMP, LookAhead
from lamp.machines import HardwareLike, hardware
from lamp.machines import files as machine_files
from lamp.models import Decoder, Forward

__all__ = [
    "Run",
    "Setting",
    "Text",
    "run",
    "setting_parts",
    "side_by_side",
    "versions",
    "window_sizes",
    "without_nan",
]

_MOST_TOKENS: Final = 512  # in a window that nobody has asked for
_JOINED: Final = re.compile(r"\+(?=[A-Za-z])")  # not the sign in an amount such as 1e+1
_PACKAGES: Final = ("numpy", "numba")


@dataclass(frozen=True)
class Setting:
    """A machine and what look-ahead recomputes on it.

    Parameters
    ----------
    hardware : Hardware or str
        The machine.
    lamp : iterable of LAMP
        What to recompute, each in a place of its own.

    Raises
    ------
    ValueError
        If there is no such machine, or two rules are for the same place.

    Examples
    --------
    >>> from lamp import runs
    >>> setting = runs.Setting.parse("scores-ps4+softmax:tv:1%")
    >>> setting.hardware.name, setting.lamp[0].budget
    ('scores-ps4', 0.01)
    >>> str(setting)
    'scores-ps4+softmax:total_variation:1%'
    """

    hardware: Any
    lamp: Any = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "hardware", hardware(self.hardware))
        object.__setattr__(self, "lamp", tuple(self.lamp))
        LookAhead.of(self.lamp)  # raises if they do not go together

    @classmethod
    def parse(cls, text: str) -> Setting:
        """The setting that a text says: ``HARDWARE[+LAMP...]``.

        Parameters
        ----------
        text : str
            A machine's name or a file that ends in ``.toml``, then settings as
            :meth:`lamp.LAMP.parse` takes them, joined by ``+``.

        Returns
        -------
        Setting

        Raises
        ------
        ValueError
            If the name or a setting is not known.
        FileNotFoundError
            If there is no such file.
        """
        name, rules = setting_parts(text)
        return cls(hardware(name), [LAMP.parse(rule) for rule in rules])

    def __str__(self) -> str:
        return "+".join([self.hardware.name, *map(str, self.lamp)])

    @property
    def digest(self) -> str:
        """The SHA-256 of the machine in full, as TOML, and of what is recomputed."""
        parts = [machine_files.dumps(self.hardware), *map(str, self.lamp)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """The setting as plain data."""
        return {
            "hardware": self.hardware.name,
            "lamp": [str(each) for each in self.lamp],
            "setting_sha256": self.digest,
        }


def setting_parts(text: str) -> tuple[str, list[str]]:
    """The machine and the rules in what :meth:`Setting.parse` takes."""
    stem, ending, rest = text.rpartition(".toml")
    first, *rules = _JOINED.split(rest)
    return stem + ending + first, rules


@dataclass(frozen=True)
class Text:
    """Tokens that models read in windows.

    Parameters
    ----------
    source : str
        What they are from, in words.
    tokens : ndarray of int64
        The tokens.
    length : int
        How many are in a window.
    stride : int
        From one window to the next; those before are context alone.
    available : int
        How many tokens the source has.
    asked : int or None
        How many of them were asked for; None for all.
    shuffled : int or None
        The seed by which they are shuffled; None if they are not.
    """

    source: str
    tokens: NDArray[np.int64]
    length: int
    stride: int
    available: int
    asked: int | None = None
    shuffled: int | None = None

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
    ) -> Text:
        """Tokens in windows that fit a model.

        Parameters
        ----------
        tokens : array_like of int, shape (n,)
            The tokens of the source.
        model : Decoder
            The model that is to read them.
        source : str
            What they are from, in words.
        count : int, optional
            How many to take, from the first.  Where there are fewer, :meth:`notes` says so.
        length : int, optional
            How many are in a window; left out, as many as the model has positions, but at most 512.
        stride : int, optional
            From one window to the next; left out, the length.
        shuffled : int, optional
            A seed: those that were taken are shuffled.

        Returns
        -------
        Text

        Raises
        ------
        ValueError
            If there are no tokens, one is not in the vocabulary, or a window does not fit the
            model.
        TypeError
            If they are not integers.

        Examples
        --------
        >>> import lamp
        >>> from lamp import runs
        >>> text = runs.Text.of([5, 6, 7], lamp.GPT2.from_pretrained("embedded"), count=4)
        >>> text.length, text.notes()
        (512, ['the text has 3 tokens, fewer than the 4 asked for'])
        """
        length, stride = window_sizes(model, length, stride)
        numbers = _checked(tokens, model, source)
        if count is not None and count < 1:
            raise ValueError(f"the count of tokens must be positive, not {count}")
        taken = numbers[:count]
        if shuffled is not None:
            taken = np.random.default_rng(shuffled).permutation(taken)
        return cls(source, taken, length, stride, len(numbers), count, shuffled)

    @property
    def windows(self) -> list[Window]:
        """The windows."""
        return windows(self.tokens, self.length, self.stride)

    @property
    def digest(self) -> str:
        """The SHA-256 of the tokens, as little-endian 64-bit integers."""
        return hashlib.sha256(self.tokens.astype("<i8").tobytes()).hexdigest()

    def notes(self) -> list[str]:
        """What is not as it was asked for, in words."""
        if self.asked is None or self.available >= self.asked:
            return []
        return [f"{self.source} has {self.available} tokens, fewer than the {self.asked} asked for"]

    def record(self) -> dict[str, Any]:
        """The text as plain data."""
        return {
            "source": self.source,
            "tokens": len(self.tokens),
            "available": self.available,
            "asked": self.asked,
            "length": self.length,
            "stride": self.stride,
            "windows": len(self.windows),
            "shuffled": self.shuffled,
            "tokens_sha256": self.digest,
        }


def window_sizes(model: Decoder, length: int | None, stride: int | None) -> tuple[int, int]:
    """The length and the stride of windows, as :meth:`Text.of` takes and checks them."""
    positions = model.shape.positions
    if length is None:
        length = min(positions, _MOST_TOKENS)
    if not 1 <= length <= positions:
        raise ValueError(f"length must lie in 1..{positions}, the model's positions, not {length}")
    stride = length if stride is None else stride
    if not 1 <= stride <= length:
        raise ValueError(f"stride must lie in 1..{length}, the length of a window, not {stride}")
    return length, stride


def _checked(tokens: ArrayLike, model: Decoder, source: str) -> NDArray[np.int64]:
    """Tokens that a model knows."""
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


@dataclass(frozen=True)
class Run:
    """A model on a text, under a machine.

    Parameters
    ----------
    setting : Setting
        The machine.
    metrics : Metrics
        Against the reference.
    first : Metrics or None
        Against the first machine of several; None for that machine itself.
    seconds : float
        Wall time of the forward passes, without what compiles kernels.
    read : int
        How many tokens went through them, context included.
    not_finite, reference_not_finite : int
        Positions compared at which a logit is NaN or infinite.
    """

    setting: Setting
    metrics: Metrics
    first: Metrics | None
    seconds: float
    read: int
    not_finite: int
    reference_not_finite: int

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.read / self.seconds

    def notes(self) -> list[str]:
        """What is wrong with the numbers, in words."""
        metrics, notes = self.metrics, []
        for whose, count in (
            ("the machine's", self.not_finite),
            ("the reference's", self.reference_not_finite),
        ):
            if count:
                notes.append(
                    f"numbers overflowed: {whose} logits are NaN or infinite at {count} of the "
                    f"{metrics.tokens} positions"
                )
        lost = {"the KL divergence": metrics.kl}
        if metrics.tokens > 1:
            lost["the perplexity"] = metrics.perplexity
        else:
            notes.append("one token has none that follows it, and so there is no perplexity")
        notes += [f"{name} is {_in_words(x)}" for name, x in lost.items() if not math.isfinite(x)]
        return notes

    def record(self) -> dict[str, Any]:
        """The run as plain data; numbers may be NaN or infinite."""
        first = self.first
        return {
            **self.setting.record(),
            "metrics": asdict(self.metrics),
            "against_first": None
            if first is None
            else {"kl": first.kl, "flip_rate": first.flip_rate},
            "not_finite": self.not_finite,
            "reference_not_finite": self.reference_not_finite,
            "seconds": self.seconds,
            "tokens_per_second": self.speed,
            "notes": self.notes(),
        }


def _in_words(number: float) -> str:
    return "not a number" if math.isnan(number) else "infinite"


@dataclass
class _Totals:
    """What a machine adds up to."""

    model: Decoder
    reference: Totals = field(default_factory=Totals)
    first: Totals = field(default_factory=Totals)
    seconds: float = 0.0
    read: int = 0
    not_finite: int = 0

    def forward(self, window: Window) -> Forward:
        """A window through the model."""
        start = time.perf_counter()
        result = self.model.forward(window.tokens)
        self.seconds += time.perf_counter() - start
        self.read += len(window.tokens)
        self.not_finite += _not_finite(result.logits, window)
        return result


def _not_finite(logits: NDArray[Any], window: Window) -> int:
    """How many positions that are compared have a logit that is NaN or infinite."""
    return int(np.count_nonzero(~np.isfinite(logits[window.context :]).all(axis=1)))


def run(
    model: Decoder,
    text: Text,
    setting: Setting,
    *,
    reference: HardwareLike = "fp64",
    progress: Callable[[int], None] | None = None,
) -> Run:
    """A model on a text, under a machine.

    Parameters
    ----------
    model : Decoder
        The weights.
    text : Text
        What it reads.
    setting : Setting
        The machine.
    reference : Hardware or str
        The machine that it is compared with.
    progress : callable, optional
        Is given the number of positions compared, after every window.

    Returns
    -------
    Run
        Its metrics are those of :func:`lamp.evaluate`.

    Examples
    --------
    >>> import lamp
    >>> from lamp import runs
    >>> model = lamp.GPT2.from_pretrained("embedded")
    >>> text = runs.Text.of(model.encode("When shall we three meet again?"), model)
    >>> found = runs.run(model, text, runs.Setting.parse("scores-ps4"))
    >>> 0 < found.metrics.kl < 0.1
    True
    """
    return side_by_side(model, text, [setting], reference=reference, progress=progress)[0]


def side_by_side(
    model: Decoder,
    text: Text,
    settings: Sequence[Setting],
    *,
    reference: HardwareLike = "fp64",
    progress: Callable[[int], None] | None = None,
) -> list[Run]:
    """A model on a text, under several machines in step.

    Parameters
    ----------
    model : Decoder
        The weights.
    text : Text
        What it reads.
    settings : sequence of Setting
        The machines.
    reference : Hardware or str
        The machine that all are compared with; it runs once.
    progress : callable, optional
        Is given the number of positions compared, after every window of every machine.

    Returns
    -------
    list of Run
        In the order of the settings; all but the first are compared with the first, too.
    """
    exact = model.with_hardware(reference)
    totals = [_Totals(model.with_hardware(each.hardware, each.lamp)) for each in settings]
    for each in totals:
        each.model.forward(text.tokens[:2])  # kernels are compiled, or loaded, before the clock
    exact_not_finite = 0
    for window in text.windows:
        expected = exact.forward(window.tokens).logits
        exact_not_finite += _not_finite(expected, window)
        first = None
        for each in totals:
            result = each.forward(window)
            compared = each.reference.add(expected, result, window)
            if first is None:
                first = result
            else:
                each.first.add(first.logits, result, window)
            if progress is not None:
                progress(compared)
    return [
        Run(
            setting,
            each.reference.metrics(),
            None if each is totals[0] else each.first.metrics(),
            each.seconds,
            each.read,
            each.not_finite,
            exact_not_finite,
        )
        for setting, each in zip(settings, totals, strict=True)
    ]


# --- records --------------------------------------------------------------------------------------


def versions() -> dict[str, str | None]:
    """The versions of what numbers may depend on; None for what is not installed as a package."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("fpemu-lamp", *_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def without_nan(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record that JSON can hold: numbers that are not finite are None, and ``nulls`` says which.

    Parameters
    ----------
    record : mapping
        Plain data.

    Returns
    -------
    dict
        The same; ``"nulls"`` has for the path of each such number ``"nan"``, ``"inf"`` or
        ``"-inf"``.

    Examples
    --------
    >>> from lamp import runs
    >>> runs.without_nan({"metrics": {"kl": float("nan"), "tokens": 7}})
    {'metrics': {'kl': None, 'tokens': 7}, 'nulls': {'metrics.kl': 'nan'}}
    """
    nulls: dict[str, str] = {}

    def finite(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(each, f"{path}.{key}") for key, each in value.items()}
        if isinstance(value, Iterable) and not isinstance(value, str):
            return [finite(each, f"{path}.{index}") for index, each in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            nulls[path.removeprefix(".")] = str(value)
            return None
        return value

    found: dict[str, Any] = finite(record, "")
    return {**found, "nulls": nulls}
