"""Rounding into a format: ``Rounding`` and :func:`round`.

References
----------
IEEE Std 754-2019, sections 4.3 (rounding directions) and 7.4 (overflow).
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from fpemu import formats as _formats
from fpemu._arguments import integer
from fpemu._kernels import launching
from fpemu._kernels import rounding as kernels
from fpemu._kernels.array_rounding import round_flat
from fpemu._listing import Listed
from fpemu._reprs import constructed
from fpemu.carriers import (
    Carrier,
    as_carrier,
    check_no_nan,
    check_out,
    result_dtype,
    same_place,
    working_dtype,
)
from fpemu.formats import Format, FormatLike

__all__ = ["MODES", "Rounding", "RoundingLike", "is_for_processor", "round", "with_one_nan"]

MODES: Final = tuple(kernels.MODES)
OVERFLOWS: Final = ("ieee", "saturate", "propagate", "infinity")
_MOST_RANDOM_BITS: Final = 64
_NOTHING_ELSE: Final = ("ieee", None, None)
_WITH_RANDOM_BITS: Final = ("sr", "sr_b", "sr_c")


@dataclass(frozen=True, repr=False)
class Rounding(metaclass=Listed):
    """How a value that is not in the format becomes one that is.

    Parameters
    ----------
    mode : {"rne", "rna", "rnz", "rtz", "rtp", "rtn", "rto", "sr", "sr_b", "sr_c", "sr_equal"}
        To nearest with ties to even, away from or toward zero; toward zero, up, down; to odd;
        stochastic, going away from zero with the probability of the discarded fraction (P3109's
        StochasticA, B and C, see the notes); stochastic, going either way with equal probability.
    overflow : {"ieee", "saturate", "propagate", "infinity"}
        ``"ieee"``: infinity or the largest finite number by mode (IEEE 754 section 7.4), with NaN
        for infinity in a format that has only NaN; for a P3109 format what its report calls
        SatNone, see the notes.  ``"saturate"`` (SatFinite): the largest finite number, for
        infinities as well.  ``"propagate"`` (SatPropagate): the largest finite number for finite
        numbers; infinities stay, or become the largest finite number where there are none.
        ``"infinity"``: as to nearest in every mode, which is what many matrix units do.
    random_bits : int, optional
        Mode sr: the discarded fraction is truncated to that many bits, 1 to 64.  Left out, the
        probability is exact, or as exact as the operation says.  Modes sr_b and sr_c need it, 1 to
        63.
    seed : int, optional
        Stochastic modes: the key of the random numbers; element i of a call draws those of
        (seed, i).  Left out, every call draws others.

    Raises
    ------
    ValueError
        If a field has a value that is not listed here.
    TypeError
        If `random_bits` or `seed` is not an integer.

    Notes
    -----
    Let d be the discarded fraction of a unit in the last place, N the random bits and R a random
    integer below ``2**N``.  The magnitude goes up

    - in mode sr if ``floor(d * 2**N) + R >= 2**N``,
    - in mode sr_b if ``floor(d * 2**(N + 1)) + 2*R + 1 >= 2**(N + 1)``,
    - in mode sr_c if ``nearest(d * 2**N) + R >= 2**N``, with ties to even.

    P3109 formats (``p3109`` of :class:`fpemu.Format`) take a finite number beyond the largest, and
    an infinity, to the largest finite number if they are finite formats; negative numbers go to
    zero if they are unsigned.  Mode rto goes by the code, also beyond the largest number: to
    infinity in a signed format, to the largest number in an unsigned one.

    `is_stochastic` says whether results depend on random bits; `derived` makes the rounding of one
    of several steps, with a seed of its own.

    References
    ----------
    IEEE Std 754-2019, section 7.4.  IEEE P3109 interim report 4.0 (26 June 2026).
    """

    mode: str = "rne"
    overflow: str = "ieee"
    random_bits: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown rounding mode {self.mode!r}: expected {', '.join(MODES)}")
        if self.overflow not in OVERFLOWS:
            raise ValueError(f"unknown overflow {self.overflow!r}: expected {', '.join(OVERFLOWS)}")
        for name in ("random_bits", "seed"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, integer(name, value))
        self._check_random_bits()
        if self.seed is not None and not self.is_stochastic:
            names = ", ".join(name for name in MODES if kernels.MODES[name].stochastic)
            raise ValueError(f"a seed belongs to the stochastic modes {names}, not {self.mode!r}")

    def _check_random_bits(self) -> None:
        facts = kernels.MODES[self.mode]
        if self.random_bits is None:
            if facts.more_bits:
                raise ValueError(f"mode {self.mode!r} needs random_bits")
            return
        if self.mode not in _WITH_RANDOM_BITS:
            names = ", ".join(_WITH_RANDOM_BITS)
            raise ValueError(f"random_bits belong to the modes {names}, not {self.mode!r}")
        most = _MOST_RANDOM_BITS - facts.more_bits
        if not 1 <= self.random_bits <= most:
            raise ValueError(f"random_bits must lie in 1..{most}, not {self.random_bits}")

    @property
    def _short_name(self) -> str | None:
        """The mode, if that says all."""
        return self.mode if (self.overflow, self.random_bits, self.seed) == _NOTHING_ELSE else None

    def __repr__(self) -> str:
        return constructed(self, "fpemu")

    @property
    def is_stochastic(self) -> bool:
        """Whether results depend on random bits."""
        return kernels.MODES[self.mode].stochastic

    def derived(self, *labels: Any) -> Rounding:
        """The rounding of one of several steps: with a seed of its own, if it has one.

        Parameters
        ----------
        *labels
            Strings and integers that tell the step from the others.

        Returns
        -------
        Rounding
            The same one if it is not stochastic or has no seed.
        """
        if self.seed is None:
            return self
        digest = hashlib.blake2b(repr((self.seed, labels)).encode(), digest_size=8).digest()
        return replace(self, seed=int.from_bytes(digest, "little"))


RoundingLike = Rounding | str


def as_rounding(rounding: RoundingLike) -> Rounding:
    """A Rounding from itself or from a mode string."""
    if isinstance(rounding, Rounding):
        return rounding
    if not isinstance(rounding, str):
        raise TypeError(f"rounding must be a Rounding or a mode, not {type(rounding).__name__}")
    return _of_mode(rounding)


@functools.lru_cache(maxsize=64)
def _of_mode(mode: str) -> Rounding:
    """The rounding of a mode, checked once."""
    return Rounding(mode)


_NEAREST: Final = _of_mode("rne")
_FEW: Final = 2**17  # elements that numpy computes in less time than a kernel takes to start


def is_for_processor(
    format: Format, rounding: Rounding, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> bool:
    """Whether few numbers are to be rounded into a type's own format as processors round."""
    nearest = rounding is _NEAREST or rounding == _NEAREST
    return nearest and math.prod(shape) <= _FEW and kernels.is_own_format(format, dtype)


def with_one_nan(x: Carrier) -> Carrier:
    """Numbers of a processor; NaN become the one that kernels return, in place."""
    not_numbers = np.isnan(x)
    if np.count_nonzero(not_numbers):
        x[not_numbers] = np.nan
    return x


@launching.default_environment()
def round(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """Round each element once, exactly.

    Subnormal results are rounded at the fixed spacing ``2**(emin-precision+1)``; in a format
    without subnormals a result that is then below ``2**emin`` becomes a zero of its sign.

    Parameters
    ----------
    x : array_like
        Real numbers, any shape.
    format : Format or str
        The format to round into.
    rounding : Rounding or str
        The rounding, or just its mode.
    out : ndarray, optional
        Where to put the result: float64, or float32 if that holds the format; may be `x` itself.

    Returns
    -------
    ndarray or scalar
        Members of `format`, shape of `x`; float32 if `x` is and the format fits, else float64.

    Raises
    ------
    ValueError
        If the format or mode is unknown, `out` has another shape, or a NaN meets a format
        without NaN.
    TypeError
        If `x` does not hold real numbers of at most 64 bits.

    Notes
    -----
    A negative number that does not round to zero is invalid in an unsigned format: NaN, or the
    smallest value of a format without NaN; P3109 has zero instead.  A format without zero
    (float8_e8m0fnu) turns zero into NaN and anything below its smallest number into that, as
    ml_dtypes does.

    References
    ----------
    IEEE Std 754-2019, sections 4.3 and 7.4.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.round([0.3, 1000.0, -1e-9], "float8_e4m3fn")
    array([ 0.3125,     nan, -0.    ])
    >>> fpemu.round(1000.0, "float8_e4m3fn", fpemu.Rounding(overflow="saturate"))
    np.float64(448.0)
    """
    format = _formats.format(format)
    rounding = as_rounding(rounding)
    array = as_carrier(x)
    check_no_nan(array, format)
    dtype = result_dtype(format, array)
    place = None if out is None else check_out(out, array.shape, format)
    if place is None and is_for_processor(format, rounding, format.carrier, array.shape):
        own = with_one_nan(array.astype(format.carrier))
        return own.astype(dtype, copy=False)[()]
    working = working_dtype(format, dtype)
    if kernels.read_bits(rounding, 0) > working.itemsize * 8:
        working = np.dtype(np.float64)
    # Random bits go by the element's place in the call, and so by C order.
    order: Literal["C", "F"] = "F" if array.flags.fnc and not rounding.is_stochastic else "C"
    source = np.asarray(array, dtype=working, order=order)
    direct = (
        place is not None
        # A result may replace its own element, but no other one that is still to be read.
        and (same_place(place, array) or not np.may_share_memory(place, array))
        and place.dtype == working
        and place.flags.aligned
        and (place.flags.fnc if order == "F" else place.flags.c_contiguous)
    )
    result = place if direct and place is not None else np.empty(array.shape, working, order=order)
    flat_source, flat_result = (a.reshape(-1, order=order) for a in (source, result))
    round_flat(flat_source, flat_result, format, rounding)
    if place is None:
        return result.astype(dtype, copy=False)[()]
    if not direct:
        place[...] = result
    return out
