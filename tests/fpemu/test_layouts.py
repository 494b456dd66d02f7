"""Arrays of every layout, in and out: kernels look at no bounds, so what they get is checked.

`test_everything_stays_within_bounds` runs this file again with Numba's bounds checks.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

import fpemu
from fpemu import functions, scaling
from fpemu._kernels import launching
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")

CHECKED = bool(os.environ.get("NUMBA_BOUNDSCHECK"))


class Own(np.ndarray):
    """A subclass that keeps its two dimensions, as numpy.matrix does."""

    def reshape(self, *shape, **options):
        return self


def numbers(shape):
    generator = np.random.default_rng(5)
    drawn = np.ldexp(generator.uniform(1, 2, shape), generator.integers(-3, 3, shape))
    return drawn.astype(np.float32)


A, B = numbers((40, 40)), numbers((40, 40))[::-1].copy()
FULL = fpemu.Rounding("sr", seed=3)
ENTRIES = {
    "round": lambda a, b, **out: fpemu.round(a, "bfloat16", **out),
    "round rto": lambda a, b, **out: fpemu.round(a, "bfloat16", "rto", **out),
    "round sr": lambda a, b, **out: fpemu.round(a, "bfloat16", FULL, **out),
    "add": lambda a, b, **out: fpemu.add(a, b, "bfloat16", **out),
    "add sr": lambda a, b, **out: fpemu.add(a, b, "bfloat16", FULL, **out),
    "subtract": lambda a, b, **out: fpemu.subtract(a, b, "bfloat16", **out),
    "multiply": lambda a, b, **out: fpemu.multiply(a, b, "bfloat16", **out),
    "divide": lambda a, b, **out: fpemu.divide(a, b, "bfloat16", **out),
    "sqrt": lambda a, b, **out: fpemu.sqrt(a, "bfloat16", **out),
    "fma": lambda a, b, **out: fpemu.fma(a, b, a, "bfloat16", **out),
    "exp": lambda a, b, **out: functions.exp(a, "bfloat16", **out),
    "exp sr": lambda a, b, **out: functions.exp(a, "bfloat16", FULL, **out),
    "relu": lambda a, b, **out: functions.relu(a, "bfloat16", **out),
    "sequential": lambda a, b, **out: fpemu.matmul(a, b, fpemu.Sequential("e8m7"), **out),
    "pairwise": lambda a, b, **out: fpemu.matmul(a, b, fpemu.Pairwise("e8m7"), **out),
    "exact": lambda a, b, **out: fpemu.matmul(a, b, fpemu.Exact("e8m7"), **out),
}
PRODUCTS = {
    "blocked": lambda a, b: fpemu.matmul(a, b, fpemu.Blocked("e8m7", 7)),
    "sequential sr": lambda a, b: fpemu.matmul(a, b, fpemu.Sequential("e8m7", FULL)),
    "units": lambda a, b: fpemu.matmul(a, b, fpemu.TensorCore(8, 23), convert="rne"),
    "promoted": lambda a, b: fpemu.matmul(
        a, b, fpemu.Promoted(fpemu.TensorCore(8, 13), "float32", 16), convert="rne"
    ),
    "running": lambda a, b: fpemu.matmul(a, b, fpemu.Sequential("e8m7"), running=True)[1].first,
    "encode": lambda a, b: fpemu.encode(a, "bfloat16", "rne"),
    "decode": lambda a, b: fpemu.decode(fpemu.encode(a, "float32"), "float32"),
    "softmax": lambda a, b: functions.softmax(a, "bfloat16"),
    "rms_norm": lambda a, b: functions.rms_norm(a, "bfloat16", weight=np.ravel(b)[: a.shape[1]]),
    "quantize": lambda a, b: scaling.quantize(a, "mxfp4").elements,
    "cumsum": lambda a, b: np.cumsum(fpemu.array(a, "bfloat16"), axis=0).values,
}


def within(values, layout):
    """An array of a layout, filled with NaN, and all the memory around it."""
    rows, columns = values.shape
    memory = np.full(rows * columns * 4 + 64, np.nan, np.float32)
    body = memory[16 : 16 + rows * columns].reshape(rows, columns)
    match layout:
        case "matrix":
            return body.view(np.matrix), memory
        case "own":
            return body.view(Own), memory
        case "fortran":
            return body.reshape(columns, rows).T, memory
        case "strided":
            every_other = memory[16 : 16 + 4 * rows * columns].reshape(2 * rows, 2 * columns)
            return every_other[::2, ::2], memory
        case "reversed":
            return body[::-1, ::-1], memory
        case "misaligned":
            raw = memory.view(np.uint8)[65 : 65 + 4 * rows * columns]
            return raw.view(np.float32).reshape(rows, columns), memory
    return body, memory


@for_each("layout", ["plain", "matrix", "own", "fortran", "strided", "reversed", "misaligned"])
@pytest.mark.parametrize("name", ENTRIES)
def test_out_of_any_layout_receives_the_result_and_nothing_beside_it_changes(name, layout):
    entry = ENTRIES[name]
    expected = entry(A, B)
    out, memory = within(expected, layout)
    before = memory.copy()
    assert entry(A, B, out=out) is out
    assert_same_bits(np.asarray(out), expected)
    np.asarray(out)[...] = np.nan
    if layout != "misaligned":
        assert_same_bits(memory, before)


def test_out_may_be_a_file(tmp_path):
    for name, entry in ENTRIES.items():
        expected = entry(A, B)
        out = np.memmap(tmp_path / "out", np.float32, "w+", shape=expected.shape)
        assert entry(A, B, out=out) is out
        assert_same_bits(np.fromfile(tmp_path / "out", np.float32).reshape(out.shape), expected)
        del out, name


@pytest.mark.parametrize("name", ENTRIES)
def test_out_may_be_an_operand_or_overlap_one(name):
    entry = ENTRIES[name]
    expected = entry(A, B)
    memory = np.zeros(A.size + 7, np.float32)
    for shift in (0, 3):
        operand = memory[: A.size].reshape(A.shape)
        operand[...] = A
        out = memory[shift : shift + A.size].reshape(A.shape)
        assert_same_bits(entry(operand, B, out=out), expected)


@pytest.mark.parametrize("name", ENTRIES)
def test_an_out_that_cannot_be_written_or_read_is_refused_before_anything_is_written(name):
    frozen = np.full(A.shape, np.nan, np.float32)
    frozen.flags.writeable = False
    masked = np.ma.masked_array(np.full(A.shape, np.nan, np.float32), mask=True)
    swapped = np.full(A.shape, np.nan, ">f4" if sys.byteorder == "little" else "<f4")
    for out, error in (
        (frozen, ValueError),
        (masked, TypeError),
        (swapped, TypeError),
        (np.full(A.shape, np.nan, np.float16), TypeError),
        (np.full((40, 41), np.nan, np.float32), ValueError),
        (np.full((1600,), np.nan, np.float32), ValueError),
        (np.asmatrix(np.full((1, 1600), np.nan, np.float32)), ValueError),
        ([[0.0]], TypeError),
    ):
        with pytest.raises(error, match="out"):
            ENTRIES[name](A, B, out=out)
        assert np.isnan(np.asarray(out, np.float64)).all() or isinstance(out, list)


@pytest.mark.parametrize(
    "call",
    [
        *(lambda x, entry=entry: entry(x, B) for entry in (ENTRIES | PRODUCTS).values()),
        lambda x: fpemu.encode(x, "float32"),
        lambda x: fpemu.decode(x.astype(np.uint8), "float8_e4m3fn"),
        lambda x: fpemu.pack(x.astype(np.uint8), "float8_e4m3fn"),
        lambda x: fpemu.unpack(x.astype(np.uint8), "float8_e4m3fn"),
        lambda x: fpemu.array(x, "float32"),
        lambda x: fpemu.array(A, "float32") + x,
        lambda x: fpemu.array(A, "float32") < x,
        lambda x: fpemu.scaling.quantize(x, "mxfp4"),
        lambda x: fpemu.functions.softmax(x, "float32"),
    ],
)
def test_masked_elements_are_not_taken_for_numbers(call):
    with pytest.raises(TypeError, match="masked"):
        call(np.ma.masked_array(np.ones_like(A), mask=np.eye(len(A), A.shape[1])))


@pytest.mark.parametrize("name", [*ENTRIES, *PRODUCTS])
def test_operands_of_any_layout_are_read_alike(name):
    entry = (ENTRIES | PRODUCTS)[name]
    expected = entry(A, B)
    for layout in ("matrix", "own", "fortran", "strided", "reversed", "misaligned"):
        held, memory = within(A, layout)
        np.asarray(held)[...] = A
        operands = [held, np.asarray(held).astype(">f4")]
        if name != "round sr":  # whose float64 elements draw more bits
            operands.append(np.asarray(held, np.float64))
        for operand in operands:
            result = entry(operand, B)
            assert type(result) is np.ndarray
            assert_same_bits(np.asarray(result, np.float64), np.asarray(expected, np.float64))
        del memory


@pytest.mark.parametrize("name", PRODUCTS)
def test_operands_of_odd_shapes_stay_within_bounds(name):
    entry = PRODUCTS[name]
    for rows, steps in ((1, 1), (3, 5), (5, 33), (2, 64), (65, 2)):
        result = entry(A.ravel()[: rows * steps].reshape(rows, steps), numbers((steps, rows)))
        assert np.isfinite(np.asarray(result, np.float64)).all()


def test_what_is_launched_is_a_plain_array_of_the_shape_that_is_indexed():
    matrix = np.asmatrix(np.zeros((3, 3)))
    for wrong in (matrix, np.zeros(3, ">f8"), np.zeros(25, np.uint8)[1:].view(np.float64)):
        for argument in (wrong, (np.zeros(3), (wrong,))):
            with pytest.raises(TypeError, match="plain numpy arrays"):
                launching.run(print, 3, argument)
    with pytest.raises(ValueError, match=r"shape \(3,\), not \(2,\)"):
        launching.require_shapes((np.zeros(3), (3,)), (np.zeros(2), (3,)))


@pytest.mark.long
@pytest.mark.skipif(CHECKED, reason="this is the run with bounds checks")
def test_everything_stays_within_bounds(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
