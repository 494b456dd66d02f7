"""Operands of inner products of bfloat16 numbers that a processor is asked about.

Every kind is drawn as ``draw(generator, rows, terms)``: codes of a and b, (rows, terms) uint16, and
the float32 accumulators c, (rows,).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Operands = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float32]]
LEAST = -126  # the exponent of the smallest normal float32


def codes(x: NDArray) -> NDArray[np.uint16]:
    """Bfloat16 codes of numbers, cut off."""
    return (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def numbers(x: NDArray) -> NDArray[np.float32]:
    """The numbers of bfloat16 codes."""
    return (x.astype(np.uint32) << 16).view(np.float32)


def _scaled(generator: np.random.Generator, low: int, high: int, shape: object) -> NDArray:
    return np.ldexp(generator.normal(size=shape), generator.integers(low, high, shape))


def moderate(generator: np.random.Generator, rows: int, terms: int) -> Operands:
    """Numbers of order one."""
    a, b = generator.normal(size=(2, rows, terms))
    return codes(a), codes(b), generator.normal(size=rows).astype(np.float32)


def cancelling(generator: np.random.Generator, rows: int, terms: int) -> Operands:
    """An accumulator that cancels the products, but for a few units in the last place."""
    a, b = map(codes, generator.normal(size=(2, rows, terms)))
    sums = (numbers(a).astype(np.float64) * numbers(b)).sum(1)
    c = -sums * (1 + generator.integers(-4, 5, rows) * 2.0**-23)
    return a, b, c.astype(np.float32)


def wide(generator: np.random.Generator, rows: int, terms: int) -> Operands:
    """Exponents from -60 to 60."""
    a, b = (_scaled(generator, -60, 61, (rows, terms)) for _ in "ab")
    return codes(a), codes(b), _scaled(generator, -60, 61, rows).astype(np.float32)


def small(generator: np.random.Generator, rows: int, terms: int) -> Operands:
    """Subnormal operands, accumulators and products about the smallest normal number."""
    exponents = generator.integers(-135, -50, (rows, terms))
    near = LEAST - exponents + generator.integers(-3, 3, (rows, terms))
    others = generator.integers(-135, -50, (rows, terms))
    a = np.ldexp(generator.normal(size=(rows, terms)), exponents)
    chosen = np.where(generator.random((rows, terms)) < 0.5, np.clip(near, -140, 100), others)
    b = np.ldexp(generator.normal(size=(rows, terms)), chosen)
    return codes(a), codes(b), _scaled(generator, -150, -115, rows).astype(np.float32)


def bits(generator: np.random.Generator, rows: int, terms: int) -> Operands:
    """Any codes: infinities and NaNs, too."""
    a, b = generator.integers(0, 2**16, (2, rows, terms)).astype(np.uint16)
    c = generator.integers(0, 2**32, rows, dtype=np.uint64).astype(np.uint32)
    return a, b, c.view(np.float32)


def tiny(generator: np.random.Generator, rows: int, terms: int) -> Operands:
    """Partial sums just below the smallest normal number, which rounding takes up to it or not.

    A term or the accumulator is that number, one of the other terms a little of the other sign.
    """
    a, b = np.zeros((2, rows, terms))
    every = np.arange(rows)
    sign = generator.choice([-1.0, 1.0], rows)
    in_c = generator.random(rows) < 0.3
    order = generator.random((rows, terms)).argsort(1)
    first, second = order[:, 0], order[:, 1]
    a[every, first] = np.where(in_c, 0.0, sign * 2.0 ** (LEAST // 2))
    b[every, first] = 2.0 ** (LEAST // 2)
    a[every, second] = -sign * generator.choice([1.0, 1.5, 1.0078125, 1.9921875], rows) * 2.0**-80
    b[every, second] = np.ldexp(1.0, 80 + LEAST - generator.integers(23, 28, rows))
    c = np.where(in_c, sign * 2.0**LEAST, generator.choice([0.0, 0.0, 2.0**-125], rows))
    return codes(a), codes(b), c.astype(np.float32)


KINDS: dict[str, Callable[[np.random.Generator, int, int], Operands]] = {
    "mod": moderate,
    "cancel": cancelling,
    "wide": wide,
    "small": small,
    "bits": bits,
    "tiny": tiny,
}
