"""What models, texts, machines and rules are called, made fit to be shown."""

from __future__ import annotations

import re
from typing import Final

from fpemu._printing import clean

__all__ = ["NONE", "clean", "rule", "short"]

NONE: Final = "none"
"""The label of runs without look-ahead."""

_JOINED: Final = re.compile(r"\+(?=[A-Za-z])")  # not the sign in an amount such as 1e+1
_LONGEST: Final = 60  # letters of a label in a figure


def short(text: str) -> str:
    """A text in one clean line, cut so that it fits into a figure."""
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def rule(lamp: str) -> str:
    """A label of look-ahead without amounts and seeds; a label of any other form is its own rule.

    Examples
    --------
    >>> from lamp.reports.labels import rule
    >>> rule("softmax:total_variation:1%:weights=abs+norm:norm:5%")
    'softmax:total_variation:weights=abs+norm:norm'
    """
    return "+".join(map(_without_amount, _JOINED.split(lamp)))


def _without_amount(setting: str) -> str:
    parts = setting.split(":")
    if len(parts) < 3:
        return setting
    return ":".join(part for part in parts[:2] + parts[3:] if not part.startswith("seed="))
