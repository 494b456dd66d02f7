"""AVX-512 BF16 and AMX, kernels and oracle, against processors: recorded ones, and this one.

What was recorded of a Zen 4 is no part of the project: it is looked for in the folder that the
environment variable FPEMU_CPU_VECTORS names, then in ``shared/cpu_vectors`` beside the repository.
"""

import functools
import os
from pathlib import Path

import numpy as np
import pytest

import fpemu
from fpemu import devices
from tests.oracle import pairs, silicon
from tests.oracle.units import UNITS, odd_first_addition

DATA = Path(__file__).parents[1] / "data"
FOLDER = Path(
    os.environ.get("FPEMU_CPU_VECTORS")
    or Path(__file__).resolve().parents[3] / "shared" / "cpu_vectors"
)
NAMES = {"vdpbf16ps": "intel.avx512.bfloat16", "tdpbf16ps": "intel.amx.bfloat16"}
TERMS = {"vdpbf16ps": (2, 2, 2, 2, 2, 2), "tdpbf16ps": (2, 32, 8, 16, 4, 6)}  # by kind
CASES = 1_000_000  # asked of this processor, of every instruction
TILE = 16


def same(x, y):
    """Where float32 numbers have the same bits, or are both NaN."""
    return (x.view(np.uint32) == y.view(np.uint32)) | (np.isnan(x) & np.isnan(y))


def computed(name, a, b, c):
    """Inner products of rows on the diagonals of small matrix products."""
    missing = -len(c) % TILE
    a, b = (np.pad(pairs.numbers(x), ((0, missing), (0, 0))) for x in (a, b))
    terms = a.shape[1]
    initial = np.zeros((len(a) // TILE, TILE, TILE), np.float32)
    diagonal = np.arange(TILE)
    initial[:, diagonal, diagonal] = np.pad(c, (0, missing)).reshape(-1, TILE)
    left, right = (x.reshape(-1, TILE, terms) for x in (a, b))
    product = fpemu.matmul(left, right.transpose(0, 2, 1), devices.get(name), c=initial)
    return product[:, diagonal, diagonal].reshape(-1)[: len(c)]


@functools.cache
def recorded(path):
    with np.load(path) as file:
        return dict(file)


def sets(path):
    """The recorded sets of a file: operands and results of each."""
    arrays = recorded(path)
    for key in arrays:
        if key.endswith("_out"):
            a, b, c, out = (
                arrays[key.removesuffix("out") + name] for name in ("a", "b", "c", "out")
            )
            yield key, (a, b, c.view(np.float32)), out.view(np.float32)


@pytest.mark.parametrize("instruction", NAMES)
def test_recorded_rows_are_reproduced(instruction):
    name = NAMES[instruction]
    for key, given, expected in sets(DATA / f"{instruction}.npz"):
        assert same(computed(name, *given), expected).all(), key


@pytest.mark.parametrize("instruction", NAMES)
def test_the_oracle_reproduces_recorded_rows(instruction):
    unit = UNITS[NAMES[instruction]]
    for key, (a, b, c), expected in sets(DATA / f"{instruction}.npz"):
        some = slice(None, None, 9)
        rows = zip(pairs.numbers(a)[some], pairs.numbers(b)[some], c[some], strict=True)
        result = np.array([unit(x.tolist(), y.tolist(), z.item()) for x, y, z in rows], np.float32)
        assert same(result, expected[some]).all(), key


@pytest.mark.skipif(
    not (FOLDER / "vdpbf16ps.npz").is_file(),
    reason=f"no recorded outputs of a Zen 4 in {FOLDER} (FPEMU_CPU_VECTORS names their folder)",
)
def test_rows_recorded_on_a_zen_4_are_reproduced():
    found = list(sets(FOLDER / "vdpbf16ps.npz"))
    assert len(found) == 5
    for key, given, expected in found:
        assert same(computed("intel.avx512.bfloat16", *given), expected).all(), key


@pytest.mark.parametrize("instruction", NAMES)
def test_this_processor_agrees(instruction):
    if reason := silicon.missing(instruction):
        pytest.skip(reason)
    generator = np.random.default_rng(15)
    for (kind, draw), terms in zip(pairs.KINDS.items(), TERMS[instruction], strict=True):
        given = draw(generator, -(-CASES // len(pairs.KINDS)), terms)
        try:
            expected = silicon.results(instruction, *given)
        except silicon.RefusedError as error:
            pytest.skip(str(error))
        actual = computed(NAMES[instruction], *given)
        wrong = np.flatnonzero(~same(actual, expected))
        assert not wrong.size, (kind, wrong.size, *(x[wrong[0]] for x in given))


def test_the_odd_element_comes_first_and_nothing_is_rounded_before_it_is_added():
    unit = devices.get("intel.avx512.bfloat16")
    a, b, c = (
        [float.fromhex(x) for x in line.split()]
        for line in ("0x1.d2p-2 -0x1.b2p-2", "0x1.b0p0 0x1.08p1", "-0x1.8dfca2p0")
    )
    assert fpemu.dot(a, b, unit, c=c[0]) == float.fromhex("-0x1.a92cap0")


@pytest.mark.parametrize("unit", ["intel.avx512.bfloat16", "intel.amx.bfloat16"])
def test_a_sum_is_tiny_if_it_is_so_in_24_bits(unit):
    """From 1 - 2**-25 on it becomes the smallest normal number; below that it is flushed."""
    for little, kept in ((-149, 0), (-150, 0), (-151, 1), (-152, 1)):
        for sign in (1.0, -1.0):
            # The chain of the even elements of AMX, the second step of AVX-512.
            a = [-sign * 2.0**-80, sign * 2.0**-63] if "512" in unit else None
            b = [2.0 ** (80 + little), 2.0**-63]
            if a is None:
                a, b = [sign * 2.0**-63, 0.0, -sign * 2.0**-80, 0.0], [b[1], 0.0, b[0], 0.0]
            result = fpemu.dot(a, b, devices.get(unit))
            assert result == sign * kept * 2.0**-126, (little, sign)
            assert UNITS[unit](a, b) == result


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_sum_that_float64_does_not_hold_is_tiny_or_not(sign):
    """Factors of 24 bits: 2**-126 - 2**-151 less 2**-187, and more by 2**-197."""
    unit = fpemu.Chained(2, "float32", order=(1, 0), through=True)
    for a, b, kept in (
        (1 + 2.0**-12, 1 - 2.0**-12 + 2.0**-24, 0),
        (1 + 2.0**-23, 1 - 2.0**-23, 1),
    ):
        given = [-sign * a * 2.0**-75, 0.0], [b * 2.0**-76, 0.0]
        result = fpemu.dot(*given, unit, c=sign * 2.0**-126)
        assert result == kept * sign * 2.0**-126
        formats = {f"{name}_format": fpemu.format("float32") for name in "ab"}
        assert odd_first_addition(*given, sign * 2.0**-126, **formats) == result


def test_amx_keeps_subnormal_float16_numbers_and_no_others():
    for name, kept in (("float16", 2.0**-24), ("bfloat16", 0.0), ("tf32", 0.0)):
        least = fpemu.format(name).smallest_subnormal
        large = 2.0**100 if name != "float16" else 1.0
        assert fpemu.dot([least], [large], devices.get(f"intel.amx.{name}")) == kept
    assert fpemu.dot([2.0**-14], [2.0**-14], devices.get("intel.amx.float16")) == 2.0**-28


def test_amx_tf32_cuts_its_operands_and_takes_sixteen_to_a_chain():
    unit = devices.get("intel.amx.tf32")
    assert fpemu.dot([np.float32(1 + 2.0**-11)], [1.0], unit) == 1.0
    small = [2.0**-12] * 16
    assert fpemu.dot(small, small, unit, c=1.0) == 1 + 2.0**-20
    assert fpemu.dot(small * 2, small * 2, unit, c=1.0) == 1 + 2.0**-19


def test_chained_parameters_are_checked():
    for options, message in (
        ({"chains": 3}, "block 8 must be a multiple of chains 3"),
        ({"order": (2, 0, 1)}, r"multiple of the length of order \(2, 0, 1\)"),
        ({"order": (0, 0)}, "permutation"),
        ({"order": ()}, "permutation"),
        ({"chains": 2, "through": True}, "through takes one chain, not 2"),
    ):
        with pytest.raises(ValueError, match=message):
            fpemu.Chained(8, "bfloat16", **options)
    with pytest.raises(ValueError, match="float32 numbers, not float64"):
        fpemu.Chained(8, "float64")
