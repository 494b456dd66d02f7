"""Matrix units of real hardware, from their definitions, in exact integer arithmetic.

Every algorithm is one plain function ``(a, b, c, *, parameters) -> float``: the inner product of
``a`` and ``b`` (members of the input format, as floats) added to ``c``, as one instruction gives
it.  The table `UNITS` at the end names the units; a :class:`Unit` is called with vectors of any
length and chains its instruction along them.  A result that is not a number is just a NaN; the bits
a unit gives it, where they are known, are in `NAN_CODES`.

A number x inside these functions is a :class:`Term`: the exact value ``significand * 2**quantum``
(both integers), and beside it the exponent that alignment goes by, ``max(floor(log2 |x|), emin)``,
or for a product the sum of two of those.

References
----------
Xie, Wang, Yang, Yang, "MMA-Sim", arXiv 2511.10909; Khattak, Mikaitis, "Accurate Models of NVIDIA
Tensor Cores", arXiv 2512.07004; DeepSeek-V3, arXiv 2412.19437, section 3.3.2; Arm Architecture
Reference Manual, FPCR.EBF.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from gmpy2 import mpq

from fpemu import formats
from fpemu.formats import Format
from tests.oracle.rounding import round_exact

# --- Numbers ----------------------------------------------------------------------------------


class Term(NamedTuple):
    """The number ``significand * 2**quantum``, aligned by `exponent`."""

    significand: int
    quantum: int
    exponent: int


def split(x: float, format: Format) -> Term:
    """A finite number of `format`; a subnormal number keeps the exponent emin."""
    return _split(x, format.emin)


@functools.lru_cache(2**14)  # units are asked for the same numbers
def _split(x: float, emin: int) -> Term:
    fraction, exponent = math.frexp(x)  # 0.5 <= |fraction| < 1
    return Term(int(math.ldexp(fraction, 53)), exponent - 53, max(exponent - 1, emin))


def multiply(x: Term, y: Term) -> Term:
    """The exact product, not normalized."""
    return Term(x.significand * y.significand, x.quantum + y.quantum, x.exponent + y.exponent)


def value(significand: int, quantum: int) -> mpq:
    """``significand * 2**quantum``."""
    if quantum >= 0:
        return mpq(significand << quantum)
    return mpq(significand, 1 << -quantum)


def _shift_toward_zero(significand: int, count: int) -> int:
    magnitude = abs(significand) >> count
    return magnitude if significand >= 0 else -magnitude


def _shift_down(significand: int, count: int) -> int:
    return significand >> count  # Python's shift of a negative integer rounds down


def _shift_nearest(significand: int, count: int) -> int:
    return round(mpq(significand, 1 << count))


_SHIFTS = {"rtz": _shift_toward_zero, "rtn": _shift_down, "rne": _shift_nearest}


def aligned(term: Term, quantum: int, mode: str) -> int:
    """The term as a multiple of ``2**quantum``, rounded by `mode` if it is not one."""
    count = quantum - term.quantum
    if count <= 0:
        return term.significand << -count
    return _SHIFTS[mode](term.significand, count)


def aligned_sum(terms: Sequence[Term], fraction_bits: int, exponent: int, mode: str) -> Term:
    """Every term rounded to `fraction_bits` behind ``2**exponent``; their sum, not normalized."""
    quantum, shift, total = exponent - fraction_bits, _SHIFTS[mode], 0
    for significand, its_quantum, _ in terms:  # as `aligned`, a call less for each
        count = quantum - its_quantum
        total += significand << -count if count <= 0 else shift(significand, count)
    return Term(total, quantum, exponent)


def largest_exponent(terms: Iterable[Term], floor: int | None = None) -> int:
    """The largest exponent among the terms and `floor`."""
    exponents = [term.exponent for term in terms]
    return max(exponents if floor is None else [*exponents, floor])


# --- Inputs and outputs -----------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """Where a sum ends: one rounding into `format`.  c is a number of `c_format`."""

    format: Format
    rounding: str
    c_format: Format


FLOAT32_TRUNCATED = Output(formats.float32, "rtz", formats.float32)
FLOAT32_NEAREST = Output(formats.float32, "rne", formats.float32)
FLOAT16_NEAREST = Output(formats.float16, "rne", formats.float16)
# A float32 container whose low 10 fraction bits are zero; c may use them all.
E8M13_TRUNCATED = Output(formats.format("e8m13"), "rtz", formats.float32)


def rounded(x: mpq, output: Output) -> float:
    """`x` rounded once; out of range is infinity in every mode; an exact zero is +0."""
    if abs(x.numerator) >> output.format.emax + 1 >= x.denominator:
        return math.inf if x > 0 else -math.inf
    return round_exact(x, output.format, output.rounding)


def operands(vector: Iterable[float], format: Format) -> list[float]:
    """The inputs as the unit reads them: tf32 operands are float32 numbers cut to 10 bits."""
    numbers = list(map(float, vector))
    return [x and _cut_to_tf32(x) for x in numbers] if format == formats.tf32 else numbers


@functools.lru_cache(2**14)  # of numbers but zeros, which are equal
def _cut_to_tf32(x: float) -> float:
    return round_exact(x, formats.tf32, "rtz")


def nonzero_products(
    a: Sequence[float], b: Sequence[float], a_format: Format, b_format: Format
) -> list[Term]:
    """The exact products that take part; zeros do not, whatever their exponent would be."""
    a_emin, b_emin, products = a_format.emin, b_format.emin, []
    for x, y in zip(a, b, strict=True):
        if x and y:  # as `multiply` and `split`, three calls less for each
            significand, quantum, exponent = _split(x, a_emin)
            other, its_quantum, its_exponent = _split(y, b_emin)
            products.append(
                Term(significand * other, quantum + its_quantum, exponent + its_exponent)
            )
    return products


def special_value(
    a: Sequence[float], b: Sequence[float], c: float, product_limit: float | None = None
) -> float | None:
    """NaN or infinity if the terms decide for one, else None.

    A product of magnitude `product_limit` or more counts as an infinity; inputs of units that have
    such a limit are narrow enough for their products to be float64 numbers.
    """
    if product_limit is None and all(map(math.isfinite, (*a, *b, c))):
        return None
    specials = [] if math.isfinite(c) else [c]
    for x, y in zip(a, b, strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            specials.append(x * y)  # infinity times zero is NaN
        elif product_limit is not None and abs(x * y) >= product_limit:
            specials.append(math.copysign(math.inf, x * y))
    return sum(specials) if specials else None  # infinities of both signs are NaN


# --- NVIDIA -----------------------------------------------------------------------------------

# The one NaN that a unit gives, by output format (HARDWARE.md has none for other makers).
NAN_CODES = {"float32": 0x7FFFFFFF, "float16": 0x7FFF}


def fused_addition(
    a: Sequence[float],
    b: Sequence[float],
    c: float,
    *,
    a_format: Format,
    b_format: Format,
    fraction_bits: int,
    floor: int | None,
    output: Output,
    alignment: str = "rtz",
) -> float:
    """All products and c aligned to the largest exponent, truncated, summed, rounded once."""
    a, b = operands(a, a_format), operands(b, b_format)
    special = special_value(a, b, c)
    if special is not None:
        return special
    products = nonzero_products(a, b, a_format, b_format)
    return _fused(products, c, fraction_bits, floor, output, alignment)


def _fused(
    products: Sequence[Term],
    c: float,
    fraction_bits: int,
    floor: int | None,
    output: Output,
    alignment: str = "rtz",
) -> float:
    terms = [*products, split(c, output.c_format)] if c != 0 else products
    if not terms:
        return 0.0
    exponent = largest_exponent(terms, floor)
    total = aligned_sum(terms, fraction_bits, exponent, alignment)
    # A negative sum that rounds to zero gives +0, as a sum of zero does.
    return rounded(value(total.significand, total.quantum), output) or 0.0


def two_step_addition(
    a: Sequence[float],
    b: Sequence[float],
    c: float,
    *,
    a_format: Format,
    b_format: Format,
    fraction_bits: int,
    floor: int | None,
    output: Output,
    alignment: str = "rtz",
) -> float:
    """Two fused additions without c, which an ordinary rounded addition adds at the end.

    fp8 through mma.sync on Hopper and Blackwell data-centre parts.  The first step takes the
    indices 0, 1, 4, 5, 8, ..., the second the others and the first's result.
    """
    total = 0.0
    for step in (0, 1):
        indices = [i for i in range(len(a)) if i // 2 % 2 == step]
        total = fused_addition(
            [a[i] for i in indices],
            [b[i] for i in indices],
            total,
            a_format=a_format,
            b_format=b_format,
            fraction_bits=fraction_bits,
            floor=floor,
            output=output,
            alignment=alignment,
        )
    return add_rounded(total, c, Step(output.format, "rne"))


def block_scaled_addition(
    a: Sequence[float],
    b: Sequence[float],
    c: float,
    *,
    a_scales: Sequence[float],
    b_scales: Sequence[float],
    block: int,
    a_format: Format,
    b_format: Format,
    scale_format: Format,
    fraction_bits: int,
    floor: int | None,
    output: Output,
) -> float:
    """A fused addition whose products carry their block's two scales (mxf8f6f4).

    The scales are powers of two (e8m0): their exponents add to the product's exponent.  Element i
    belongs to ``a_scales[i // block]`` and ``b_scales[i // block]``.
    """
    if any(map(math.isnan, [*a_scales, *b_scales])):
        return math.nan
    special = special_value(a, b, c)
    if special is not None:
        return special
    products = []
    for i in range(len(a)):
        scale = multiply(
            split(a_scales[i // block], scale_format), split(b_scales[i // block], scale_format)
        )
        unscaled = nonzero_products(a[i : i + 1], b[i : i + 1], a_format, b_format)
        products += [multiply(product, scale) for product in unscaled]
    return _fused(products, c, fraction_bits, floor, output)


def group_scaled_addition(
    a: Sequence[float],
    b: Sequence[float],
    c: float,
    *,
    a_scales: Sequence[float],
    b_scales: Sequence[float],
    block: int,
    a_format: Format,
    b_format: Format,
    scale_format: Format,
    fraction_bits: int,
    floor: int | None,
    output: Output,
    group: int = 16,
) -> float:
    """Groups summed exactly, times their two scales; the scaled groups and c fused (mxf4nvf4).

    A scaled group has the exponent of its scales, whatever the size of its sum, and be it zero.  A
    group takes no part if all of its products are zero, or a scale is.
    """
    if any(map(math.isnan, [*a_scales, *b_scales])):
        return math.nan
    if not math.isfinite(c):
        return c
    groups = []
    for start in range(0, len(a), group):
        members = slice(start, start + group)
        products = nonzero_products(a[members], b[members], a_format, b_format)
        quantum = min((product.quantum for product in products), default=0)
        total = sum(aligned(product, quantum, "rtz") for product in products)
        scale = multiply(
            split(a_scales[start // block], scale_format),
            split(b_scales[start // block], scale_format),
        )
        if products and scale.significand != 0:
            groups.append(multiply(Term(total, quantum, 0), scale))
    return _fused(groups, c, fraction_bits, floor, output)


# --- Ordinary arithmetic, one rounding an operation -------------------------------------------


@dataclass(frozen=True)
class Step:
    """How an ordinary operation ends: rounded into `format`, perhaps flushed, perhaps neither.

    Whether a result is subnormal is seen from the rounded number or, if `unbounded`, from the exact
    result rounded to as many bits with an exponent of any size.
    """

    format: Format
    rounding: str
    flush: bool = False
    unbounded: bool = False

    def __call__(self, x: mpq) -> float:
        """Round a nonzero exact result; one that is subnormal is flushed to a zero of its sign."""
        result = rounded(x, Output(self.format, self.rounding, self.format))
        if not self.flush:
            return result
        seen = nearest(x, self.format.precision) if self.unbounded else result
        return math.copysign(0.0, x) if abs(seen) < self.format.smallest_normal else result


def exponent_of(x: mpq) -> int:
    """``floor(log2 |x|)`` of a nonzero number."""
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    return exponent - 1 if abs(x) < value(1, exponent) else exponent


def nearest(x: mpq, precision: int) -> mpq:
    """A nonzero number rounded to `precision` bits, half to even."""
    quantum = value(1, exponent_of(x) + 1 - precision)
    return round(x / quantum) * quantum


@functools.lru_cache(2**14)  # tests ask for the same numbers; a zero has no sign here
def exact(x: float) -> mpq:
    """A finite number."""
    return mpq(x)


def multiply_rounded(x: float, y: float, step: Step) -> float:
    """The product of two floats, rounded once."""
    if not (math.isfinite(x) and math.isfinite(y)) or x == 0 or y == 0:
        return x * y  # an infinity, a NaN or a zero: IEEE 754-2019 §6
    return step(exact(x) * exact(y))


def add_rounded(x: float, y: float, step: Step) -> float:
    """The sum of two floats, rounded once; +0 where nonzero terms cancel."""
    if not (math.isfinite(x) and math.isfinite(y)) or x == y == 0:
        return x + y
    total = exact(x) + exact(y)
    return step(total) if total else 0.0


def fma_rounded(x: float, y: float, z: float, step: Step) -> float:
    """``x*y + z``, rounded once."""
    if not all(map(math.isfinite, (x, y))) or x == 0 or y == 0:
        return add_rounded(x * y, z, step)
    if not math.isfinite(z):
        return z
    total = exact(x) * exact(y) + exact(z)
    return step(total) if total else 0.0


def chained_fma(a: Sequence[float], b: Sequence[float], c: float, *, format: Format) -> float:
    """``c <- fma(a, b, c)`` in index order, rne: float64 units, and AMD's float32."""
    for x, y in zip(a, b, strict=True):
        c = fma_rounded(x, y, c, Step(format, "rne"))
    return c


def fused_pair_addition(
    a: Sequence[float], b: Sequence[float], c: float, *, a_format: Format, b_format: Format
) -> float:
    """Arm with FPCR.EBF = 1: the exact sum of two products, rounded, and c + that, rounded."""
    step = Step(formats.float32, "rne")
    special = special_value(a, b, 0.0)
    if special is not None:
        return add_rounded(c, special, step)
    total = sum(exact(x) * exact(y) for x, y in zip(a, b, strict=True))
    # A sum of zeros is negative if both are.
    negative = all(x * y == 0 and math.copysign(1.0, x * y) < 0 for x, y in zip(a, b, strict=True))
    pair = step(total) if total else -0.0 if negative else 0.0
    return add_rounded(c, pair, step)


def chained_addition(
    a: Sequence[float],
    b: Sequence[float],
    c: float,
    *,
    a_format: Format,
    b_format: Format,
    chains: int,
) -> float:
    """AMX: chains of float32 multiply-adds from +0, added up, and their sum added to c.

    Term i belongs to chain ``i % chains``.  Subnormal float32 numbers are zeros, in and out.
    """
    a, b = (
        [_without_subnormals(x) for x in operands(vector, format)]
        for vector, format in ((a, a_format), (b, b_format))
    )
    total = None
    for first in range(chains):
        chain = 0.0
        for x, y in zip(a[first::chains], b[first::chains], strict=True):
            chain = fma_rounded(x, y, chain, _INTEL)
        total = chain if total is None else add_rounded(total, chain, _INTEL)
    return add_rounded(_without_subnormals(c), total, _INTEL)


def odd_first_addition(
    a: Sequence[float], b: Sequence[float], c: float, *, a_format: Format, b_format: Format
) -> float:
    """AVX-512 BF16: two multiply-adds, that of the odd elements first."""
    total = _without_subnormals(c)
    for i in (1, 0):
        total = fma_rounded(_without_subnormals(a[i]), _without_subnormals(b[i]), total, _INTEL)
    return total


_INTEL = Step(formats.float32, "rne", flush=True, unbounded=True)


def _without_subnormals(x: float) -> float:
    return math.copysign(0.0, x) if abs(x) < formats.float32.smallest_normal else x


def exact_addition(
    a: Sequence[float], b: Sequence[float], c: float, *, output: Output = FLOAT32_NEAREST
) -> float:
    """The exact ``c + sum a*b``, rounded once: a Kulisch accumulator, and CDNA1 by group."""
    special = special_value(a, b, c)
    if special is not None:
        return special
    total = sum((exact(x) * exact(y) for x, y in zip(a, b, strict=True)), exact(c))
    return rounded(total, output) if total else 0.0


def pairwise_addition(
    a: Sequence[float],
    b: Sequence[float],
    c: float,
    *,
    a_format: Format,
    b_format: Format,
    rounding: str = "rne",
    flush: bool = False,
    input_zero_keeps_sign: bool = True,
) -> float:
    """Float32 products, their balanced sum (left half + right half), and c + that sum.

    With `flush`, subnormal inputs (c's format is float32) become zeros, as do float32 results.
    Inputs that are zero may lose their sign, too.
    """
    step = Step(formats.float32, rounding, flush)

    def read(x: float, format: Format) -> float:
        if flush and abs(x) < format.smallest_normal:
            return math.copysign(0.0, x) if input_zero_keeps_sign else 0.0
        return x

    def balanced(terms: Sequence[float]) -> float:
        if len(terms) == 1:
            return terms[0]
        half = len(terms) // 2
        return add_rounded(balanced(terms[:half]), balanced(terms[half:]), step)

    products = [
        multiply_rounded(read(x, a_format), read(y, b_format), step)
        for x, y in zip(a, b, strict=True)
    ]
    return add_rounded(read(c, formats.float32), balanced(products), step)


# --- AMD CDNA3 --------------------------------------------------------------------------------

# Beyond float32: such a product counts as an infinity.
_CDNA3_PRODUCT_LIMIT = 2.0**128


def floored_addition(
    a: Sequence[float],
    b: Sequence[float],
    c: float,
    *,
    a_format: Format,
    b_format: Format,
    fraction_bits: int = 24,
    sum_fraction_bits: int = 32,
    flooring: str = "rtn",
    output: Output = FLOAT32_NEAREST,
) -> float:
    """Products truncated and summed; that sum and c floored to a common exponent; rne."""
    a, b = operands(a, a_format), operands(b, b_format)
    special = special_value(a, b, c, _CDNA3_PRODUCT_LIMIT)
    if special is not None:
        return special
    products = nonzero_products(a, b, a_format, b_format)
    total = _truncated_sum(products, fraction_bits)
    return _add_c_floored(total, c, sum_fraction_bits, fraction_bits, flooring, output)


def floored_halves_addition(
    a: Sequence[float],
    b: Sequence[float],
    c: float,
    *,
    a_format: Format,
    b_format: Format,
    fraction_bits: int = 24,
    sum_fraction_bits: int = 32,
    c_reach: int | None = 25,
    flooring: str = "rtn",
    output: Output = FLOAT32_NEAREST,
) -> float:
    """CDNA3's fp8: even and odd products summed apart; c dropped if it is `c_reach` too small."""
    special = special_value(a, b, c, _CDNA3_PRODUCT_LIMIT)
    if special is not None:
        return special
    halves = []
    for parity in (0, 1):
        products = nonzero_products(a[parity::2], b[parity::2], a_format, b_format)
        halves += _truncated_sum(products, fraction_bits)
    total = []
    if halves:
        total = [aligned_sum(halves, fraction_bits, largest_exponent(halves), flooring)]
        if (
            c != 0
            and c_reach is not None
            and split(c, output.c_format).exponent < total[0].exponent - c_reach
        ):
            c = 0.0
    return _add_c_floored(total, c, sum_fraction_bits, fraction_bits, flooring, output)


def _truncated_sum(products: Sequence[Term], fraction_bits: int) -> list[Term]:
    """The products' fused sum (without a rounding), or nothing where there are none.

    The sum has the products' largest exponent, even if they cancel.
    """
    if not products:
        return []
    return [aligned_sum(products, fraction_bits, largest_exponent(products), "rtz")]


def _add_c_floored(
    total: Sequence[Term],
    c: float,
    sum_fraction_bits: int,
    c_fraction_bits: int,
    flooring: str,
    output: Output,
) -> float:
    """The sum of the products and c, floored to the larger exponent; the result floored, rounded.

    c has an exponent of at least float32's emin, zero that one.  The result is floored 31 bits
    behind its own exponent.
    """
    addend = split(c, output.c_format) if c != 0 else Term(0, 0, output.c_format.emin)
    exponent = largest_exponent([*total, addend])
    floored = [
        aligned_sum(total, sum_fraction_bits, exponent, flooring),
        aligned_sum([addend], c_fraction_bits, exponent, flooring),
    ]
    result = sum(value(term.significand, term.quantum) for term in floored)
    if result == 0:
        return 0.0
    quantum = value(1, max(exponent_of(result), output.c_format.emin) - 31)
    return rounded(result / quantum // 1 * quantum, output)


# --- Units: an instruction chained along a vector ----------------------------------------------


@dataclass(frozen=True)
class Unit:
    """A named matrix unit: one instruction's algorithm, its parameters and its length.

    Parameters
    ----------
    name : str
        See `UNITS`.
    function : callable
        ``function(a, b, c, **parameters)``, the inner product of at most `terms` products.
    terms : int
        Products one fused addition takes; a longer vector is taken in pieces, in index order, the
        output of one the c of the next.  0 for a function that takes any length at once.
    input_formats : pair of Format
        What a and b are members of.
    c_format, output_format : Format
        What c and the result are members of.
    parameters : mapping
    whole : int
        What the length of an instruction is a multiple of, if it may be shorter; 0 if not.
    """

    name: str
    function: Callable[..., float]
    terms: int
    input_formats: tuple[Format, Format]
    c_format: Format
    output_format: Format
    parameters: Mapping[str, Any] = field(default_factory=dict)
    whole: int = 0

    def __call__(
        self,
        a: Sequence[float],
        b: Sequence[float],
        c: float = 0.0,
        a_scales: Sequence[float] | None = None,
        b_scales: Sequence[float] | None = None,
    ) -> float:
        """``c + sum a*b`` for vectors of any length; scales are given one for each block.

        The last instruction is filled up with zeros, as a program on the machine has to do, where
        there are no shorter ones.
        """
        terms = self.terms or len(a)
        padding = [0.0] * (-len(a) % (self.whole or terms) if terms else 0)
        left = [*map(float, a), *padding]
        right = [*map(float, b), *padding]
        result = float(c)
        for start in range(0, len(left), terms or 1):
            piece = slice(start, start + terms)
            scales = self._scales(start, a_scales, b_scales)
            result = self.function(left[piece], right[piece], result, **self.parameters, **scales)
        return result

    def _scales(
        self, start: int, a_scales: Sequence[float] | None, b_scales: Sequence[float] | None
    ) -> dict[str, list[float]]:
        """The scales of the instruction that begins at `start`; padding is scaled by 1."""
        if a_scales is None or b_scales is None:
            return {}
        first, count = start // self.parameters["block"], self.terms // self.parameters["block"]
        return {
            name: ([float(x) for x in scales[first : first + count]] + [1.0] * count)[:count]
            for name, scales in (("a_scales", a_scales), ("b_scales", b_scales))
        }

    def changed(self, **parameters: Any) -> "Unit":
        """The unit with other parameters (`terms` among them), for what-if tests."""
        terms = parameters.pop("terms", self.terms)
        return replace(self, terms=terms, parameters={**self.parameters, **parameters})


def promoted(
    unit: Unit, a: Sequence[float], b: Sequence[float], c: float = 0.0, interval: int = 128
) -> float:
    """DeepSeek's remedy: every `interval` products a float32 addition takes the unit's sum.

    The float32 accumulator starts at c, the unit's sum at +0 for every interval.
    """
    total = float(c)
    for start in range(0, len(a), interval):
        piece = slice(start, start + interval)
        total = add_rounded(total, unit(a[piece], b[piece]), Step(formats.float32, "rne"))
    return total


# --- The table --------------------------------------------------------------------------------

# Input formats by the names they have in the units' names.
_INPUTS = {
    "float64": formats.float64,
    "float32": formats.float32,
    "float16": formats.float16,
    "bfloat16": formats.bfloat16,
    "tf32": formats.tf32,
    "e5m2": formats.float8_e5m2,
    "e4m3": formats.float8_e4m3fn,
    "e5m2fnuz": formats.float8_e5m2fnuz,
    "e4m3fnuz": formats.float8_e4m3fnuz,
    "e3m2": formats.float6_e3m2fn,
    "e2m3": formats.float6_e2m3fn,
    "e2m1": formats.float4_e2m1fn,
}
_SCALES = {"e8m0": formats.float8_e8m0fnu, "ue4m3": formats.float8_e4m3fn}
_SMALL = ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1")
# Operands of different formats: a's name, a hyphen, b's name.
_FP8 = ("e4m3", "e5m2", "e4m3-e5m2", "e5m2-e4m3")
_FP8_FP6_FP4 = tuple(a if a == b else f"{a}-{b}" for a in _SMALL for b in _SMALL)

# Floors of the alignment exponent, for float32 (or e8m13) and for float16 output, by the fraction
# bits of an architecture's additions of float16 products.
_FLOORS = {23: (-131, -19), 24: (-132, -20), 25: (-133, -21)}
_BITS_OF_FLOAT16 = {"ada": 24, "hopper": 25}  # where 8-bit products have 13

# architecture, instruction, inputs, terms, fraction bits, function, wide output.  A unit with
# float16 output exists beside each but for bfloat16 and tf32 inputs.
_NVIDIA = (
    ("volta", "mma", ("float16",), 4, 23, fused_addition, FLOAT32_TRUNCATED),
    ("turing", "mma", ("float16",), 8, 24, fused_addition, FLOAT32_TRUNCATED),
    ("turing", "mma-k4", ("float16",), 4, 23, fused_addition, FLOAT32_TRUNCATED),
    ("ampere", "mma", ("float16", "bfloat16"), 8, 24, fused_addition, FLOAT32_TRUNCATED),
    ("ampere", "mma", ("tf32",), 4, 24, fused_addition, FLOAT32_TRUNCATED),
    ("ada", "mma", ("float16", "bfloat16"), 8, 24, fused_addition, FLOAT32_TRUNCATED),
    ("ada", "mma", ("tf32",), 4, 24, fused_addition, FLOAT32_TRUNCATED),
    ("ada", "mma", _FP8, 16, 13, fused_addition, E8M13_TRUNCATED),
    ("hopper", "wgmma", ("float16", "bfloat16"), 16, 25, fused_addition, FLOAT32_TRUNCATED),
    ("hopper", "wgmma", ("tf32",), 8, 25, fused_addition, FLOAT32_TRUNCATED),
    ("hopper", "wgmma", _FP8, 32, 13, fused_addition, E8M13_TRUNCATED),
    ("hopper", "mma", ("float16", "bfloat16"), 16, 25, fused_addition, FLOAT32_TRUNCATED),
    ("hopper", "mma-k8", ("float16", "bfloat16"), 8, 25, fused_addition, FLOAT32_TRUNCATED),
    ("hopper", "mma", ("tf32",), 8, 25, fused_addition, FLOAT32_TRUNCATED),
    ("hopper", "mma-k4", ("tf32",), 4, 25, fused_addition, FLOAT32_TRUNCATED),
    ("hopper", "mma", _FP8, 32, 25, two_step_addition, FLOAT32_TRUNCATED),
    ("blackwell", "tcgen05", ("float16", "bfloat16"), 16, 25, fused_addition, FLOAT32_TRUNCATED),
    ("blackwell", "tcgen05", ("tf32",), 8, 25, fused_addition, FLOAT32_TRUNCATED),
    ("blackwell", "tcgen05", _FP8_FP6_FP4, 32, 25, fused_addition, FLOAT32_TRUNCATED),
    ("blackwell", "mma", ("float16", "bfloat16"), 16, 25, fused_addition, FLOAT32_TRUNCATED),
    ("blackwell", "mma-k8", ("float16", "bfloat16"), 8, 25, fused_addition, FLOAT32_TRUNCATED),
    ("blackwell", "mma", ("tf32",), 8, 25, fused_addition, FLOAT32_TRUNCATED),
    ("blackwell", "mma-k4", ("tf32",), 4, 25, fused_addition, FLOAT32_TRUNCATED),
    ("blackwell", "mma", _FP8, 32, 25, two_step_addition, FLOAT32_TRUNCATED),
    ("rtx-blackwell", "mma", ("float16", "bfloat16"), 16, 25, fused_addition, FLOAT32_TRUNCATED),
    ("rtx-blackwell", "mma-k8", ("float16", "bfloat16"), 8, 25, fused_addition, FLOAT32_TRUNCATED),
    ("rtx-blackwell", "mma", ("tf32",), 8, 25, fused_addition, FLOAT32_TRUNCATED),
    ("rtx-blackwell", "mma-k4", ("tf32",), 4, 25, fused_addition, FLOAT32_TRUNCATED),
    ("rtx-blackwell", "mma", _FP8_FP6_FP4, 32, 25, fused_addition, FLOAT32_TRUNCATED),
    ("rtx-blackwell", "mma-k16", _FP8, 16, 25, fused_addition, FLOAT32_TRUNCATED),
)


def _formats_of(name: str) -> tuple[Format, Format]:
    """The formats of a and b by the name of the inputs."""
    a, *other = name.split("-")
    return _INPUTS[a], _INPUTS[other[0] if other else a]


def _nvidia_units() -> Iterable[Unit]:
    for architecture, instruction, inputs, terms, bits, function, wide in _NVIDIA:
        for name in inputs:
            outputs = [wide] if name in ("bfloat16", "tf32") else [wide, FLOAT16_NEAREST]
            for output in outputs:
                narrow = output is FLOAT16_NEAREST
                a_format, b_format = _formats_of(name)
                floors = _FLOORS[_BITS_OF_FLOAT16[architecture] if bits == 13 else bits]
                yield Unit(
                    f"{architecture}.{instruction}.{name}{'.float16' if narrow else ''}",
                    function,
                    terms,
                    (a_format, b_format),
                    output.c_format,
                    # The ordinary addition of c ends in the output format of the fused additions.
                    output.format,
                    {
                        "a_format": a_format,
                        "b_format": b_format,
                        "fraction_bits": bits,
                        "floor": floors[int(narrow)],
                        "output": output,
                    },
                )


def _block_scaled_unit(
    architecture: str, instruction: str, kind: str, element: str, scale: str, block: int
) -> Unit:
    grouped = kind == "mxf4nvf4"
    a_format, b_format = _formats_of(element)
    return Unit(
        f"{architecture}.{instruction}-{kind}.{element}-{scale}-{block}",
        group_scaled_addition if grouped else block_scaled_addition,
        64 if grouped else 32,
        (a_format, b_format),
        formats.float32,
        formats.float32,
        {
            "block": block,
            "a_format": a_format,
            "b_format": b_format,
            "scale_format": _SCALES[scale],
            "fraction_bits": 35 if grouped else 25,
            "floor": -139 if grouped else -133,
            "output": FLOAT32_TRUNCATED,
        },
    )


def _block_scaled_units() -> Iterable[Unit]:
    for unit in (("blackwell", "tcgen05"), ("rtx-blackwell", "mma")):
        for element in _FP8_FP6_FP4:
            yield _block_scaled_unit(*unit, "mxf8f6f4", element, "e8m0", 32)
        for scale, block in (("e8m0", 16), ("e8m0", 32), ("ue4m3", 16)):
            yield _block_scaled_unit(*unit, "mxf4nvf4", "e2m1", scale, block)


def _float32_unit(name: str, function: Callable[..., float], terms: int, **parameters: Any) -> Unit:
    """A unit outside NVIDIA that gives float32; its input format is the last part of its name."""
    inputs = _formats_of(name.split(".")[2])
    if function is not exact_addition:
        parameters |= {"a_format": inputs[0], "b_format": inputs[1]}
    return Unit(name, function, terms, inputs, formats.float32, formats.float32, parameters)


def _chained_units() -> Iterable[Unit]:
    named = [
        *((f"{name}.mma", ("float64",)) for name in ("ampere", "ada", "hopper")),
        *((f"{name}.mma", ("float64",)) for name in ("blackwell", "rtx-blackwell")),
        ("cdna1.mfma", ("float32",)),
        *((f"{name}.mfma", ("float64", "float32")) for name in ("cdna2", "cdna3")),
    ]
    for prefix, inputs in named:
        for name in inputs:
            format = _INPUTS[name]
            parameters = {"format": format}
            both = (format, format)
            yield Unit(f"{prefix}.{name}", chained_fma, 1, both, format, format, parameters)


def _amd_units() -> Iterable[Unit]:
    flushed = {"flush": True, "input_zero_keeps_sign": False}
    for name, group in (("float16", 4), ("bfloat16", 2)):
        yield _float32_unit(f"cdna1.mfma.{name}", exact_addition, group)
    for instruction, group in (("mfma.float16", 4), ("mfma.bfloat16", 2), ("mfma-1k.bfloat16", 4)):
        yield _float32_unit(f"cdna2.{instruction}", pairwise_addition, group, **flushed)
    for name, group in (("float16", 8), ("bfloat16", 8), ("tf32", 4)):
        yield _float32_unit(f"cdna3.mfma.{name}", floored_addition, group)
    for name in ("float16", "bfloat16"):
        yield _float32_unit(f"cdna3.mfma-k4.{name}", floored_addition, 4)
    for a in ("e4m3fnuz", "e5m2fnuz"):
        for b in ("e4m3fnuz", "e5m2fnuz"):
            name = a if a == b else f"{a}-{b}"
            yield _float32_unit(f"cdna3.mfma.{name}", floored_halves_addition, 16)


def _cpu_units() -> Iterable[Unit]:
    yield _float32_unit("intel.avx512.bfloat16", odd_first_addition, 2)
    for name, terms, chains in (("bfloat16", 32, 2), ("float16", 32, 2), ("tf32", 16, 1)):
        unit = _float32_unit(f"intel.amx.{name}", chained_addition, terms, chains=chains)
        yield replace(unit, whole=chains)
    for name in ("arm.bfdot", "arm.bfmmla"):
        yield _float32_unit(f"{name}.bfloat16", pairwise_addition, 2, rounding="rto", flush=True)
        yield _float32_unit(f"{name}-ebf.bfloat16", fused_pair_addition, 2)
    for name in _FP8:
        yield _float32_unit(f"arm.fdot.{name}", exact_addition, 4)
        narrow = _float32_unit(
            f"arm.fdot.{name}.float16", exact_addition, 2, output=FLOAT16_NEAREST
        )
        yield replace(narrow, c_format=formats.float16, output_format=formats.float16)


def _exact_units() -> Iterable[Unit]:
    for name in ("float16", "bfloat16", "tf32", "float32", "e4m3", "e5m2"):
        yield _float32_unit(f"kulisch.exact.{name}", exact_addition, 0)


UNITS = {
    unit.name: unit
    for units in (
        _nvidia_units(),
        _block_scaled_units(),
        _chained_units(),
        _amd_units(),
        _cpu_units(),
        _exact_units(),
    )
    for unit in units
}
"""Every unit by name: ``<architecture>.<instruction>[-<variant>].<inputs>[.float16]``.

The output is float32 (a float32 container: e8m13 for fp8 on Ada and on Hopper's wgmma; float64 for
float64 inputs) unless the name ends in ``.float16``.  Inputs: ``float16 bfloat16 tf32 float32
float64``, and the small ones by shape, ``e4m3`` (fn), ``e5m2``, ``e4m3fnuz``, ``e5m2fnuz``,
``e3m2``, ``e2m3``, ``e2m1``; two of them are a's and b's; block-scaled ones are
``<elements>-<scale>-<block>``.  A variant is the length of the instruction where that matters
(``mma-k8``), the kind of a block-scaled instruction, AMD's ``-1k``, or Arm's ``-ebf``.
"""
