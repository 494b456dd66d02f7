"""Trees of fused products in float32 lanes against the same trees in float64 and integers."""

import numpy as np
import pytest

import fpemu
from fpemu._kernels import pairwise, panels, quick_trees, subtrees
from tests.threads import on_threads


@pytest.fixture
def taken(monkeypatch):
    """How the sums of two products were formed, call by call."""
    ways = []
    way_of = quick_trees._way_of

    def watched(*arguments):
        found = way_of(*arguments)
        ways.append(found[0])
        return found

    monkeypatch.setattr(quick_trees, "_way_of", watched)
    return ways


def slow(monkeypatch, *arguments, **options):
    with monkeypatch.context() as context:
        context.setattr(pairwise, "_is_quick", lambda *_: False)
        return fpemu.matmul(*arguments, **options)


def members(x, format):
    with np.errstate(over="ignore"):
        return np.asarray(fpemu.round(x.astype(np.float32), format), np.float32)


def _plain(generator, shape):
    return generator.standard_normal(shape)


def _spread(generator, shape):
    return generator.standard_normal(shape) * 2.0 ** generator.integers(-20, 21, shape)


def _alternating(generator, shape, even, odd):
    """A number for even steps and one for odd ones, of either sign."""
    steps = np.arange(shape[1])
    return np.where(steps % 2 == 0, even, odd) * generator.choice([1.0, -1.0], shape)


def _ties(generator, shape):
    """Every other product is a tie of float32, the next far below float64's last bit of it."""
    return _alternating(generator, shape, 1 + 2.0**-12, 2.0**-30)


def _subnormal_ties(generator, shape):
    """The same among float32's subnormals."""
    return _alternating(generator, shape, 3 * 2.0**-75, 2.0**-105)


def _tiny(generator, shape):
    return generator.standard_normal(shape) * 2.0 ** generator.integers(-75, -60, shape)


def _huge(generator, shape):
    return generator.standard_normal(shape) * 2.0 ** generator.integers(50, 64, shape)


def _special(generator, shape):
    x = generator.standard_normal(shape)
    x[generator.random(shape) < 0.3] = -0.0
    x[generator.random(shape) < 0.02] = np.inf
    x[generator.random(shape) < 0.01] = np.nan
    return x


ROUNDINGS = {
    "float32": subtrees.NATIVE,
    "e8m7": subtrees.FIELDS,
    "float16": subtrees.NUMBERS,
    "float8_e5m2": subtrees.NUMBERS,
}
NUMBERS = (_plain, _spread, _ties, _subnormal_ties, _tiny, _huge, _special)


@pytest.mark.parametrize("terms", [2, 3, 5, 64, 75])
@pytest.mark.parametrize("inputs", ["float32", "bfloat16"])
@pytest.mark.parametrize("format", ["float32", "e8m7", "float16", "float8_e5m2"])
def test_quick_trees_keep_every_bit(format, inputs, terms, monkeypatch, taken):
    generator = np.random.default_rng(terms)
    for numbers in NUMBERS:
        a = members(numbers(generator, (5, terms)), inputs)
        b = members(numbers(generator, (70, terms)), inputs).T.copy()
        a[1, 1::2], b[1::2, :9] = -a[1, : terms // 2 * 2 : 2], b[: terms // 2 * 2 : 2, :9]
        c = members(generator.standard_normal((5, 70)), format)
        for block in (None, 2, 7):
            accumulator = fpemu.Pairwise(format, block=block)
            for initial in (None, c):
                found = fpemu.matmul(a, b, accumulator, c=initial)
                expected = slow(monkeypatch, a, b, accumulator, c=initial)
                np.testing.assert_array_equal(
                    found.view(np.uint32), np.float32(expected).view(np.uint32)
                )
    assert len(taken) == 6 * len(NUMBERS)
    # With bfloat16 inputs, tiny and huge products are not exact in float32.
    wide = {True, False} if inputs == "bfloat16" else {True}
    assert set(taken) == {subtrees.Way(each, ROUNDINGS[format]) for each in wide}


@pytest.mark.parametrize("format", ["e8m0", "e8m1", "e8m10", "e7m7", "float8_e4m3fn", "e11m7"])
def test_other_formats_keep_every_bit(format, monkeypatch):
    """Those of one bit, of the most bits, of other ends and with other exponents."""
    generator = np.random.default_rng(0)
    for inputs in ("bfloat16", "float32"):
        for scale in (2.0**-70, 2.0**-5, 1.0, 2.0**5, 2.0**40):
            a = members(generator.standard_normal((5, 13)) * scale, inputs)
            b = members(generator.integers(-8, 9, (13, 70)) * scale, inputs)
            found = fpemu.matmul(a, b, fpemu.Pairwise(format))
            expected = slow(monkeypatch, a, b, fpemu.Pairwise(format))
            np.testing.assert_array_equal(np.float64(found), np.float64(expected))


@pytest.mark.parametrize("operand", range(3))
def test_bits_of_nan_are_no_numbers(operand):
    """Those of NaN with a payload, rounded as if they were a number's, are those of one."""
    generator = np.random.default_rng(operand)
    shapes = ((5, 9), (9, 70), (5, 70))
    a, b, c = operands = [
        members(generator.standard_normal(shape), each)
        for shape, each in zip(shapes, ("float32", "float32", "e8m7"), strict=True)
    ]
    operands[operand].view(np.uint32)[3, 1::2] = 0x7FFFFFFF
    where = np.isnan(np.ones((5, 9)) @ b + c if operand else a @ b)
    assert where.any()
    np.testing.assert_array_equal(np.isnan(fpemu.matmul(a, b, fpemu.Pairwise("e8m7"), c=c)), where)


def _flushed(generator, shape):
    """Subnormal inputs, and products and sums on either side of the smallest normal number."""
    x = generator.standard_normal(shape) * 2.0 ** generator.integers(-66, -60, shape)
    x[generator.random(shape) < 0.1] = 2.0**-127
    return x


def _far(generator, shape):
    """Every other product is below the last bit of the one before it, by a bit or by many."""
    return _alternating(generator, shape, 1 + 2.0**-7, 2.0**-13 * (1 - 2.0**-8))


ODD = fpemu.Rounding("rto", "infinity")


@pytest.mark.parametrize("block", [2, 3, 7])
def test_sums_rounded_to_odd_keep_every_bit(block, monkeypatch, taken):
    unit = fpemu.Pairwise(
        "float32", ODD, fused=False, block=block, inputs="bfloat16", flush="signed"
    )
    if block == 2:
        assert unit == fpemu.devices.get("arm.bfdot.bfloat16")
    generator = np.random.default_rng(block)
    for numbers in (*NUMBERS, _flushed, _far):
        a = members(numbers(generator, (6, 30)), "bfloat16")
        b = members(numbers(generator, (70, 30)), "bfloat16").T.copy()
        a[1, 1::2], b[1::2, :9] = -a[1, :30:2], b[:30:2, :9]
        c = generator.standard_normal((6, 70)).astype(np.float32)
        c[2] *= np.float32(2.0**-127)
        for initial in (None, c):
            with np.errstate(all="ignore"):
                found = fpemu.matmul(a, b, unit, c=initial)
                expected = slow(monkeypatch, a, b, unit, c=initial)
            np.testing.assert_array_equal(
                found.view(np.uint32), np.float32(expected).view(np.uint32)
            )
    assert taken == [subtrees.Way(False, subtrees.ODD)] * 2 * (len(NUMBERS) + 2)


def test_sums_near_the_largest_number_are_the_general_kernels(monkeypatch):
    """Rounded to odd, a sum between the largest number and 2**128 is the largest number."""
    unit = fpemu.devices.get("arm.bfdot.bfloat16")
    doubtful = []
    product = quick_trees.product

    def watched(*arguments):
        found = product(*arguments)
        doubtful.append(found[1][0].tolist())
        return found

    monkeypatch.setattr(quick_trees, "product", watched)
    largest = np.finfo(np.float32).max
    a = np.float32([[2.0, 0.0], [2.0, 2.0], [0.5, 0.0]])
    b = np.float32([[2.0**102], [2.0**102]])
    found = fpemu.matmul(a, b, unit, c=np.float32([[largest], [largest], [0.0]]))
    assert doubtful == [[True, True, False]]
    assert found.tolist() == [[float(largest)], [np.inf], [2.0**101]]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0.0, -0.0], (0, 1, 0.0)),
        ([0.0, 1.0, -2.0], (0, 1, 2.0)),
        ([0.0, 1.5, -2.0], (-1, 2, 2.0)),
        ([2.0**-149], (-149, 24, 2.0**-149)),
        ([3 * 2.0**-20, 2.0**40], (-20, 2, 2.0**40)),
        ([1 + 2.0**-23, 2.0**-10], (-23, 24, 1 + 2.0**-23)),
        ([-3.0, np.inf], (panels._NOT_FINITE, 24, np.inf)),
        ([np.nan, 1.0], (panels._NOT_FINITE, 24, np.nan)),
    ],
)
def test_the_extent_of_numbers(numbers, expected, monkeypatch):
    monkeypatch.setattr(panels, "_STRIP", 2)
    for x in (np.float32([numbers]), np.float32([*numbers, 0.0, 0.0, numbers[-1]])):
        np.testing.assert_equal(tuple(panels.extent(x)), expected)
    assert panels.extent(np.zeros((0, 3), np.float32)) == (0, 1, 0.0)


def test_rows_of_triangles(monkeypatch):
    generator = np.random.default_rng(5)
    a, b = (generator.standard_normal(shape).astype(np.float32) for shape in ((90, 10), (10, 90)))
    lengths = np.arange(90)
    accumulator = fpemu.Pairwise("float32")
    with on_threads(4):
        found = fpemu.matmul(a, b, accumulator, row_lengths=lengths)
    expected = slow(monkeypatch, a, b, accumulator, row_lengths=lengths)
    np.testing.assert_array_equal(found, expected)
