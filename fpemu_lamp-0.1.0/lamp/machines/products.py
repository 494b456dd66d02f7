"""Operands of matrix products as the steps of a machine take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Operand"]


@dataclass(frozen=True)
class Operand:
    """An operand of a matrix product as a step takes it.

    Parameters
    ----------
    values : ndarray or tuple of Scaled
        Numbers, divided by their scales if they have any; for a block format a matrix each.
    scales : ndarray of float32, optional
        Broadcast against the values: one in all, or one for each row and each block of terms.
    """

    values: Any
    scales: Any = None
