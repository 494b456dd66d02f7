"""The colors of pictures and pages, on a light and on a dark ground."""

from __future__ import annotations

from typing import Final

__all__ = ["DARK", "HUES", "LIGHT"]

# Ground, text, lesser text, lines, a pale ground, links, warnings, and marks: c0, c1, and so on.
# Marks have Okabe's and Ito's colors, which the color-blind can tell apart, each a little darker or
# lighter where that gives a contrast of 3 with the ground (WCAG 2.2, 1.4.11).  No two of a theme
# are the same: figures are drawn in the light ones, and the page finds their names by their values.
_COLORS: Final = {
    "paper": ("#ffffff", "#14171b"),
    "ink": ("#1c1f24", "#e8eaed"),
    "soft": ("#5b626d", "#a0a7b2"),
    "line": ("#dfe3e8", "#2d333b"),
    "pale": ("#f5f6f8", "#1b1f25"),
    "accent": ("#0071b1", "#56b4e9"),
    "bad": ("#b34700", "#ff8a4c"),
    "c0": ("#0072b2", "#2a8fd4"),
    "c1": ("#d55e00", "#e8702a"),
    "c2": ("#009e73", "#14b88a"),
    "c3": ("#c46b9c", "#d78fb8"),
    "c4": ("#b98000", "#e69f00"),
    "c5": ("#3590cb", "#8fd0f5"),
    "c6": ("#3a3f47", "#c9ced6"),
}

LIGHT: Final = {name: light for name, (light, _) in _COLORS.items()}
DARK: Final = {name: dark for name, (_, dark) in _COLORS.items()}

HUES: Final = 7
"""How many colors there are for marks."""
