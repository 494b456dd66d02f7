"""Stochastic rounding of exact numbers with given random bits, from its definition."""

import math

from gmpy2 import mpq

from tests.oracle.rounding import round_exact

HUGE = mpq(2) ** 3000


class Root:
    """The square root of a positive rational, to be compared with and truncated exactly."""

    def __init__(self, square):
        self.square = mpq(square)

    def floor(self, scale):
        """``floor(root * scale)`` for a positive scale."""
        scaled = self.square * scale * scale
        return math.isqrt(scaled.numerator // scaled.denominator)


def floor_of(exact, scale):
    return exact.floor(scale) if isinstance(exact, Root) else math.floor(exact * scale)


def exponent_of(exact):
    """``floor(log2(exact))`` of a positive number."""
    if isinstance(exact, Root):
        return exponent_of(exact.square) // 2
    exponent = int(exact.numerator).bit_length() - int(exact.denominator).bit_length()
    return exponent if exact >= mpq(2) ** exponent else exponent - 1


def stochastic(exact, format, mode, word, random_bits=64):
    """The rounding of a positive exact number with the highest bits of `word` for random bits."""
    exact = exact if isinstance(exact, Root) else mpq(exact)
    quantum_exponent = max(exponent_of(exact) - format.precision + 1, format.quantum_exponent)
    per_quantum = mpq(2) ** -quantum_exponent
    kept = floor_of(exact, per_quantum)
    fraction = floor_of(exact, per_quantum * 2**random_bits) - (kept << random_bits)
    drawn = word >> (64 - random_bits)
    if mode == "sr_equal":
        inexact = floor_of(exact, per_quantum * HUGE) != kept * HUGE
        up = inexact and word >> 63 == 1
    elif mode == "sr_b":
        finer = floor_of(exact, per_quantum * 2 ** (random_bits + 1)) - (kept << random_bits + 1)
        up = finer + 2 * drawn + 1 >= 2 ** (random_bits + 1)
    elif mode == "sr_c":
        scale = per_quantum * 2 ** (random_bits + 1)
        finer = floor_of(exact, scale)
        beyond_half = floor_of(exact, scale * HUGE) != finer * HUGE
        if finer % 2 == 1 and (beyond_half or fraction % 2 == 1):
            fraction += 1
        up = fraction + drawn >= 2**random_bits
    else:
        up = fraction + drawn >= 2**random_bits
    # No mode matters any more but for overflow, which goes as to nearest.
    rounded = (kept + up) / per_quantum
    return round_exact(rounded, format, "rne") if rounded else 0.0


def signed(exact, negative_zero, format, mode, word, random_bits=64):
    if isinstance(exact, Root):
        return stochastic(exact, format, mode, word, random_bits)
    if exact == 0:
        return round_exact(-0.0 if negative_zero else 0.0, format)
    magnitude = stochastic(abs(exact), format, mode, word, random_bits)
    if exact > 0:
        return magnitude or round_exact(0.0 if format.has_zero else format.smallest_normal, format)
    return round_exact(-magnitude, format)
