"""Errors and bounds of two ways to compute f(y) = (1 - cos y) / y**2, against mpmath.

    python analysis/own_bounds.py [--points 80] [--output .]

Writes own_bounds.svg: the errors of both formulas at inner products in bfloat16 and in float64, and
the bounds of :func:`lamp.bounds.bound`.  Exits with 1 if a bound does not hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import mpmath
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

import fpemu
from lamp import bounds, compositions, testing

Float64 = NDArray[np.float64]


class Versine(compositions.Composition):
    """``(1 - cos y) / y**2``, computed by one of several formulas."""

    name = "versine"

    def __init__(self, formula: Callable[[Float64], Float64]) -> None:
        self.formula = formula

    def value(self, y: ArrayLike) -> Float64:
        """See the base class."""
        return self.formula(np.asarray(y, np.float64))

    def value_mpmath(self, y: Any) -> list[Any]:
        """See the base class."""
        return [(1 - mpmath.cos(x)) / x**2 for x in y]

    def jacobian_product(self, y: ArrayLike, direction: ArrayLike) -> Float64:
        """Not needed for rigorous bounds."""
        raise NotImplementedError

    amplified = jacobian_product

    def enclosure(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See the base class: ``|f'(y)| <= min(1/6, |y|/12)``."""
        size, width = np.abs(np.asarray(y)), np.asarray(errors)
        return np.asarray(width * np.minimum(1 / 6, (size + width / 2) / 12) * (1 + 2.0**-40))


def direct(y: Float64) -> Float64:
    """The formula as it stands, which cancels."""
    return np.asarray((1 - np.cos(y)) / np.square(y))


def by_sine(y: Float64) -> Float64:
    """Half of the square of ``sin(y/2) / (y/2)``, which does not cancel."""
    return np.asarray(0.5 * np.square(np.sin(y / 2) / (y / 2)))


FORMULAS: Final = {
    "(1 - cos y) / y²": (direct, "#d55e00"),
    "½ (sin(y/2) / (y/2))²": (by_sine, "#0072b2"),
}
PANELS: Final = {"y in bfloat16": "bfloat16", "y in float64": "float64"}
LEAST: Final = 1e-19  # errors below are drawn there


def measure(
    formula: Callable[[Float64], Float64], format: str, numbers: Float64
) -> tuple[Float64, Float64]:
    """Errors of f at products of two numbers, and their bounds."""
    composition, factor = Versine(formula), np.array([[1.0 + 2.0**-7]])
    arguments = bounds.products(numbers[:, None], factor, fpemu.Sequential(format))
    found = bounds.bound(composition, arguments)
    exact = testing.reference_values(composition, testing.exact_products(numbers[:, None], factor))
    pairs = zip(found.computed.ravel().tolist(), exact, strict=True)
    errors = [float(abs(mpmath.mpf(x) - truth[0])) for x, truth in pairs]
    assert (testing.tightness(found, exact) <= 1).all(), f"a bound in {format} does not hold"
    return np.array(errors), found.value.ravel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=80, help="values of y")
    parser.add_argument("--output", type=Path, default=Path("."), help="an existing folder")
    options = parser.parse_args()
    if not options.output.is_dir() or options.points < 2:
        parser.error("--output must be a folder, --points at least 2")
    numbers = np.asarray(fpemu.round(np.geomspace(2.0**-30, 8, options.points), "bfloat16"))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, format) in zip(
        figure.subplots(1, 2, sharey=True), PANELS.items(), strict=True
    ):
        for label, (formula, colour) in FORMULAS.items():
            errors, limits = measure(formula, format, numbers)
            axes.plot(numbers, np.maximum(errors, LEAST), ".", color=colour, ms=4, label=label)
            axes.plot(numbers, limits, color=colour, lw=1, label=f"bound of {label}")
        axes.set(xscale="log", yscale="log", xlabel="y", ylim=(LEAST, 10))
        axes.set_title(title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    figure.axes[0].set_ylabel("error of f")
    picture = options.output / "own_bounds.svg"
    figure.savefig(picture, metadata={"Date": None})
    print(f"Wrote {picture}")


if __name__ == "__main__":
    main()
