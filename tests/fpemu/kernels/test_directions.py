"""Operations that are rounded toward zero, and nothing beside them."""

import ctypes
import platform
import re

import numba
import numpy as np
import pytest
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

import fpemu
from fpemu._kernels import directions
from fpemu._kernels.narrow_blocks import arrays_of
from fpemu._kernels.vectors import FLOATS, INT64, INTS, LANES, Vectors
from tests.oracle.flushing import UPWARD

needs_directions = pytest.mark.skipif(
    not directions.ARE_THERE, reason="this processor has no multiply-adds toward zero"
)
needs_control = pytest.mark.skipif(
    not directions.ARE_THERE or directions.ARE_NAMED,
    reason="this processor rounds toward zero in another way",
)


def of_arrays(emit, apart):
    """An intrinsic of a tuple of arrays, with code that reads and writes them."""

    def typed(_typing_context, arrays):
        def generate(context, builder, signature, arguments):
            pointers = arrays_of(context, builder, signature.args[0], arguments[0])
            if apart:
                return directions.call_apart(builder, emit, [pointers])
            return emit(builder, pointers)

        return types.boolean(arrays), generate

    return intrinsic(typed)


def emit_sum(builder, pointers):
    vectors = Vectors(builder)
    given = [vectors.load(pointer, INT64(0), FLOATS) for pointer in pointers[:3]]
    total = directions.multiplied_and_added(builder, *given)
    vectors.store(total, pointers[3], INT64(0))
    return ir.IntType(1)(0)


def emit_converted(builder, pointers):
    vectors = Vectors(builder)
    integers = vectors.load(pointers[0], INT64(0), INTS)
    vectors.store(directions.converted(builder, integers), pointers[1], INT64(0))
    return ir.IntType(1)(0)


add, convert = of_arrays(emit_sum, apart=True), of_arrays(emit_converted, apart=False)


@numba.njit
def summed(a, b, total, out, after):
    before = directions.turn_toward_zero()
    add((a, b, total, out))
    directions.turn_back(before)
    after[0] = after[1] + after[2]


@numba.njit
def converted(integers, out):
    convert((integers, out))


def numbers(seed):
    """Factors, and totals that they move by some of their last bits, of both signs."""
    generator = np.random.default_rng(seed)
    a, b, total = generator.standard_normal((3, LANES)).astype(np.float32)
    return a, b, total * np.float32(2.0) ** generator.integers(-3, 20, LANES).astype(np.float32)


@needs_directions
@pytest.mark.parametrize("seed", range(20))
def test_a_sum_is_rounded_toward_zero_and_the_next_one_to_nearest(seed):
    a, b, total = numbers(seed)
    out = np.zeros(LANES, np.float32)
    # To nearest 1 + 2**-24 + 2**-50 is rounded up.
    after = np.array([0.0, 1.0, 2.0**-24 * (1.0 + 2.0**-20)], np.float32)
    summed(a, b, total, out, after)
    assert np.array_equal(out, fpemu.fma(a, b, total, "float32", rounding="rtz"))
    assert not np.array_equal(out, fpemu.fma(a, b, total, "float32"))
    assert after[0] == np.float32(1.0 + 2.0**-23)


@needs_control
def test_the_direction_is_that_of_before():
    library = ctypes.CDLL(None)
    given = (*numbers(0), np.zeros(LANES, np.float32), np.zeros(3, np.float32))
    summed(*given)
    for direction in (0, UPWARD[platform.machine()]):
        library.fesetround(direction)
        summed(*given)
        found = library.fegetround()
        library.fesetround(0)
        assert found == direction


@needs_control
def test_sums_toward_zero_lie_in_a_function_of_their_own():
    """The compiler takes others to be to nearest, and might move them across what turns."""
    summed(*numbers(0), np.zeros(LANES, np.float32), np.zeros(3, np.float32))
    (assembly,) = summed.inspect_asm().values()
    apart = re.search(r"^toward_zero[^\n]*:\n.*?^\.Lfunc_end", assembly, re.DOTALL | re.MULTILINE)
    assert len(re.findall("vfmadd", apart[0])) == len(re.findall("vfmadd", assembly)) > 0
    assert "mxcsr" in assembly
    assert "mxcsr" not in apart[0]


def test_integers_are_converted_toward_zero():
    generator = np.random.default_rng(0)
    powers = 2 ** np.arange(31, dtype=np.int64)
    near = (powers[:, np.newaxis] + np.arange(-70, 71)).ravel()
    ones = (powers[:, np.newaxis] * 2 - powers).ravel()  # ones above zeros
    some = generator.integers(-(2**31), 2**31, 10000)
    few = some >> generator.integers(0, 31, some.size)
    given = np.concatenate([near, -near, ones, -ones, some, few, [-(2**31), 2**31 - 1, 0]])
    given = given[(given >= -(2**31)) & (given < 2**31)]
    given = np.resize(given, -(-given.size // LANES) * LANES)
    out = np.empty((given.size // LANES, LANES), np.float32)
    for integers, to in zip(given.reshape(out.shape), out, strict=True):
        converted(integers.astype(np.int32), to)
    # Leading 24 bits of magnitudes, which float64 holds.
    fraction, exponent = np.frexp(given.astype(np.float64))
    expected = np.ldexp(np.trunc(np.ldexp(fraction, 24)), exponent - 24)
    assert np.array_equal(out.ravel(), expected)
    assert not np.signbit(out.ravel()[given == 0]).any()
