"""Running sums: what the partial sums of an inner product say about its own error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels.operands import Operands
from fpemu.accumulators import Accumulator, Blocked, Exact, Pairwise, Sequential

__all__ = ["RunningSums", "check_running", "running_sums"]


@dataclass(frozen=True)
class RunningSums:
    """The sums of the magnitudes of all partial sums, and of their squares.

    Parameters
    ----------
    first : ndarray or scalar of float64
        ``R1 = sum_l |s_l|`` over the results s_l of all roundings, rounded up; roundings with a
        unit other than the accumulator's count in proportion to it.
    second : ndarray or scalar of float64
        ``R2 = sqrt(sum_l s_l**2)``, in the same way.
    roundoff : float
        The unit of the accumulator's own roundings, see :attr:`fpemu.Accumulator.roundoff`.

    Notes
    -----
    Every rounding errs by no more than its unit times its result, and additions are exact but for
    that.  So ``|computed - exact| <= roundoff * first + accumulator.underflow_bound(k)``, whatever
    the data, unless something overflows; where no infinity arises, a `first` below the format's
    largest number shows that nothing did.  ``roundoff * second / sqrt(3)`` is the standard
    deviation of the error if the errors are independent and evenly spread: a model, not a bound.

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.3.
    """

    first: Any
    second: Any
    roundoff: float


def check_running(accumulator: Accumulator) -> None:
    """Raise a TypeError if an accumulator has no running sums."""
    if not isinstance(accumulator, Sequential | Blocked | Pairwise | Exact) or (
        not isinstance(accumulator, Pairwise | Exact) and accumulator.is_stochastic
    ):
        raise TypeError(
            f"{accumulator} has no running sums: they are those of one rounding after another, "
            "and of sequential or blocked sums only where no rounding is stochastic"
        )


def _product(a: Any, b: Any, operands: Operands) -> Any:
    """A product in float64, term after term: numpy's own has other bits for other layouts."""
    from fpemu.linalg import matmul  # which imports this module

    return matmul(a, b, Sequential("float64"), row_lengths=operands.row_lengths)


def running_sums(
    operands: Operands, accumulator: Accumulator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """R1 and R2 from what a kernel has put into `operands`: the magnitudes and squares of its sums.

    Kernels leave out two kinds of roundings.  Those of products err by no more than their unit
    times the exact product.  Those into the format of `via` have results that are no larger than
    the sums by more than a factor ``1 / (1 - e)``.
    """
    first, squares = operands.running
    steps = operands.a.shape[2]
    inner: Any = accumulator.inner if isinstance(accumulator, Blocked) else accumulator
    via = getattr(inner, "via", None)
    if via is not None:
        share = Sequential(via, inner.rounding).roundoff / inner.roundoff
        first = first * (1.0 + share / (1.0 - inner.roundoff))
        squares = squares * (1.0 + share * share)
    if not getattr(inner, "fused", True):
        product = Sequential(inner.product or inner.format, inner.rounding)
        share = product.roundoff / accumulator.roundoff
        a, b = np.abs(operands.a.astype(np.float64)), np.abs(operands.b.astype(np.float64))
        with np.errstate(over="ignore", invalid="ignore"):
            first = first + share * _product(a, b, operands)
            squares = squares + share**2 * _product(a * a, b * b, operands)
    # More than the roundings of all these sums take away.
    return first * (1.0 + (4.0 * steps + 64.0) * 2.0**-53), np.sqrt(squares)
