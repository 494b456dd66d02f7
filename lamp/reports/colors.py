"""The colors of reports, on a light and on a dark ground."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["DARK", "HUES", "LIGHT"]

# Okabe's and Ito's colors, which the color-blind can tell apart, each a little darker or lighter
# where that gives a contrast of 3 with the ground (WCAG 2.2, 1.4.11).  No two of a theme are the
# same: figures are drawn in the light ones, and the page finds their names by their values.
LIGHT: Final[Mapping[str, str]] = {
    "paper": "#ffffff",
    "ink": "#1c1f24",
    "soft": "#5b626d",
    "line": "#dfe3e8",
    "pale": "#f5f6f8",
    "accent": "#0071b1",
    "bad": "#b34700",
    "c0": "#0072b2",
    "c1": "#d55e00",
    "c2": "#009e73",
    "c3": "#c46b9c",
    "c4": "#b98000",
    "c5": "#3590cb",
    "c6": "#3a3f47",
}
"""By name: ground, text, lesser text, lines, a pale ground, links, warnings, and marks."""

DARK: Final[Mapping[str, str]] = {
    "paper": "#14171b",
    "ink": "#e8eaed",
    "soft": "#a0a7b2",
    "line": "#2d333b",
    "pale": "#1b1f25",
    "accent": "#56b4e9",
    "bad": "#ff8a4c",
    "c0": "#2a8fd4",
    "c1": "#e8702a",
    "c2": "#14b88a",
    "c3": "#d78fb8",
    "c4": "#e69f00",
    "c5": "#8fd0f5",
    "c6": "#c9ced6",
}

HUES: Final = 7
"""How many colors there are for marks: c0, c1, and so on."""
