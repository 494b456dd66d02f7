"""Balanced trees of sums in exact rationals, one rounding a sum."""

import math

from gmpy2 import mpq

from fpemu.formats import Format
from fpemu.reference import RoundingLike
from tests.oracle.accumulators import Exact, add, exact, multiply
from tests.oracle.rounding import round_exact


def pairwise(
    a: list[float],
    b: list[float],
    format: Format,
    rounding: RoundingLike,
    *,
    fused: bool = True,
    product: Format | None = None,
    block: int | None = None,
    start: float | None = None,
    flush: bool = False,
) -> float:
    """The sum of products by halves: of n terms the first ``n // 2`` are the left half.

    With `flush`, products and sums below the normal numbers are zeros of their sign.
    """

    def flushed(x: Exact) -> Exact:
        tiny = isinstance(x, mpq) and abs(x) < mpq(format.smallest_normal)
        return math.copysign(0.0, x) if flush and tiny else x

    def rounded(x: Exact, into: Format = format) -> Exact:
        return flushed(exact(round_exact(x, into, rounding)))

    def tree(terms: list[Exact]) -> Exact:
        if len(terms) == 1:
            return terms[0]
        half = len(terms) // 2
        return rounded(add(tree(terms[:half]), tree(terms[half:]), rounding))

    leaves = [multiply(exact(x), exact(y)) for x, y in zip(a, b, strict=True)]
    if fused:
        leaves = [flushed(leaf) for leaf in leaves]
    else:
        leaves = [rounded(leaf, product or format) for leaf in leaves]
    total = exact(0.0 if start is None else start)
    if not leaves:
        return float(total)
    if block is None and start is None:
        return float(rounded(tree(leaves)))
    if block is None:
        return float(rounded(add(total, tree(leaves), rounding)))
    for first in range(0, len(leaves), block):
        terms = leaves[first : first + block]
        terms += [exact(0.0)] * (block - len(terms))
        total = rounded(add(total, tree(terms), rounding))
    return float(total)


def exactly(
    a: list[float],
    b: list[float],
    format: Format,
    rounding: RoundingLike,
    *,
    block: int | None = None,
    start: float = 0.0,
) -> float:
    """The exact sum, rounded once or once a block; zeros are +0."""
    total = start
    size = block or max(len(a), 1)
    for first in range(0, max(len(a), 1), size):
        terms = list(zip(a[first : first + size], b[first : first + size], strict=True))
        numbers = [total, *(factor for term in terms for factor in term)]
        if all(map(math.isfinite, numbers)):
            exact_sum = sum((mpq(x) * mpq(y) for x, y in terms), mpq(total))
            total = round_exact(exact_sum, format, rounding) if exact_sum else 0.0
        else:
            special = 0.0 if math.isfinite(total) else total
            for x, y in terms:
                if not (math.isfinite(x) and math.isfinite(y)):
                    special += x * y
            total = round_exact(special, format, rounding)
    return total
