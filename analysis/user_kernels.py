"""Algorithms in a small arithmetic, written as ordinary Numba kernels with fpemu.jit.

    python analysis/user_kernels.py [FORMAT]

Newton's iteration for square roots; Kahan's compensated sum, the plain and the stochastically
rounded one.  What theory promises is checked: Newton ends within one unit in the last place, the
compensated sum within about two units roundoff of the exact one, the plain sum stagnates, the
stochastic ones are right on average (N. J. Higham, Accuracy and Stability of Numerical Algorithms,
2nd ed., 4.3; M. P. Connolly, N. J. Higham, T. Mary, SIAM J. Sci. Comput. 43(1), 2021).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numba
import numpy as np

import fpemu


def newton_kernel(format: fpemu.Format) -> Callable[[Any], Any]:
    """Square roots by Newton's iteration, every operation rounded into a format."""
    add, divide = fpemu.jit.adder(format), fpemu.jit.divider(format)

    @numba.njit
    def newton(squares):  # type: ignore[no-untyped-def]
        roots = np.empty_like(squares)
        for i in range(squares.size):
            x = max(squares[i], 1.0)
            for _ in range(20):
                x = divide(add(x, divide(squares[i], x)), 2.0)
            roots[i] = x
        return roots

    return newton


def plain_sum_kernel(format: fpemu.Format) -> Callable[[Any], float]:
    """The sum of an array in index order."""
    add = fpemu.jit.adder(format)

    @numba.njit
    def plain_sum(terms):  # type: ignore[no-untyped-def]
        total = 0.0
        for i in range(terms.size):
            total = add(total, terms[i])
        return total

    return plain_sum


def kahan_sum_kernel(format: fpemu.Format) -> Callable[[Any], float]:
    """The sum of an array with Kahan's compensation."""
    add, subtract = fpemu.jit.adder(format), fpemu.jit.subtractor(format)

    @numba.njit
    def kahan_sum(terms):  # type: ignore[no-untyped-def]
        total = compensation = 0.0
        for i in range(terms.size):
            term = subtract(terms[i], compensation)
            raised = add(total, term)
            compensation = subtract(subtract(raised, total), term)
            total = raised
        return total

    return kahan_sum


def stochastic_sum_kernel(format: fpemu.Format, seed: int) -> Callable[[Any], float]:
    """The sum of an array in index order, stochastically rounded: term i draws bits i."""
    add = fpemu.jit.adder(format, fpemu.Rounding("sr", seed=seed))

    @numba.njit
    def stochastic_sum(terms):  # type: ignore[no-untyped-def]
        total = 0.0
        for i in range(terms.size):
            total = add(total, terms[i], i)
        return total

    return stochastic_sum


def worst_newton_error(format: fpemu.Format) -> float:
    """The largest error of Newton's roots of 1 .. 4, in units in the last place."""
    squares = np.arange(1.0, 4.0, format.epsilon * 2)
    roots = newton_kernel(format)(squares)
    return float(np.max(np.abs(roots - np.sqrt(squares))) / format.epsilon)


def relative_errors(format: fpemu.Format, count: int) -> dict[str, float]:
    """The relative errors of sums of `count` positive terms."""
    generator = np.random.default_rng(0)
    terms = fpemu.round(generator.uniform(0.5, 1.0, count), format)
    exact = sum(map(Fraction, terms.tolist()), Fraction(0))
    runs = [stochastic_sum_kernel(format, seed)(terms) for seed in range(20)]
    mean = sum(map(Fraction, runs), Fraction(0)) / len(runs)
    sums = {
        "plain": Fraction(plain_sum_kernel(format)(terms)),
        "Kahan": Fraction(kahan_sum_kernel(format)(terms)),
        "stochastic": Fraction(runs[0]),
        "mean of 20 stochastic": mean,
    }
    return {name: float(abs(total - exact) / exact) for name, total in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", nargs="?", default="e5m7", type=fpemu.format)
    format = parser.parse_args().format
    u = format.unit_roundoff

    newton = worst_newton_error(format)
    print(f"Newton's square roots in {format}: at most {newton:.2f} ulp off")
    if newton > 1.0:
        raise SystemExit("Newton's iteration should end within one unit in the last place")

    # Terms below half the spacing of the sum are lost; well before the format overflows.
    count = min(int(8 / u), int(format.max_finite / 2))
    errors = relative_errors(format, count)
    print(f"sums of {count} terms in {format}, unit roundoff {u:.1e}:")
    for name, error in errors.items():
        print(f"  {name:22} relative error {error:.1e} = {error / u:.1f} u")
    if errors["Kahan"] > 2 * u + count * u * u:
        raise SystemExit("Kahan's sum should be within 2u + n u^2")
    if errors["plain"] < 0.4:
        raise SystemExit("the plain sum should stagnate")
    if errors["mean of 20 stochastic"] > 4 * u * math.sqrt(count / 20):
        raise SystemExit("the mean of stochastic sums should be near the exact sum")


if __name__ == "__main__":
    main()
