"""Products of few rows, which read the right operand where it lies, against those from panels."""

import functools

import numpy as np
import pytest

import fpemu
from fpemu._kernels import few_rows
from tests.fpemu.test_panels import COLUMNS, LAYOUTS, STEPS, expected, numbers
from tests.oracle.bits import assert_same_bits

TYPES = ["float32", "float64"]


@pytest.fixture
def taken(monkeypatch):
    """The shapes of the products of few rows; small ones are among them."""
    shapes, product = [], few_rows.product

    def watched(operands, dtype):
        shapes.append(operands.shape)
        return product(operands, dtype)

    monkeypatch.setattr(few_rows, "_LEAST", 1)
    monkeypatch.setattr(few_rows, "product", watched)
    return shapes


def from_panels(monkeypatch, *arguments, **options):
    with monkeypatch.context() as context:
        context.setattr(few_rows, "takes", lambda _: False)
        return fpemu.matmul(*arguments, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("format", TYPES)
def test_sums_of_few_rows_are_those_of_the_oracle(layout, rows, format, taken):
    dtype = np.dtype(format)
    a, b = numbers(rows, STEPS, dtype=dtype), numbers(STEPS, COLUMNS, dtype=dtype)
    found = fpemu.matmul(a, LAYOUTS[layout](b), fpemu.Sequential(format))
    assert_same_bits(found, expected(format, rows, dtype))
    assert taken == [(1, rows, COLUMNS)]


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("steps", [1, 3, 4, 15, 16, 33])
@pytest.mark.parametrize("columns", [1, 7, 8, 17, 64, 2100])
def test_terms_and_columns_of_any_number(layout, steps, columns, monkeypatch, taken):
    for format in TYPES:
        a, b = (numbers(*shape, dtype=format) for shape in ((3, steps), (steps, columns)))
        given = a, LAYOUTS[layout](b), fpemu.Sequential(format)
        assert_same_bits(fpemu.matmul(*given), from_panels(monkeypatch, *given))
    assert taken == [(1, 3, columns)] * 2


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("format", TYPES)
def test_stacks_and_first_sums(layout, format, monkeypatch, taken):
    a, b = numbers(3, 2, STEPS, dtype=format), numbers(3, STEPS, 70, dtype=format)
    if layout == "columns":
        b = np.ascontiguousarray(b.swapaxes(1, 2)).swapaxes(1, 2)
    c = numbers(3, 2, 70, dtype=format)
    for options in ({}, {"c": c}):
        matmul = functools.partial(from_panels, monkeypatch)
        found, other = (f(a, b, format, **options) for f in (fpemu.matmul, matmul))
        assert_same_bits(found, other)
    assert taken == [(3, 2, 70)] * 2


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -0.0])
def test_special_numbers_and_signs_of_zeros(layout, special, monkeypatch, taken):
    a, b = numbers(2, STEPS), numbers(STEPS, COLUMNS)
    a[:, 20:] = 0.0  # behind zeros of the left operand, too
    b[20, 66], b[3, 1], b[3, 129] = special, special, -special
    a[1], c = -0.0, np.full((2, COLUMNS), -0.0, np.float32)
    given = a, LAYOUTS[layout](b), fpemu.Sequential("float32")
    assert_same_bits(fpemu.matmul(*given, c=c), from_panels(monkeypatch, *given, c=c))
    assert len(taken) == 1


def test_what_is_large_and_has_few_rows_is_taken(monkeypatch):
    taken, product = [], few_rows.product
    monkeypatch.setattr(few_rows, "product", lambda *given: taken.append(1) or product(*given))
    b = numbers(256, 256)
    packed = fpemu.Packed(fpemu.round(b, "bfloat16"), "bfloat16")
    for rows, right, accumulator, options in (
        (9, b, "float32", {}),
        (1, b[:100], "float32", {}),
        (1, packed, "float32", {}),
        (1, b, "bfloat16", {}),
        (1, b, fpemu.Blocked("float32", 16), {}),
        (1, b, "float32", {"row_lengths": [255]}),
        (1, b, "float32", {"running": True}),
    ):
        a = np.ones((rows, right.shape[0]), np.float32)
        fpemu.matmul(a, right, accumulator, **options)
    assert not taken
    fpemu.matmul(np.ones(256, np.float32), b, "float32")
    fpemu.matmul(np.ones((8, 256), np.float32), b.T, "float32")
    assert len(taken) == 2
