"""Formats of every kind, and the numbers at which rounding into them goes wrong if it ever does."""

import functools
import inspect
from collections.abc import Iterator
from typing import Final

import numpy as np
from gmpy2 import mpq
from numpy.typing import DTypeLike, NDArray

from fpemu import formats
from fpemu.formats import Format
from fpemu.reference import decode_exact
from tests.oracle.rounding import Numbers, rounded

# To look at the floating-point environment takes as long as to decode; tests run in the usual one.
_decoded: Final = inspect.unwrap(decode_exact)

MODES: Final = ("rne", "rna", "rnz", "rtz", "rtp", "rtn", "rto")
# For what only hands a mode on, to roundings that are tested in all of them; a kernel of its own is
# compiled for each.  One to nearest, the one whose zero sums are negative, and one of the others.
SOME_MODES: Final = ("rne", "rtn", "rto")

NAMED: Final = tuple(formats.named_formats().values())

_IEEE_LIKE_NAMES: Final = (
    "e2m0 e2m1 e2m22 e2m23 e2m52 e3m0 e4m1 e5m7 e5m23 e6m9 e8m0 e8m2 e8m4 e8m22 e9m3 e10m23 "
    "e11m0 e11m20 e11m51"
)
IEEE_LIKE: Final = tuple(map(formats.format, _IEEE_LIKE_NAMES.split()))

_P3109_NAMES: Final = (
    "binary3p1sf binary3p2se binary4p4uf binary5p2ue binary6p3uf binary8p1se binary8p1ue "
    "binary8p3sf binary8p4se binary8p7sf binary8p8ue binary12p5ue binary15p8se"
)
P3109: Final = tuple(map(formats.format, _P3109_NAMES.split()))

UNUSUAL: Final = (
    Format("bfloat16 without subnormals", 16, 8, 127, subnormals=False),
    Format("float32 without subnormals", 32, 24, 127, subnormals=False),
    Format("float64 without subnormals", 64, 53, 1023, subnormals=False),
    Format("e4m3 without subnormals", 8, 4, 7, subnormals=False),
    Format("e4m3fnuz without subnormals", 8, 4, 8, True, False, False, 0, False),
    Format("unsigned without subnormals", 7, 3, 7, signed=False, subnormals=False),
    Format("unsigned without NaN", 6, 3, 4, signed=False, infinities=False, high_nans=0),
    Format("unsigned, IEEE specials", 6, 3, 4, signed=False),
    Format("no zero, no NaN", 5, 1, 15, False, False, False, 0),
    Format("no zero, infinity", 5, 1, 15, False, False, True, 1),
    Format("no zero, both signs", 6, 1, 15, True, False, False, 1),
    Format("three NaNs", 8, 4, 7, high_nans=3),
    Format("infinity, no NaN", 8, 4, 7, high_nans=0),
    # Every number of the first is a float32 subnormal; the next two lie at the other end.
    Format("within float32 subnormals", 6, 3, 146),
    # Their emin is that of no normal number of float32, of float64.
    Format("just below normal float32", 8, 4, 128),
    Format("just below normal float64", 8, 4, 1024),
    Format("top of float32", 7, 4, -120),
    Format("top of float64", 7, 4, -1016),
    # In float32's exponent range but for its last quantum, which only float64 has.
    Format("just below float32", 12, 8, 144),
)

ALL_FORMATS: Final = NAMED + IEEE_LIKE + P3109 + UNUSUAL


def label(format: Format) -> str:
    """A format's name as part of a test's name."""
    return format.name.replace(" ", "_").replace(",", "")


@functools.lru_cache(256)  # for a test of each of their properties
def rounding_points(format: Format, dtype: DTypeLike) -> NDArray[np.floating]:
    """Numbers of `dtype` in and around a format, in ascending order, of both signs.

    Between two adjacent values: both ends, the midpoint, and the neighbors of all these in
    `dtype`.  Around the low end, the smallest normal number, the largest finite one and the
    overflow threshold likewise, and across the range of `dtype`.  Formats of few codes are taken
    whole, larger ones at chosen and random codes.  Infinities are there, and NaN if the format has
    one, last.  The array is read-only.
    """
    dtype = np.dtype(dtype)
    info = np.finfo(dtype)
    carrier = formats.format(dtype.name)
    landmarks = rounded(_taken_apart(format), carrier, overflow="saturate")
    powers = np.ldexp(1.0, range(info.minexp - info.nmant, info.maxexp, info.nexp**2 // 3))
    ends = [0.0, info.smallest_subnormal, info.smallest_normal, info.max]
    middle = np.concatenate([landmarks, powers, ends]).astype(dtype)
    with np.errstate(over="ignore"):
        around = [np.nextafter(middle, dtype.type(to)) for to in (-np.inf, np.inf)]
    magnitudes = np.unique(np.abs(np.concatenate([middle, *around, [np.inf]]).astype(dtype)))
    specials = [np.nan] if format.has_nan else []
    points = np.concatenate([-magnitudes[::-1], magnitudes, specials]).astype(dtype)
    points.flags.writeable = False
    return points


@functools.lru_cache(128)
def _taken_apart(format: Format) -> Numbers:
    """The landmarks of a format, to be rounded into either carrier."""
    return Numbers(list(set(_landmarks(format))))


def _landmarks(format: Format) -> Iterator[mpq]:
    quantum = mpq(2) ** format.quantum_exponent
    smallest_normal = mpq(2) ** format.emin
    top_quantum = mpq(2) ** (format.emax - format.precision + 1)
    value = functools.cache(lambda code: mpq(_decoded(code, format)))
    for code in _sampled_codes(format):
        below = value(code)
        above = below + top_quantum if code == format.max_finite_code else value(code + 1)
        yield from (below, (below + above) / 2, above)
    for steps in (mpq(1, 4), mpq(1, 2), mpq(3, 4), 1, mpq(3, 2)):
        yield steps * quantum
        yield smallest_normal - steps * quantum
        yield mpq(format.max_finite) + steps * top_quantum
    yield from (2 * mpq(2) ** format.emax, 3 * mpq(2) ** format.emax)


def _sampled_codes(format: Format) -> list[int]:
    last = format.max_finite_code
    if last < 2**9:
        return list(range(last + 1))
    field = 2 ** (format.precision - 1)
    corners = {0, 1, 2, field - 1, field, field + 1, last - 1, last}
    # Carries into the exponent happen at the ends of binades.
    binades = [last // field * step // 9 for step in range(1, 10)]
    corners |= {binade * field + offset for binade in binades for offset in (-1, 0, 1)}
    generator = np.random.default_rng(format.bits * 64 + format.precision)
    corners |= set(generator.integers(0, last, 20).tolist())
    return sorted(code for code in corners if 0 <= code <= last)
