"""Right operands of every layout, and in parts of every size, against sums step by step."""

import functools

import numpy as np
import pytest

import fpemu
from fpemu._kernels import sequential as kernels
from tests.cases import for_each
from tests.oracle.accumulators import blocked
from tests.oracle.bits import assert_same_bits
from tests.oracle.matrices import sequential_matrix

STEPS, COLUMNS = 37, 130  # no multiple of a panel's columns or of what is transposed at once


def numbers(*shape, dtype=np.float32):
    generator = np.random.default_rng(7)
    return np.ldexp(generator.uniform(-2, 2, shape), generator.integers(-4, 4, shape)).astype(dtype)


def spaced(b):
    """Every third row and second column of a larger array."""
    memory = np.full((3 * b.shape[0], 2 * b.shape[1]), np.nan, b.dtype)
    memory[::3, ::2] = b
    return memory[::3, ::2]


def beside(b):
    """Columns that lie in memory one after the other, with others between them."""
    memory = np.full((b.shape[1], 2 * b.shape[0]), np.nan, b.dtype)
    memory[:, : b.shape[0]] = b.T
    return memory[:, : b.shape[0]].T


def within(b):
    """Columns of a wider array."""
    memory = np.full((b.shape[0], b.shape[1] + 9), np.nan, b.dtype)
    memory[:, 4:-5] = b
    return memory[:, 4:-5]


def field(b):
    """A field of records whose size is no multiple of a number's."""
    records = np.zeros(b.shape, np.dtype({"names": ["x"], "formats": [b.dtype], "itemsize": 9}))
    records["x"] = b
    return records["x"]


LAYOUTS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "spaced": spaced,
    "beside": beside,
    "within": within,
    "backwards": lambda b: np.ascontiguousarray(b[::-1, ::-1])[::-1, ::-1],
    "of records": field,
}


@functools.cache
def expected(format, rows, dtype=np.float32):
    a, b = numbers(rows, STEPS, dtype=dtype), numbers(STEPS, COLUMNS, dtype=dtype)
    return sequential_matrix(a, b, format)


@functools.cache
def expected_of_blocks(block, inner):
    rows, columns = numbers(5, STEPS).tolist(), numbers(STEPS, 70).T.tolist()
    return np.array([[blocked(x, y, "float32", block, inner) for y in columns] for x in rows])


@for_each("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("format", ["float32", "e8m7", "float64"])
def test_layouts_of_right_operands(layout, rows, format):
    dtype = np.float64 if format == "float64" else np.float32
    a, b = numbers(rows, STEPS, dtype=dtype), numbers(STEPS, COLUMNS, dtype=dtype)
    found = fpemu.matmul(a, LAYOUTS[layout](b), fpemu.Sequential(format))
    assert_same_bits(found, expected(format, rows, dtype))


@pytest.mark.parametrize("depth", [1, 16, 20])
@pytest.mark.parametrize("format", ["float32", "e8m7", "float8_e4m3fn", "float16"])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_sums_do_not_depend_on_the_parts_of_a_panel(monkeypatch, depth, format, layout):
    monkeypatch.setattr(kernels, "_depth", lambda steps, *_: min(depth, steps))
    a, b = numbers(5, STEPS), LAYOUTS[layout](numbers(STEPS, COLUMNS))
    assert_same_bits(fpemu.matmul(a, b, fpemu.Sequential(format)), expected(format, 5))


@pytest.mark.parametrize("depth", [1, 7, 16, 1024])
@pytest.mark.parametrize("block", [3, 8, 64])
@pytest.mark.parametrize("inner", ["float32", "e8m4"])
def test_blocks_do_not_depend_on_the_parts_of_a_panel(monkeypatch, depth, block, inner):
    monkeypatch.setattr(kernels, "_depth", lambda steps, *_: min(depth, steps))
    a, b = numbers(5, STEPS), numbers(STEPS, 70)
    accumulator = fpemu.Blocked("float32", block, fpemu.Sequential(inner))
    assert_same_bits(fpemu.matmul(a, b, accumulator), expected_of_blocks(block, inner))


@pytest.mark.parametrize(
    "accumulator", [fpemu.Sequential("e8m7"), fpemu.Blocked("e8m7", 5)], ids=str
)
def test_running_sums_do_not_depend_on_the_parts_of_a_panel(monkeypatch, accumulator):
    a, b = numbers(3, STEPS), numbers(STEPS, 70)
    whole = fpemu.matmul(a, b, accumulator, running=True)[1]
    monkeypatch.setattr(kernels, "_depth", lambda *_: 4)
    parts = fpemu.matmul(a, b, accumulator, running=True)[1]
    assert_same_bits(parts.first, whole.first)
    assert_same_bits(parts.second, whole.second)


@pytest.mark.parametrize("layout", ["rows", "columns", "beside"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -0.0])
def test_special_numbers_reach_their_column_alone(layout, special):
    a, b = np.ones((1, STEPS), np.float32), np.ones((STEPS, COLUMNS), np.float32)
    b[20, 66] = special
    found = fpemu.matmul(a, LAYOUTS[layout](b), fpemu.Sequential("float32"))[0]
    assert_same_bits(found[66], np.float32(STEPS - 1 if special == 0 else special))
    assert (np.delete(found, 66) == STEPS).all()


@pytest.mark.parametrize("rows", [1, 8, 9, 40, 1100])
def test_rows_are_cut_into_pieces_of_any_number(rows):
    a, b = numbers(rows, 5), numbers(5, 66)
    together = fpemu.matmul(a, b, fpemu.Sequential("float32"))
    alone = np.concatenate([fpemu.matmul(row[None], b, fpemu.Sequential("float32")) for row in a])
    assert_same_bits(together, alone)


def test_row_lengths_and_stacks_of_every_layout():
    a, b = numbers(3, 10, 6), numbers(3, 70, 6).transpose(0, 2, 1)
    lengths = np.array([0, 1, 63, 64, 65, 70, 2, 66, 70, 5])
    options = {"accumulator": fpemu.Sequential("float32"), "row_lengths": lengths}
    found = fpemu.matmul(a, b, **options)
    full = fpemu.matmul(a, np.ascontiguousarray(b), fpemu.Sequential("float32"))
    assert_same_bits(found, np.where(np.arange(70) < lengths[:, None], full, np.float32(0)))
    repeated = np.broadcast_to(b[1], b.shape)
    assert_same_bits(fpemu.matmul(a, repeated, **options)[2], fpemu.matmul(a[2], b[1], **options))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", ["numbers", "signs of zeros", "infinity", "NaN"])
def test_zeros_at_the_end_of_rows_count_as_terms(case, dtype):
    steps, format = 140, np.dtype(dtype).name
    terms = np.repeat([0, 65, 77, 140], 6)[:, None]  # a tile each
    a, b = numbers(len(terms), steps, dtype=dtype), numbers(steps, 5, dtype=dtype)
    a = np.where(np.arange(steps) < terms, a, np.copysign(dtype(0), a))
    if case == "signs of zeros":  # products that underflow, and zeros of one sign behind them
        smallest = np.finfo(dtype).smallest_subnormal
        a, b = np.sign(a).astype(dtype) * smallest, np.abs(np.sign(b)) * dtype(0.25)
        a = -np.abs(a)
        b[:, 1::2] *= -1
        b[100:] *= -1
        b[100:, 4] *= -1
    if case == "infinity":
        b[120, 3] = np.inf
    if case == "NaN":
        b[139, 0] = np.nan
    found = fpemu.matmul(a, b, fpemu.Sequential(format))
    assert_same_bits(found, sequential_matrix(a, b, format))
