"""Checks of the fields of configurations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from lamp._kernels import activations

__all__ = ["check_activation", "check_epsilon", "check_flags", "check_sizes", "is_number"]


def is_number(value: Any) -> bool:
    """Whether a value in a configuration is a number of float64; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return isinstance(value, (float, np.floating)) or abs(int(value)) < 2**1023


def check_sizes(config: Any, names: Iterable[str]) -> None:
    """Turn sizes of a configuration, a frozen dataclass, into ints.

    Raises
    ------
    ValueError
        If one is not a positive integer.
    """
    for name in names:
        size = getattr(config, name)
        is_integer = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
        if not is_integer or size < 1:
            raise ValueError(f"{name} is {size!r}, expected a positive integer")
        object.__setattr__(config, name, int(size))


def check_flags(config: Any, names: Iterable[str]) -> None:
    """Raise a ValueError if a flag of a configuration is not true or false."""
    for name in names:
        if not isinstance(getattr(config, name), (bool, np.bool_)):
            raise ValueError(f"{name} is {getattr(config, name)!r}, expected true or false")


def check_epsilon(config: Any, name: str) -> None:
    """Turn the epsilon of a configuration's norms into a float.

    Raises
    ------
    ValueError
        If it is not a finite number that is at least 0.
    """
    epsilon = getattr(config, name)
    if not is_number(epsilon) or not 0.0 <= float(epsilon) < np.inf:
        raise ValueError(f"{name} is {epsilon!r}, expected a finite number that is not negative")
    object.__setattr__(config, name, float(epsilon))


def check_activation(config: Any, name: str) -> None:
    """Raise a ValueError if a field of a configuration does not name an activation."""
    activation = getattr(config, name)
    if not isinstance(activation, str):
        raise ValueError(f"{name} is {activation!r}, expected the name of an activation")
    activations.activation(activation)  # raises if there is none
