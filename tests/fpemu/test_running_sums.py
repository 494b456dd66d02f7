"""Running sums against partial sums in exact rationals, and the bound that they make."""

import math

import numpy as np
import pytest
from gmpy2 import mpq
from hypothesis import given
from hypothesis import strategies as st

import fpemu
from fpemu import devices
from fpemu.reference import round_exact
from tests.oracle.accumulators import add, exact, multiply
from tests.oracle.bits import assert_same_bits
from tests.threads import on_threads

MODES = ("rne", "rtz", "rtn")  # nearest, not nearest, and where zero sums are negative
FORMATS = ("e8m4", "bfloat16", "float16", "float8_e4m3fn", "float32", "float64")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


# --- the oracle: all rounded sums of an inner product ---------------------------------------------


def sequential(a, b, accumulator, start):
    sums, total = [], start
    for x, y in zip(a, b, strict=True):
        term = multiply(exact(x), exact(y))
        total = round_exact(add(exact(total), term, accumulator.rounding), accumulator.format,
                            accumulator.rounding)  # fmt: skip
        sums.append(total)
    return sums


def blocked(a, b, accumulator, start):
    """The sums of the blocks, in the proportion of the units, and the outer sums."""
    sums, total = [], start
    inner, share = accumulator.inner, accumulator.inner.roundoff / accumulator.roundoff
    for first in range(0, len(a), accumulator.block):
        part = slice(first, first + accumulator.block)
        of_block = sequential(a[part], b[part], inner, 0.0)
        sums += [share * each for each in of_block]
        total = round_exact(
            add(exact(total), exact(of_block[-1]), accumulator.rounding),
            accumulator.format,
            accumulator.rounding,
        )
        sums.append(total)
    return sums


def pairwise(a, b, accumulator, start):
    sums = []

    def rounded(x):
        sums.append(round_exact(x, accumulator.format, accumulator.rounding))
        return exact(sums[-1])

    def tree(terms):
        if len(terms) == 1:
            return terms[0]
        half = len(terms) // 2
        return rounded(add(tree(terms[:half]), tree(terms[half:]), accumulator.rounding))

    leaves = [multiply(exact(x), exact(y)) for x, y in zip(a, b, strict=True)]
    whole = tree(leaves)
    if len(leaves) == 1 and start is None:
        rounded(whole)
    if start is not None:
        rounded(add(exact(start), whole, accumulator.rounding))
    return sums


def dot_exact(a, b):
    return sum((mpq(x) * mpq(y) for x, y in zip(a, b, strict=True)), mpq(0))


def exactly(a, b, accumulator, start):
    sums, total = [], start
    block = accumulator.block or len(a)
    for first in range(0, len(a), block):
        part = slice(first, first + block)
        sum_ = dot_exact(a[part], b[part]) + mpq(total)
        total = round_exact(sum_, accumulator.format, accumulator.rounding)
        sums.append(total)
    return sums


ORACLES = {
    fpemu.Sequential: sequential,
    fpemu.Blocked: blocked,
    fpemu.Pairwise: pairwise,
    fpemu.Exact: exactly,
}


def check(accumulator, a, b, c=None):
    """Products as without running sums; the sums as the oracle's; and the bound."""
    product, running = fpemu.matmul(a, b, accumulator, c=c, running=True)
    assert_same_bits(product, fpemu.matmul(a, b, accumulator, c=c))
    assert running.roundoff == accumulator.roundoff
    oracle = ORACLES[type(accumulator)]
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            row, column = a[i].tolist(), b[:, j].tolist()
            start = None if c is None else float(c[i, j])
            tree = isinstance(accumulator, fpemu.Pairwise)
            sums = oracle(row, column, accumulator, start if tree or start is not None else 0.0)
            if not all(map(math.isfinite, sums)):
                assert not running.first[i, j] < np.finfo(np.float64).max
                continue
            exact_sums = list(map(mpq, sums))
            first = sum(map(abs, exact_sums))
            second = math.sqrt(sum(x * x for x in exact_sums))
            assert first <= mpq(float(running.first[i, j])) <= first * mpq(1.0 + 1e-10)
            assert running.second[i, j] == pytest.approx(second, rel=1e-12)
            assert_bounded(accumulator, row, column, product[i, j], running.first[i, j], start)


def assert_bounded(accumulator, row, column, computed, first, start):
    error = abs(mpq(float(computed)) - dot_exact(row, column) - mpq(start or 0.0))
    floor = accumulator.underflow_bound(len(row), initial=start is not None)
    limit = mpq(accumulator.roundoff) * mpq(float(first)) + mpq(floor)
    assert error <= limit


def data(kind, format, dtype, length):
    generator = np.random.default_rng([length, len(kind)])
    a, b = generator.normal(size=(2, length)), generator.normal(size=(length, 3))
    if kind == "cancelling":
        a[:, 1::2] = -a[:, : length // 2 * 2 : 2]
        b[1::2] = b[: length // 2 * 2 : 2]
    elif kind == "ties":
        half = 2.0**-format.precision
        a = generator.choice([1.0, -1.0, 1 + half, half, -half], a.shape)
        b = generator.choice([1.0, 2.0, 0.5], b.shape)
    elif kind == "far apart":
        low, high = max(format.emin // 2, -60) - 3, min(format.emax // 2, 60) - 2
        a, b = (np.ldexp(x, generator.integers(low, high, x.shape)) for x in (a, b))
    c = fpemu.round(generator.normal(size=(2, 3)), format)
    return a.astype(dtype), b.astype(dtype), c


@DTYPES
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FORMATS)
def test_the_sums_are_those_of_all_partial_sums(name, mode, dtype):
    format = fpemu.format(name)
    for kind in ("near one", "cancelling", "ties", "far apart"):
        for length in (1, 2, 7, 12):
            a, b, c = data(kind, format, dtype, length)
            for start in (None, c):
                check(fpemu.Sequential(name, mode), a, b, start)


@DTYPES
@pytest.mark.parametrize("mode", ["rne", "rtz"])
@pytest.mark.parametrize("name", ["e8m4", "float16", "float64"])
def test_the_sums_of_other_accumulators(name, mode, dtype):
    format = fpemu.format(name)
    for accumulator in (
        fpemu.Blocked(name, 3, "e8m6", mode),
        fpemu.Blocked(name, 4, fpemu.Sequential("e8m3", "rtp"), mode),
        fpemu.Pairwise(name, mode),
        fpemu.Exact(name, mode),
        fpemu.Exact(name, mode, block=4),
    ):
        for kind in ("near one", "cancelling", "ties"):
            for length in (1, 5, 8):
                a, b, c = data(kind, format, dtype, length)
                for start in (None, c):
                    check(accumulator, a, b, start)


@DTYPES
@pytest.mark.parametrize(
    "accumulator",
    [
        fpemu.Sequential("e8m4", fused=False),
        fpemu.Sequential("e8m4", "rtz", product="e8m2"),
        fpemu.Sequential("e8m3", via="e8m6"),
        fpemu.Sequential("e8m3", "rto", via="float32", product="e8m3"),
        fpemu.Blocked("e8m5", 4, fpemu.Sequential("e8m3", product="e8m4", via="e8m6")),
        fpemu.Pairwise("e8m4", fused=False),
        fpemu.Pairwise("e8m4", "rtp", block=4, product="e8m3"),
        fpemu.Pairwise("e8m4", fpemu.Rounding("sr", seed=1)),
        fpemu.Exact("e8m4", fpemu.Rounding("sr", seed=1), block=2),
    ],
    ids=str,
)
def test_the_bound_covers_every_rounding(accumulator, dtype):
    tightest = 0.0
    for kind in ("near one", "cancelling", "ties"):
        for length in (1, 2, 5, 12):
            a, b, c = data(kind, accumulator.format, dtype, length)
            for start in (None, c):
                product, running = fpemu.matmul(a, b, accumulator, c=start, running=True)
                assert_same_bits(product, fpemu.matmul(a, b, accumulator, c=start))
                for i, j in np.ndindex(product.shape):
                    row, column = a[i].tolist(), b[:, j].tolist()
                    first = None if start is None else float(start[i, j])
                    assert_bounded(
                        accumulator, row, column, product[i, j], running.first[i, j], first
                    )
                    error = abs(product[i, j] - a[i].astype(float) @ b[:, j] - (first or 0.0))
                    limit = running.roundoff * running.first[i, j]
                    tightest = max(tightest, error / limit if limit else 0.0)
    assert tightest > 0.3  # half of it would be too little, or nearly


def test_a_rounding_may_err_by_its_unit():
    tie = np.array([[1.0 + 2.0**-5]])
    _, running = fpemu.matmul(tie, np.ones((1, 1)), fpemu.Sequential("e8m4"), running=True)
    assert running.first[0, 0] == pytest.approx(1.0)
    assert running.roundoff * running.first[0, 0] / 2 < 2.0**-5 <= running.roundoff * 1.0


@given(
    st.lists(st.tuples(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32)), min_size=1),
    st.sampled_from(FORMATS[:4]),
    st.sampled_from(MODES),
)
def test_any_running_bound_holds(pairs, name, mode):
    a, b = np.array(pairs).T
    accumulator = fpemu.Sequential(name, fpemu.Rounding(mode))
    product, running = fpemu.matmul(a, b, accumulator, running=True)
    if running.first < accumulator.format.max_finite:  # no sum has overflowed
        assert_bounded(accumulator, a.tolist(), b.tolist(), product, running.first, None)


def test_sums_that_are_not_finite_have_no_finite_running_sum():
    a = np.array([[300.0, 300.0, 1.0], [np.inf, 1.0, 1.0], [np.nan, 1.0, 1.0]])
    for accumulator in (
        fpemu.Sequential("float16"),
        fpemu.Pairwise("float16"),
        fpemu.Blocked("float16", 2),
        fpemu.Exact("float16"),
    ):
        product, running = fpemu.matmul(a, a.T[:, :1] * 300, accumulator, running=True)
        assert not np.isfinite(product).any()
        assert not np.isfinite(running.first).any()


@pytest.mark.parametrize(
    "accumulator",
    [fpemu.Sequential("e8m4"), fpemu.Blocked("e8m4", 8), fpemu.Pairwise("e8m4"),
     fpemu.Exact("e8m4"), fpemu.Sequential("e8m4", fused=False)],
    ids=str,
)  # fmt: skip
def test_threads_layout_and_parts_do_not_matter(accumulator):
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=(70, 40)), generator.normal(size=(40, 130))
    a, b = a.astype(np.float32), b.astype(np.float32)
    _, whole = fpemu.matmul(a, b, accumulator, running=True)
    with on_threads(3):
        _, one = fpemu.matmul(a, b, accumulator, running=True)
    lengths = np.arange(70) + 1
    _, part = fpemu.matmul(np.asfortranarray(a), b, accumulator, running=True, row_lengths=lengths)
    _, stacked = fpemu.matmul(np.stack([a, -a]), b, accumulator, running=True)
    out = np.empty((70, 130))
    given, again = fpemu.matmul(a, b, accumulator, running=True, out=out)
    assert given is out
    wanted = np.arange(130) < lengths[:, None]
    for name in ("first", "second"):
        expected = getattr(whole, name)
        np.testing.assert_array_equal(getattr(one, name), expected)
        np.testing.assert_array_equal(getattr(again, name), expected)
        np.testing.assert_array_equal(getattr(stacked, name)[0], expected)
        np.testing.assert_array_equal(getattr(part, name), np.where(wanted, expected, 0.0))


@pytest.mark.parametrize(
    "accumulator",
    [fpemu.Sequential("e8m4"), fpemu.Sequential("float32"), fpemu.Blocked("e8m4", 8),
     fpemu.Pairwise("e8m4"), fpemu.Sequential("e8m4", fused=False)],
    ids=str,
)  # fmt: skip
def test_one_of_the_sums_is_that_of_both(accumulator):
    a, b = np.random.default_rng(3).normal(size=(2, 40, 40)).astype(np.float32)
    product, both = fpemu.matmul(a, b, accumulator, running=True)
    for wanted, other in (("first", "second"), ("second", "first")):
        same, one = fpemu.matmul(a, b, accumulator, running=wanted)
        assert_same_bits(same, product)
        assert_same_bits(getattr(one, wanted), getattr(both, wanted))
        assert getattr(one, other) is None
        assert one.roundoff == both.roundoff


def test_other_sums_are_not_known():
    with pytest.raises(ValueError, match="running must be True, False, 'first' or 'second'"):
        fpemu.matmul(np.eye(2), np.eye(2), fpemu.Sequential("e8m4"), running="third")


@DTYPES
@pytest.mark.parametrize("name", ["e8m4", "float16", "float32", "float64", "e11m30"])
def test_sums_of_more_terms_than_are_filled_in_at_once(name, dtype):
    terms = 600  # of which 512 in float32 and 256 in float64 are
    a, b, c = data("near one", fpemu.format(name), dtype, terms)
    accumulator = fpemu.Sequential(name)
    product, running = fpemu.matmul(a, b, accumulator, c=c, running=True)
    assert_same_bits(product, fpemu.matmul(a, b, accumulator, c=c))
    # The partial sums: zeros for what is not in one leave it alone.
    parts = np.where(np.tri(terms, dtype=bool)[:, None], a, 0).astype(dtype).reshape(-1, terms)
    sums = fpemu.matmul(parts, b, accumulator, c=np.tile(c, (terms, 1)))
    sums = sums.reshape(terms, 2, 3).astype(np.float64)
    np.testing.assert_allclose(running.first, np.abs(sums).sum(axis=0), rtol=1e-11)
    np.testing.assert_allclose(running.second, np.sqrt(np.square(sums).sum(axis=0)), rtol=1e-13)


@pytest.mark.parametrize("name", ["e8m4", "float16", "float32", "float64", "e11m30"])
def test_no_column_changes_the_sums_of_another(name):
    generator = np.random.default_rng(4)
    a, b = generator.normal(size=(5, 30)), generator.normal(size=(30, 150))
    a, b = a.astype(np.float32), b.astype(np.float32)
    b[:, ::7] = fpemu.round(b[:, ::7], "e8m1")  # whose sums are ties more often
    a[2] = fpemu.round(a[2], "e8m1")
    # The second sum is next to a tie, with which lanes would confuse it, in every other column.
    a[:, :2], b[0] = 1.0, 1.0
    b[1, ::2] = 2.0 ** -fpemu.format(name).precision * (1.0 + 2.0**-23)
    accumulator = fpemu.Sequential(name)
    product, whole = fpemu.matmul(a, b, accumulator, running=True)
    assert_same_bits(product, fpemu.matmul(a, b, accumulator))
    for column in range(0, 150, 11):
        _, alone = fpemu.matmul(a, b[:, column : column + 1], accumulator, running=True)
        for sums in ("first", "second"):
            assert_same_bits(getattr(whole, sums)[:, [column]], getattr(alone, sums))


@pytest.mark.parametrize(
    "accumulator",
    [
        devices.get("hopper.wgmma.float16"),
        devices.get("cdna3.mfma.bfloat16"),
        fpemu.Promoted(fpemu.Sequential("e8m4"), "float32", 4),
        fpemu.Sequential("e8m4", fpemu.Rounding("sr", seed=1)),
        fpemu.Blocked("e8m4", 4, fpemu.Sequential("e8m4", fpemu.Rounding("sr", seed=1))),
    ],
    ids=str,
)
def test_others_have_no_running_sums(accumulator):
    with pytest.raises(TypeError, match="has no running sums"):
        fpemu.matmul(np.eye(2), np.eye(2), accumulator, running=True)
