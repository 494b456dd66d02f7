"""Strategies for users' tests: what they draw is what they say, and all of it can be drawn."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import fpemu
from fpemu import testing
from fpemu.reference import members, round_exact

NARROW = ("float4_e2m1fn", "float6_e2m3fn", "Binary4p2se", "Binary4p4uf", "float8_e8m0fnu")
FEW = hypothesis_settings(database=None, max_examples=2000, derandomize=True)


def drawn(strategy, count=400):
    """What a strategy draws, as a list."""
    found = []

    @testing.settings(
        max_examples=count, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(strategy)
    def draw(value):
        found.append(value)

    draw()
    return found


@pytest.mark.parametrize("name", NARROW)
def test_all_members_are_drawn_and_nothing_else(name):
    format = fpemu.format(name)
    everything = {(x, math.copysign(1, x)) for x in members(format)}
    numbers = drawn(testing.members(format, finite=True), 1000)
    found = {(x, math.copysign(1, x)) for x in numbers}
    assert found <= everything
    assert len(found) > 0.6 * len(everything)
    special = {x for x in drawn(testing.members(format)) if not math.isfinite(x)}
    assert (any(map(math.isnan, special)), math.inf in special, -math.inf in special) == (
        format.has_nan,
        format.infinities,
        format.infinities and format.signed,
    )


@pytest.mark.parametrize("name", ["float4_e2m1fn", "bfloat16", "float8_e5m2fnuz", "Binary4p4uf"])
def test_ties_are_as_near_to_one_neighbor_as_to_the_other(name):
    format = fpemu.format(name)
    beyond = 0
    for x in drawn(testing.ties(format)):
        if abs(x) > format.max_finite:
            beyond += 1
            unit = Fraction(2) ** (format.emax - format.precision + 1)
            assert Fraction(abs(x)) == Fraction(format.max_finite) + unit / 2
            continue
        below, above = (Fraction(round_exact(x, format, mode)) for mode in ("rtn", "rtp"))
        assert below < Fraction(x) < above
        assert below + above == 2 * Fraction(x)
    assert beyond or name == "bfloat16"


def test_ties_that_are_no_float64_numbers_are_refused():
    with pytest.raises(ValueError, match="the ties of float64 are not all float64 numbers"):
        testing.ties("float64")


def test_formats_of_every_kind_are_drawn():
    found = drawn(testing.formats(), 400)
    for holds in (
        lambda each: each.p3109,
        lambda each: not each.subnormals,
        lambda each: not each.signed,
        lambda each: each.bits > 32,
        lambda each: each.name in fpemu.formats.named_formats(),
        lambda each: each.high_nans == 3,
        lambda each: each.signed and not each.negative_zero and not each.p3109,
    ):
        assert any(map(holds, found))
    small = drawn(testing.formats(most_bits=5, subnormals=False), 100)
    assert all(each.bits <= 5 and not each.subnormals for each in small)
    assert find(testing.formats(), lambda each: True, settings=FEW).name == "float4_e2m1fn"
    with pytest.raises(ValueError, match=r"most_bits must lie in 3..64, not 2"):
        testing.formats(most_bits=2)


@testing.settings(max_examples=50, derandomize=True, database=None)
@given(st.data())
def test_numbers_are_finite_and_rounded_as_the_reference_rounds_them(data):
    format = data.draw(testing.formats(most_bits=16).filter(lambda each: each.has_nan))
    x = data.draw(testing.numbers(format))
    assert math.isfinite(x)
    expected = round_exact(x, format)
    actual = float(fpemu.round(x, format))
    assert actual == expected or (math.isnan(actual) and math.isnan(expected))


def test_a_wrong_rounding_is_found_and_shrunk():
    """Ties away from zero, taken for ties to even: what the strategies are for."""

    def differs(x):
        return fpemu.round(x, "bfloat16", "rna") != fpemu.round(x, "bfloat16")

    found = find(testing.numbers("bfloat16"), differs, settings=FEW)
    assert found == 2.0**-134  # half of the smallest number


def test_arrays_hold_members_in_the_carrier_of_the_format():
    for array in drawn(testing.arrays("float8_e4m3fn", (2, 3), finite=True), 20):
        assert array.shape == (2, 3)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(fpemu.round(array, "float8_e4m3fn"), array)


def test_hypothesis_is_asked_for_where_it_is_missing():
    program = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from fpemu import testing\n"
        "try: testing.members('bfloat16')\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'fpemu-lamp[hypothesis]' installs it" in run.stdout, run.stderr
