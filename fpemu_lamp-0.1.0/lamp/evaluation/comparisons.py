"""Comparisons: a model on one machine or several, window by window, against a reference.

A window goes through the reference and all machines before the next one does.  The reference is
thus computed once, and the logits of one window are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamp.evaluation.clocks import Clock
from lamp.evaluation.metrics import Metrics, Totals
from lamp.evaluation.settings import Setting
from lamp.evaluation.texts import Text, Window
from lamp.evaluation.uncertainty import Estimate, paired
from lamp.machines import HardwareLike
from lamp.models import Decoder, Forward

__all__ = ["Comparison", "compare", "side_by_side", "without_nan"]


@dataclass(frozen=True)
class Comparison:
    """A model on a machine, compared with its reference on a text.

    Parameters
    ----------
    setting : Setting
        The machine and its rules.
    metrics : Metrics
        Against the reference.
    first : Metrics or None
        Against the first of several machines; None for the first itself.
    more_than_first : Estimate or None
        How much larger its KL divergence from the reference is than the first machine's, over the
        same positions; None for the first itself.
    seconds : float
        Wall time of the forward passes, without compiling kernels or loading them.
    read : int
        The number of tokens that went through them, context included.
    not_finite, reference_not_finite : int
        The number of compared positions at which a logit is NaN or infinite.
    model_notes : tuple of str
        What the model on the machine says of itself, see :meth:`lamp.models.Decoder.notes`.
    """

    setting: Setting
    metrics: Metrics
    first: Metrics | None
    more_than_first: Estimate | None
    seconds: float
    read: int
    not_finite: int
    reference_not_finite: int
    model_notes: tuple[str, ...] = ()

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.read / self.seconds

    def notes(self) -> list[str]:
        """Say in words which numbers are missing or overflowed, and what the model says."""
        metrics, notes = self.metrics, [*self.model_notes]
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
        """Return the comparison as plain data; numbers may be NaN or infinite."""
        first = self.first
        return {
            **self.setting.record(),
            "metrics": asdict(self.metrics),
            "against_first": None
            if first is None
            else {
                "kl": first.kl,
                "kl_error": first.kl_error,
                "flip_rate": first.flip_rate,
                "flip_rate_error": first.flip_rate_error,
            },
            "more_than_first": None
            if self.more_than_first is None
            else {
                "kl": self.more_than_first.value,
                "kl_error": self.more_than_first.error,
                "kl_interval": self.more_than_first.interval(),
            },
            "not_finite": self.not_finite,
            "reference_not_finite": self.reference_not_finite,
            "seconds": self.seconds,
            "tokens_per_second": self.speed,
            "notes": self.notes(),
        }


def _in_words(number: float) -> str:
    return "not a number" if math.isnan(number) else "infinite"


@dataclass
class _Machine:
    """A model on a machine and what its windows add up to so far."""

    model: Decoder
    reference: Totals = field(default_factory=Totals)
    first: Totals = field(default_factory=Totals)
    clock: Clock = field(default_factory=Clock)
    read: int = 0
    not_finite: int = 0

    def forward(self, window: Window) -> Forward:
        """Run the model on a window."""
        with self.clock.running():
            result = self.model.forward(window.tokens)
        self.read += len(window.tokens)
        self.not_finite += _not_finite(result.logits, window)
        return result


def _not_finite(logits: NDArray[Any], window: Window) -> int:
    """Count the compared positions at which a logit is NaN or infinite."""
    return int(np.count_nonzero(~np.isfinite(logits[window.context :]).all(axis=1)))


def compare(
    model: Decoder,
    text: Text,
    setting: Setting,
    *,
    reference: HardwareLike = "fp64",
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Compare a model on a machine with its reference.

    Parameters
    ----------
    model : Decoder
        The weights.
    text : Text
        The text that the model reads.
    setting : Setting
        The machine and its rules.
    reference : Hardware or str
        The machine of the reference.
    progress : callable, optional
        Called after every window with the number of positions compared.

    Returns
    -------
    Comparison
        Its metrics are those of :func:`lamp.evaluate`.

    Examples
    --------
    >>> import lamp
    >>> from lamp.evaluation import Setting, Text, compare
    >>> model = lamp.GPT2.from_pretrained("embedded")
    >>> text = Text.of(model.encode("When shall we three meet again?"), model)
    >>> found = compare(model, text, Setting.parse("scores-ps4"))
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
) -> list[Comparison]:
    """Compare a model on several machines with one reference.

    Parameters
    ----------
    model : Decoder
        The weights.
    text : Text
        The text that the model reads.
    settings : sequence of Setting
        The machines and their rules.
    reference : Hardware or str
        The machine of the reference, which runs once.
    progress : callable, optional
        Called after every window of every machine with the number of positions compared.

    Returns
    -------
    list of Comparison
        In the order of the settings; all but the first are compared with the first, too.
    """
    exact = model.with_hardware(reference)
    machines = [_Machine(model.with_hardware(each.hardware, each.lamp)) for each in settings]
    for machine in machines:
        machine.model.forward(text.tokens[:2])  # weights are rounded, or read, before the clock
    exact_not_finite = 0
    for window in text.windows:
        expected = exact.forward(window.tokens).logits
        exact_not_finite += _not_finite(expected, window)
        first = None
        for machine in machines:
            result = machine.forward(window)
            compared = machine.reference.add(expected, result, window)
            if first is None:
                first = result
            else:
                machine.first.add(first.logits, result, window)
            if progress is not None:
                progress(compared)
    return [
        Comparison(
            setting,
            machine.reference.metrics(),
            None if machine is machines[0] else machine.first.metrics(),
            None if machine is machines[0] else _more(machine, machines[0]),
            machine.clock.seconds,
            machine.read,
            machine.not_finite,
            exact_not_finite,
            tuple(machine.model.notes()),
        )
        for setting, machine in zip(settings, machines, strict=True)
    ]


def _more(machine: _Machine, first: _Machine) -> Estimate:
    """How much larger a machine's divergence from the reference is than another's."""
    of_each = ([part[:, 0] for part in each.reference.positions] for each in (first, machine))
    return paired(*of_each)


def without_nan(record: Mapping[str, Any]) -> dict[str, Any]:
    """Replace numbers that JSON cannot hold by None, and say under ``nulls`` what they were.

    Parameters
    ----------
    record : mapping
        Plain data.

    Returns
    -------
    dict
        The record; ``"nulls"`` maps the path of each such number to ``"nan"``, ``"inf"`` or
        ``"-inf"``.

    Examples
    --------
    >>> from lamp.evaluation import without_nan
    >>> without_nan({"metrics": {"kl": float("nan"), "tokens": 7}})
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
