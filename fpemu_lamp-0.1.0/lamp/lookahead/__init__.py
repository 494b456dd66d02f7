"""Look-ahead: rules as data, the components that they pick, and recomputation."""

from lamp.lookahead import rules
from lamp.lookahead.recomputation import (
    LookAhead,
    Recomputation,
    Tiles,
    error_weights,
    put_levels,
    replace_selected,
)
from lamp.lookahead.rules import LAMP
from lamp.lookahead.selection import select, select_rows, threshold_of, value_distances

__all__ = [
    "LAMP",
    "LookAhead",
    "Recomputation",
    "Tiles",
    "error_weights",
    "put_levels",
    "replace_selected",
    "rules",
    "select",
    "select_rows",
    "threshold_of",
    "value_distances",
]
