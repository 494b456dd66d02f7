"""Inner products that show how a matrix unit works, kind by kind.

:func:`drawn` gives members of the formats of a, b and c, of shapes (rows, terms), (rows, terms) and
(rows,).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu.formats import Format

Formats = tuple[Format, Format, Format]
Operands = tuple[NDArray, NDArray, NDArray]
_SATURATED = fpemu.Rounding("rne", "saturate")


def member(x: NDArray, format: Format) -> NDArray[np.float64]:
    """The nearest finite numbers."""
    return np.asarray(fpemu.round(x, format, _SATURATED), np.float64)


def _normal(generator: np.random.Generator, exponents: object, shape: object) -> NDArray:
    """Random signs and significands."""
    significands = generator.uniform(1, 2, shape) * generator.choice([-1.0, 1.0], shape)
    return np.ldexp(significands, exponents)


def _product(
    generator: np.random.Generator, formats: Formats, exponents: NDArray
) -> tuple[NDArray, NDArray]:
    """Factors of products with about these exponents, as far as the formats reach."""
    a, b, _ = formats
    low, high = a.emin - a.precision + 1, a.emax
    middle = exponents // 2 + (a.emin + a.emax - b.emin - b.emax) // 4
    of_a = np.clip(middle + generator.integers(-2, 3, exponents.shape), low, high)
    of_b = np.clip(exponents - of_a, b.emin - b.precision + 1, b.emax)
    shape = exponents.shape
    return member(_normal(generator, of_a, shape), a), member(_normal(generator, of_b, shape), b)


def near_one(generator: np.random.Generator, formats: Formats, rows: int, terms: int) -> Operands:
    """Numbers of order one."""
    a, b, c = formats
    shape = rows, terms
    x, y = (member(generator.normal(size=shape), format) for format in (a, b))
    return x, y, member(generator.normal(size=rows), c)


def cancelling(generator: np.random.Generator, formats: Formats, rows: int, terms: int) -> Operands:
    """Products that cancel one another or c, all or all but a little."""
    a, b, c = near_one(generator, formats, rows, terms)
    half = terms // 2
    a[:, half : 2 * half], b[:, half : 2 * half] = a[:, :half], -b[:, :half]
    other = generator.random((rows, terms)) < 0.15
    a = np.where(other, member(a * 0.875, formats[0]), a)
    c = np.where(generator.random(rows) < 0.3, -a[:, 0] * b[:, 0], c * 2.0**-24)
    c = np.where(generator.random(rows) < 0.3, 0.0, c)
    return a, b, member(c, formats[2])


def ladder(generator: np.random.Generator, formats: Formats, rows: int, terms: int) -> Operands:
    """A large product or c, of either sign, above terms about where they are cut off."""
    top = generator.integers(-3, 4, (rows, 1))
    exponents = top - generator.integers(9, 40, (rows, terms))
    exponents = np.where(generator.random((rows, terms)) < 0.3, top - 36, exponents)
    exponents[:, 0] = top[:, 0]
    a, b = _product(generator, formats, exponents)
    even = generator.random((rows, 1)) < 0.5  # powers of two: what is left is seen alone
    a, b = (np.where(even, np.sign(x) * 2.0 ** np.floor(np.log2(np.abs(x))), x) for x in (a, b))
    c = _normal(generator, top[:, 0] - generator.integers(-1, 40, rows), rows)
    c = np.where(generator.random(rows) < 0.3, -a[:, 0] * b[:, 0], c)
    return a, b, member(c, formats[2])


def tiny(generator: np.random.Generator, formats: Formats, rows: int, terms: int) -> Operands:
    """Products and c about the least numbers, the floors and what is cut off there."""
    least = -149 if formats[2].precision > 11 else -24
    below = generator.integers(-22, 24, (rows, terms))
    a, b = _product(generator, formats, least + below)
    gone = generator.random((rows, terms)) < 0.4
    a = np.where(gone, a * 0.0, a)
    c = generator.choice([0.0, -0.0, 1.0, -1.0, 3.0, -8.0, 2.0**20], rows) * 2.0**least
    return a, b, member(c, formats[2])


def _exact_product(
    formats: Formats, factors: NDArray, exponents: NDArray
) -> tuple[NDArray, NDArray]:
    """Small integers times powers of two, the powers split between a and b."""
    a, b, _ = formats
    of_a = np.clip(exponents // 2, a.emin, a.emax - 3)
    of_b = np.clip(exponents - of_a, b.emin - b.precision + 1, b.emax)
    return np.ldexp(factors, exponents - of_b), np.ldexp(1.0, of_b)


def ties(generator: np.random.Generator, formats: Formats, rows: int, terms: int) -> Operands:
    """Sums about halfway between two numbers of the result, with a little that decides."""
    top = generator.integers(4, 11, (rows, 1)) if formats[0].emax < 40 else np.zeros((rows, 1), int)
    precision = formats[2].precision
    exponents = top - generator.integers(precision + 4, precision + 12, (rows, terms))
    exponents[:, :1] = top - generator.integers(precision, precision + 2, (rows, 1))
    factors = generator.choice([-3.0, -1.0, 0.0, 0.0, 0.0, 1.0, 3.0], (rows, terms))
    factors[:, 0] = generator.choice([-3.0, -1.0, 1.0, 3.0], rows)
    a, b = _exact_product(formats, factors, exponents)
    c = np.ldexp(generator.choice([-1.0, 1.0], rows), top[:, 0])
    return member(a, formats[0]), member(b, formats[1]), member(c, formats[2])


def floors(generator: np.random.Generator, formats: Formats, rows: int, terms: int) -> Operands:
    """The least numbers of the result, and what the alignment cuts off or just does not."""
    least, cuts = (-149, (-160, -153)) if formats[2].precision > 11 else (-24, (-48, -41))
    exponents = np.repeat(generator.integers(*cuts, (rows, 1)), terms, 1)
    exponents[:, ::2] = least + generator.choice([-1, 0, 1], (rows, exponents[:, ::2].shape[1]))
    factors = generator.choice([-1.0, 0.0, 1.0], (rows, terms))
    a, b = _exact_product(formats, factors, exponents)
    return member(a, formats[0]), member(b, formats[1]), np.zeros(rows)


def subnormal(generator: np.random.Generator, formats: Formats, rows: int, terms: int) -> Operands:
    """Subnormal numbers by large ones, which align by the exponent emin."""
    shape = rows, terms
    numbers = []
    for format in formats[:2]:
        count = 2 ** (format.precision - 1)
        small = generator.integers(-count, count + 1, shape) * format.smallest_subnormal
        high = _normal(generator, generator.integers(format.emax - 4, format.emax, shape), shape)
        numbers.append((small, member(high, format)))
    (small_a, high_a), (small_b, high_b) = numbers
    chosen = generator.integers(0, 4, shape)
    a = np.where(chosen % 2, small_a, high_a)
    b = np.where(chosen > 1, small_b, high_b)
    a, b = np.where(chosen == 0, 0.0, a), np.where(chosen == 0, 1.0, b)
    c = generator.choice([0.0, 1.0, -(2.0**-14), 2.0**-24, -(2.0**-126), 2.0**-149], rows)
    return a, b, member(c, formats[2])


def huge(generator: np.random.Generator, formats: Formats, rows: int, terms: int) -> Operands:
    """Numbers near the largest ones: overflow, and what just escapes it."""
    shape = rows, terms
    numbers = []
    for format in formats[:2]:
        exponents = generator.integers(format.emax - 2, format.emax + 1, shape)
        numbers.append(member(_normal(generator, exponents, shape), format))
    a, b = numbers
    quiet = generator.random((rows, terms)) < generator.random((rows, 1))
    a = np.where(quiet, member(2.0**-4 * a, formats[0]), a)
    b = np.where(generator.random((rows, 1)) < 0.5, np.sign(b), b)
    most = formats[2].max_finite
    return a, b, generator.choice([0.0, most, -most, most / 2, -most / 4, 1.0], rows)


def any_numbers(
    generator: np.random.Generator, formats: Formats, rows: int, terms: int
) -> Operands:
    """All exponents."""
    a, b, c = formats
    shape = rows, terms
    numbers = []
    for format, size in ((a, shape), (b, shape), (c, (rows,))):
        low = format.emin - format.precision + 1
        exponents = generator.integers(low, format.emax + 1, size)
        numbers.append(member(_normal(generator, exponents, size), format))
    return numbers[0], numbers[1], numbers[2]


def zeros(generator: np.random.Generator, formats: Formats, rows: int, terms: int) -> Operands:
    """Zeros of both signs, few other numbers; products that cancel."""
    shape = rows, terms
    numbers = (generator.choice([0.0, -0.0, 0.0, -0.0, 1.0, -1.0], shape) for _ in "ab")
    a, b = (member(x, format) for x, format in zip(numbers, formats, strict=False))
    silent = generator.random((rows, 1)) < 0.5
    a = np.where(silent, generator.choice([0.0, -0.0], (rows, 1)), a)
    b = np.where(silent, 1.0, b)
    c = generator.choice([0.0, -0.0, -0.0, 2.0**-20, -(2.0**-24), 1.0], rows)
    return a, b, member(c, formats[2])


def special(generator: np.random.Generator, formats: Formats, rows: int, terms: int) -> Operands:
    """Infinities and NaNs among numbers and zeros, as far as the formats have them."""
    numbers = list(near_one(generator, formats, rows, terms))
    for i, format in enumerate(formats):
        kinds = [0.0, 0.0]
        kinds += [np.inf, -np.inf] if format.infinities else []
        kinds += [np.nan] if format.has_nan else []
        chosen = generator.random(numbers[i].shape) < (0.2 if i == 2 else 1.2 / terms)
        numbers[i] = np.where(chosen, generator.choice(kinds, numbers[i].shape), numbers[i])
    return numbers[0], numbers[1], numbers[2]


KINDS: tuple[Callable[[np.random.Generator, Formats, int, int], Operands], ...] = (
    near_one,
    cancelling,
    ladder,
    ties,
    tiny,
    floors,
    subnormal,
    huge,
    any_numbers,
    zeros,
    special,
)


def drawn(
    kind: Callable[..., Operands],
    generator: np.random.Generator,
    formats: Formats,
    rows: int,
    terms: int,
) -> Operands:
    """Operands of a kind; zeros are positive where a format has no others."""
    a, b, c = (
        x if format.has_negative_zero else x + 0.0
        for x, format in zip(kind(generator, formats, rows, terms), formats, strict=True)
    )
    return a, b, c
