"""Formats and projection of IEEE P3109 from the definitions of its interim report 4.0, in integers.

A point is an integer ``X`` that stands for ``X / 2**scale``, infinity, its negative or NaN.
"""

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

INFINITY, NEGATIVE_INFINITY, NAN = "Inf", "-Inf", "NaN"
SATURATION = {"ieee": "SatNone", "saturate": "SatFinite", "propagate": "SatPropagate"}
ROUNDING = {
    "rne": "NearestTiesToEven",
    "rna": "NearestTiesToAway",
    "rtz": "TowardZero",
    "rtp": "TowardPositive",
    "rtn": "TowardNegative",
    "rto": "ToOdd",
    "sr": "StochasticA",
    "sr_b": "StochasticB",
    "sr_c": "StochasticC",
}


@dataclass(frozen=True)
class P3109:
    width: int
    precision: int
    signed: bool
    extended: bool

    @property
    def name(self):
        letters = ("s" if self.signed else "u") + ("e" if self.extended else "f")
        return f"Binary{self.width}p{self.precision}{letters}"

    @cached_property
    def bias(self):
        return 2 ** (self.width - self.precision - (1 if self.signed else 0))

    @cached_property
    def largest_code(self):
        """Of a finite positive number: NaN is the highest code if unsigned, infinity comes next."""
        codes = 2 ** (self.width - 1) if self.signed else 2**self.width - 1
        return codes - 1 - (1 if self.extended else 0)

    @cached_property
    def scale(self):
        """Enough to hold the fractions of all that is tested here."""
        return self.bias + self.precision + 40

    def value(self, code):
        """The value of a nonnegative code as a point, the range continued beyond the largest."""
        exponent, trailing = divmod(code, 2 ** (self.precision - 1))
        significand = trailing + (2 ** (self.precision - 1) if exponent else 0)
        return significand << (max(exponent, 1) - self.bias - self.precision + 1 + self.scale)

    @cached_property
    def largest(self):
        """The largest finite number as a point."""
        return self.value(self.largest_code)

    @property
    def holds_float64(self):
        """Whether all values are float64 numbers."""
        largest = self.largest.bit_length() - 1 - self.scale
        return largest <= 1023 and 2 - self.bias - self.precision >= -1074

    def number(self, point):
        """A point as a float."""
        if isinstance(point, str):
            return float(point)
        return point / (1 << self.scale)

    def is_float64(self, point):
        """Whether a point is a float64 number, infinite or NaN."""
        try:
            number = self.number(point)
        except OverflowError:
            return False
        return not math.isfinite(number) or Fraction(number) * 2**self.scale == point


def formats(widths):
    """All formats of some widths."""
    return [
        P3109(width, precision, signed, extended)
        for width in widths
        for signed in (True, False)
        for precision in range(1, width + (0 if signed else 1))
        for extended in (True, False)
    ]


def round_to_precision(format, point, mode, random_bits=0, random=0):
    """RoundToPrecision: the exponent is not bounded above."""
    if isinstance(point, str) or point == 0:
        return point
    magnitude = abs(point)
    floor_log2 = magnitude.bit_length() - 1 - format.scale
    exponent = max(floor_log2, 1 - format.bias) - format.precision + 1
    shift = exponent + format.scale
    significand, rest = magnitude >> shift, magnitude & ((1 << shift) - 1)
    if round_away(format, mode, point, exponent, significand, rest, shift, random_bits, random):
        significand += 1
    rounded = significand << shift
    return rounded if point > 0 else -rounded


def round_away(format, mode, point, exponent, significand, rest, shift, random_bits, random):
    """Whether the magnitude goes up; the fraction is ``rest / 2**shift``."""
    if format.precision > 1:
        code_is_even = significand % 2 == 0
    else:
        code_is_even = significand == 0 or (exponent + format.bias) % 2 == 0
    one = 1 << shift
    match ROUNDING[mode]:
        case "NearestTiesToEven":
            return 2 * rest > one or (2 * rest == one and not code_is_even)
        case "NearestTiesToAway":
            return 2 * rest >= one
        case "TowardZero":
            return False
        case "TowardPositive":
            return rest > 0 and point > 0
        case "TowardNegative":
            return rest > 0 and point < 0
        case "ToOdd":
            return rest > 0 and code_is_even
        case "StochasticA":
            return (rest << random_bits >> shift) + random >= 1 << random_bits
        case "StochasticB":
            floor = rest << (random_bits + 1) >> shift
            return floor + 2 * random + 1 >= 1 << (random_bits + 1)
        case "StochasticC":
            floor, beyond = divmod(rest << random_bits, one)
            if 2 * beyond > one or (2 * beyond == one and floor % 2 == 1):
                floor += 1
            return floor + random >= 1 << random_bits


def saturate(format, point, mode, saturation):
    """Saturate: a rounded point into the range of the format."""
    highest = format.largest
    lowest = -highest if format.signed else 0
    if point == NAN:
        return NAN
    if point not in (INFINITY, NEGATIVE_INFINITY) and lowest <= point <= highest:
        return point
    above = point == INFINITY or (point != NEGATIVE_INFINITY and point > highest)
    finite = point not in (INFINITY, NEGATIVE_INFINITY)
    bound, infinity = (highest, INFINITY) if above else (lowest, NEGATIVE_INFINITY)
    has_infinity = format.extended and (above or format.signed)
    if saturation == "SatFinite" or not has_infinity:
        return bound
    if saturation == "SatPropagate":
        return bound if finite else infinity
    rounding = ROUNDING[mode]
    if finite and rounding in ("TowardZero", "TowardNegative" if above else "TowardPositive"):
        return bound
    if finite and rounding == "ToOdd" and not format.signed:
        return bound
    return infinity


def saturated(format, points, mode, overflow):
    """Rounded points in the range of the format, as floats; equal ones are looked at once."""
    saturation = SATURATION[overflow]
    ends = {
        point: format.number(saturate(format, point, mode, saturation)) for point in set(points)
    }
    return [ends[point] for point in points]


def project(format, points, mode, overflow="ieee", random_bits=0, random=None):
    """Project: the values that points become, as floats."""
    random = itertools.repeat(0) if random is None else random
    rounded = [
        round_to_precision(format, point, mode, random_bits, its)
        for point, its in zip(points, random, strict=False)
    ]
    return saturated(format, rounded, mode, overflow)


def points_around(format, codes):
    """Values, midpoints and points between them at codes, of both signs; beyond the largest too."""
    points = set()
    for code in codes:
        below, above = format.value(code), format.value(code + 1)
        step = above - below
        points |= {below, *(below + step * part // 16 for part in (4, 8, 10, 12, 13))}
    top = format.largest
    points |= {top, 2 * top, 3 * top}
    points = {point for point in points if point}
    return [0, INFINITY, NEGATIVE_INFINITY, NAN, *sorted(points | {-point for point in points})]
