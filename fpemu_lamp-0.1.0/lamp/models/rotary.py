"""Rotary positions: queries and keys rotated by angles that grow with the position.

References
----------
J. Su et al., "RoFormer: enhanced transformer with rotary position embedding", arXiv 2104.09864; the
pairs are those of transformers, component i with component i + d/2.  The scaled frequencies of
Llama 3 are those of its technical report's code, "The Llama 3 herd of models", arXiv 2407.21783.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mpmath
import numpy as np
from numpy.typing import NDArray

from fpemu.multiprecision import own_context
from lamp._kernels.rows import Float64
from lamp.models.fields import is_number

__all__ = ["Rotary"]

_STEP: Final = 64  # positions between two angles from mpmath
_DIGITS: Final = 40
_FACTORS: Final = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
"""The kinds of rotary positions, and the names of the numbers that each takes."""
_GIVEN: Final = "given"  # the kind whose frequencies are its factors


@dataclass(frozen=True)
class Rotary:
    """The angles of a model.

    Parameters
    ----------
    dimension : int
        The dimension of a head, even.
    theta : float
        Pair i is rotated by ``theta**(-2 i / dimension)`` radians per position.
    kind : {"default", "linear", "llama3", "given"}
        ``"linear"`` divides all frequencies by a factor, ``"llama3"`` the low ones.  ``"given"``:
        `factors` are the frequencies of all pairs.
    factors : tuple of float
        Of ``"linear"`` the factor; of ``"llama3"`` the factor, the low and the high frequency
        factor and the original number of positions.

    Raises
    ------
    ValueError
        If the dimension is not even and positive, the kind unknown, a number not positive, or the
        high frequency factor not above the low one.
    """

    dimension: int
    theta: float = 10000.0
    kind: str = "default"
    factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        size = self.dimension
        if not isinstance(size, (int, np.integer)) or size < 2 or size % 2:
            raise ValueError(f"rotary positions need an even head dimension, not {size!r}")
        object.__setattr__(self, "dimension", int(size))
        if self.kind == _GIVEN and len(self.factors) == self.dimension // 2:
            return
        if self.kind not in _FACTORS:
            raise ValueError(
                f"rotary positions of type {self.kind!r} are not implemented: expected one of "
                f"{', '.join(_FACTORS)}"
            )
        numbers, count = (self.theta, *self.factors), len(_FACTORS[self.kind])
        if len(self.factors) != count or not all(0 < x < np.inf for x in numbers):
            raise ValueError(
                f"rotary positions of type {self.kind!r} need {count + 1} positive numbers, not "
                f"{numbers}"
            )
        if self.kind == "llama3" and not self.factors[1] < self.factors[2]:
            raise ValueError(
                "high_freq_factor must be above low_freq_factor, but they are "
                f"{self.factors[2]} and {self.factors[1]}"
            )

    @classmethod
    def from_mapping(cls, dimension: int, parameters: Mapping[str, Any]) -> Rotary:
        """The angles that transformers' ``rope_parameters`` describe.

        Parameters
        ----------
        dimension : int
            The dimension of a head.
        parameters : mapping
            Under the names of transformers 5, or those of ``rope_scaling`` before it.

        Returns
        -------
        Rotary

        Raises
        ------
        ValueError
            If they are of a type that is not implemented, or a number is missing or not a number.
        """
        kind = str(_given(parameters, ("rope_type", "type"), "default"))
        if _given(parameters, ("partial_rotary_factor",), 1.0) != 1.0:
            raise ValueError("partial_rotary_factor is not implemented")
        names = _FACTORS.get(kind, ())
        missing = [name for name in names if name not in parameters]
        if missing:
            raise ValueError(f"rotary positions of type {kind!r} need {', '.join(missing)}")
        given = {"rope_theta": _given(parameters, ("rope_theta",), 10000.0)}
        given |= {name: parameters[name] for name in names}
        for name, number in given.items():
            if not is_number(number):
                raise ValueError(f"{name} of rotary positions is {number!r}, expected a number")
        theta, *factors = map(float, given.values())
        return cls(dimension, theta, kind, tuple(factors))

    @classmethod
    def of_frequencies(cls, frequencies: Sequence[float]) -> Rotary:
        """Angles of any frequencies.

        Parameters
        ----------
        frequencies : sequence of float
            The angle of each pair in radians per position.

        Returns
        -------
        Rotary
        """
        return cls(2 * len(frequencies), kind=_GIVEN, factors=tuple(frequencies))

    def frequencies(self, mp: Any = mpmath.mp) -> list[Any]:
        """The angle of each pair in radians per position.

        Parameters
        ----------
        mp : mpmath.MPContext
            The context whose precision is used; mpmath's global one if left out.

        Returns
        -------
        list of mpf
        """
        if self.kind == _GIVEN:
            return [mp.mpf(frequency) for frequency in self.factors]
        theta, count = mp.mpf(self.theta), self.dimension
        plain = [theta ** (-mp.mpf(2 * i) / count) for i in range(count // 2)]
        if self.kind == "linear":
            return [frequency / self.factors[0] for frequency in plain]
        if self.kind == "llama3":
            return [self._llama_3(frequency, mp) for frequency in plain]
        return plain

    def _llama_3(self, frequency: Any, mp: Any) -> Any:
        """Low frequencies divided by the factor, middle ones by an interpolation of 1 and it."""
        factor, low, high, positions = (mp.mpf(x) for x in self.factors)
        turns = positions * frequency / (2 * mp.pi)
        share = min(max((turns - low) / (high - low), 0), 1)
        return frequency * (share + (1 - share) / factor)

    def tables(self, first: int, count: int) -> tuple[Float64, Float64]:
        """Cosines and sines of positions, within 3 units of 2**-53.

        Parameters
        ----------
        first, count : int
            The first position and how many follow.

        Returns
        -------
        cosine, sine : ndarray of float64, shape (count, dimension / 2)
        """
        return _table(self, first, count)

    def rotated(self, heads: NDArray[Any], first: int) -> Float64:
        """Vectors rotated by their positions.

        Parameters
        ----------
        heads : ndarray, shape (heads, rows, dimension)
        first : int
            The position of the first row.

        Returns
        -------
        ndarray of float64, shape (heads, rows, dimension)
        """
        cosine, sine = _table(self, first, heads.shape[1])
        wide, half = heads.astype(np.float64), cosine.shape[1]
        left, right = wide[..., :half], wide[..., half:]
        out = np.empty_like(wide)
        with np.errstate(over="ignore", invalid="ignore"):  # where an earlier step overflowed
            np.subtract(left * cosine, right * sine, out=out[..., :half])
            np.add(right * cosine, left * sine, out=out[..., half:])
        return out


def _given(parameters: Mapping[str, Any], names: tuple[str, ...], default: Any) -> Any:
    """The value under the first of the names that has one; nothing but None is none."""
    return next((parameters[n] for n in names if parameters.get(n) is not None), default)


@functools.lru_cache(8)
def _table(rotary: Rotary, first: int, count: int) -> tuple[Float64, Float64]:
    """Cosines and sines of positions, (count, dimension / 2), within 3 units of 2**-53.

    mpmath computes them correctly rounded at every 64th position and at the first 64; the rest
    follow from these by the addition theorems.
    """
    low, high = first // _STEP, (first + count - 1) // _STEP + 1
    fine = _exact(rotary, range(_STEP))
    coarse = _exact(rotary, range(low * _STEP, high * _STEP, _STEP))
    positions = np.arange(first, first + count)
    cosine, sine = coarse[:, positions // _STEP - low]
    cosine_of_rest, sine_of_rest = fine[:, positions % _STEP]
    return (
        cosine * cosine_of_rest - sine * sine_of_rest,
        sine * cosine_of_rest + cosine * sine_of_rest,
    )


@functools.lru_cache(32)
def _exact(rotary: Rotary, positions: range) -> Float64:
    """Correctly rounded cosines and sines, (2, positions, dimension / 2)."""
    with own_context() as mp:
        mp.dps = _DIGITS
        frequencies = rotary.frequencies(mp)
        angles = [[frequency * n for frequency in frequencies] for n in positions]
        return np.array([[[float(g(a)) for a in row] for row in angles] for g in (mp.cos, mp.sin)])
