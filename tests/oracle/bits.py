"""Comparison of float arrays bit for bit, NaN payloads apart."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def differences(actual: ArrayLike, expected: ArrayLike) -> NDArray[np.intp]:
    """Flat indices at which two arrays differ as values or in the sign of a zero."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide_actual = np.asarray(actual, np.float64).ravel()
        wide_expected = np.asarray(expected, np.float64).ravel()
    both_nan = np.isnan(wide_actual) & np.isnan(wide_expected)
    return np.flatnonzero(
        (wide_actual.view(np.uint64) != wide_expected.view(np.uint64)) & ~both_nan
    )


def assert_same_bits(
    actual: ArrayLike, expected: ArrayLike, inputs: ArrayLike | None = None, about: object = ""
) -> None:
    """Fail with the first differing elements, in hexadecimal, where two arrays differ."""
    assert np.shape(actual) == np.shape(expected), (about, np.shape(actual), np.shape(expected))
    wrong = differences(actual, expected)
    if wrong.size == 0:
        return
    lines = [f"{about}: {wrong.size} of {np.size(expected)} elements differ"]
    for index in wrong[:5]:
        at = "" if inputs is None else f" for {_written(inputs, index)}"
        got, wanted = _written(actual, index), _written(expected, index)
        lines.append(f"[{index}]{at}: got {got}, expected {wanted}")
    raise AssertionError("\n".join(lines))


def _written(array: ArrayLike, index: int) -> str:
    number = float(np.asarray(array).ravel()[index])
    return f"{number!r} ({number.hex()})"
