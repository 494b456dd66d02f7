"""Facts about matrix units worked out by hand, against the oracle's units."""

import math
import random
import re
from fractions import Fraction

import pytest

from fpemu import formats
from fpemu.reference import decode_exact, round_exact
from tests.cases import for_each
from tests.oracle import units
from tests.oracle.units import NAN_CODES, UNITS, promoted

NVIDIA = ("volta", "turing", "ampere", "ada", "hopper", "blackwell", "rtx-blackwell")
INFINITY = math.inf
LARGEST_FLOAT32 = formats.float32.max_finite


def power(exponent: int) -> float:
    return math.ldexp(1.0, exponent)


def same(x: float, y: float) -> bool:
    """Equal as floats with their signs of zero, or both NaN."""
    if math.isnan(x) or math.isnan(y):
        return math.isnan(x) and math.isnan(y)
    return x == y and math.copysign(1.0, x) == math.copysign(1.0, y)


# --- Names ------------------------------------------------------------------------------------


def test_names_have_the_stated_form():
    form = r"[a-z0-9-]+\.[a-z0-9-]+\.[a-z0-9-]+(\.float16)?"
    assert all(re.fullmatch(form, name) for name in UNITS)
    assert all(UNITS[name].name == name for name in UNITS)


def test_float16_output_takes_a_float16_c():
    for name, unit in UNITS.items():
        narrow = name.endswith(".float16") and name.count(".") == 3
        assert (unit.c_format == formats.float16) is narrow


# --- NVIDIA: alignment ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kept", "lost"),
    [
        ("volta.mma.float16", -23, -24),
        ("turing.mma.float16", -24, -25),
        ("ampere.mma.float16", -24, -25),
        ("ampere.mma.bfloat16", -24, -25),
        ("ada.mma.tf32", -24, -25),
        ("ada.mma.e4m3", -13, -14),
        ("hopper.wgmma.float16", -25, -26),
        ("hopper.wgmma.tf32", -25, -26),
        ("hopper.wgmma.e5m2", -13, -14),
        ("blackwell.tcgen05.e5m2", -25, -26),
        ("rtx-blackwell.mma.bfloat16", -25, -26),
    ],
)
def test_a_term_below_the_fraction_bits_is_lost_whole(name, kept, lost):
    # 1 - 1 + a term: the 1 sets the exponent, and what is left shows the term itself.
    unit = UNITS[name]
    for exponent, result in ((kept, power(kept)), (lost, 0.0)):
        small = power(exponent // 2), power(exponent - exponent // 2)
        assert unit([1.0, small[0]], [1.0, small[1]], -1.0) == result
        assert unit([1.0, -small[0]], [1.0, small[1]], -1.0) == -result


def test_volta_loses_small_terms_where_ampere_adds_them():
    a = b = [power(-12)] * 4
    assert UNITS["volta.mma.float16"](a, b, 1.0) == 1.0
    assert UNITS["ampere.mma.float16"](a, b, 1.0) == 1.0 + power(-22)


def test_truncation_is_toward_zero_on_both_sides():
    # A product of 2**-25 disappears in alignment, beside -1 as beside 1.
    unit = UNITS["ampere.mma.float16"]
    small = [power(-12)], [power(-13)]
    assert unit(*small, -1.0) == -1.0
    assert unit(*small, 1.0) == 1.0
    # Three of 2**-24 stay, but the sum lies half a unit above 1 + 2**-23 and is truncated.
    three = [power(-12)] * 3
    assert unit(three, three, 1.0) == 1.0 + power(-23)
    assert unit([-x for x in three], three, -1.0) == -1.0 - power(-23)


def test_truncation_never_enlarges_a_sum_of_one_sign():
    generator = random.Random(1)
    for name in ("volta.mma.float16", "ada.mma.e5m2", "hopper.wgmma.bfloat16"):
        unit = UNITS[name]
        for _ in range(50):
            a = [round_exact(generator.random(), unit.input_formats[0]) for _ in range(unit.terms)]
            b = [round_exact(generator.random(), unit.input_formats[0]) for _ in range(unit.terms)]
            exact = sum(Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True))
            assert 0 <= exact - Fraction(unit(a, b)) <= exact * (unit.terms + 1) * 2**-13
            assert unit(a, [-y for y in b]) == -unit(a, b)


def test_the_order_of_the_terms_does_not_matter():
    generator = random.Random(2)
    unit = UNITS["hopper.wgmma.float16"]
    pairs = [
        (power(generator.randrange(-14, 10)) * generator.choice([-1.5, 1.25]), generator.random())
        for _ in range(16)
    ]
    pairs = [(x, round_exact(y, "float16")) for x, y in pairs]
    results = set()
    for _ in range(20):
        generator.shuffle(pairs)
        results.add(unit([x for x, _ in pairs], [y for _, y in pairs], 0.375))
    assert len(results) == 1


def test_no_carry_is_lost():
    # 32 products of (2 - 2**-3)**2 times 2**16 reach 17 bits above the alignment's binade.
    unit = UNITS["blackwell.tcgen05.e4m3"]
    assert unit([1.875 * 256] * 32, [1.875 * 128] * 32, 0.0) == 32 * 1.875**2 * 2**15


def test_with_fraction_bits_for_everything_only_the_output_rounds():
    generator = random.Random(3)
    unit = UNITS["hopper.wgmma.bfloat16"].changed(fraction_bits=600)
    truncated = UNITS["kulisch.exact.bfloat16"].changed(output=units.FLOAT32_TRUNCATED)
    for _ in range(100):
        numbers = (
            math.ldexp(generator.uniform(-2, 2), generator.randrange(-70, 60)) for _ in range(32)
        )
        members = [round_exact(x, formats.bfloat16) for x in numbers]
        a, b = members[:16], members[16:]
        c = round_exact(generator.uniform(-1, 1), "float32")
        assert same(unit(a, b, c), truncated(a, b, c))


# --- NVIDIA: floors and subnormal numbers ------------------------------------------------------


@pytest.mark.parametrize(
    ("floor", "result"),
    [(-133, "0x1.6p-146"), (None, "0x1.6p-146"), (-126, "0x1.4p-146")],
)
def test_zeros_do_not_take_part_with_exponent_minus_126(floor, result):
    # Eight products of 11 * 2**-152.  At -126 each loses its low bit, 2**-152 (F = 25).
    unit = UNITS["hopper.wgmma.bfloat16"].changed(floor=floor)
    a = [1.375 * power(-74)] * 8 + [0.0] * 8
    b = [power(-75)] * 8 + [1.0] * 8
    assert unit(a, b, 0.0) == float.fromhex(result)


@pytest.mark.parametrize("name", ["ampere.mma", "ada.mma", "hopper.wgmma", "blackwell.tcgen05"])
def test_the_floor_of_float32_results_ends_their_exactness(name):
    # 2**-149 less one quantum of the alignment, and that quantum: a bit finer and both are lost.
    unit = UNITS[f"{name}.bfloat16"]
    quantum = unit.parameters["floor"] - unit.parameters["fraction_bits"]
    factors = {-156: (1, 127), -158: (7, 73)}[quantum]  # 2**(-149-quantum) - 1
    half = quantum // 2
    a = [factors[0] * power(half), power(half)]
    b = [factors[1] * power(quantum - half), power(quantum - half)]
    assert unit(a, b) == power(-149)
    assert unit.changed(floor=unit.parameters["floor"] + 1)(a, b) == 0.0
    assert unit.changed(floor=None)(a, b) == power(-149)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("volta.mma", -42), ("ampere.mma", -44), ("ada.mma", -44), ("hopper.wgmma", -46)],
)
def test_the_floor_of_float16_results_decides_ties(name, kept):
    # 2**-25 is half the smallest float16 number: what is left of a tiny product decides.
    unit = UNITS[f"{name}.float16.float16"]
    for exponent, result in ((kept, power(-24)), (kept - 1, 0.0)):
        tiny = power(-22), power(exponent + 22)
        assert unit([power(-12), tiny[0]], [power(-13), tiny[1]]) == result


def test_a_subnormal_input_keeps_the_exponent_emin():
    # 2**-133 as a subnormal bfloat16 aligns at -126 and costs fifteen terms of 2**-152 their lives;
    # as a product of normal numbers it aligns at -133.
    unit = UNITS["hopper.wgmma.bfloat16"]
    tiny = [power(-76)] * 15
    assert unit([power(-133), *tiny], [1.0, *tiny]) == power(-133)
    assert unit([power(-66), *tiny], [power(-67), *tiny]) == power(-133) + power(-149)


def test_subnormal_outputs_are_kept():
    assert UNITS["ampere.mma.bfloat16"]([power(-100)], [power(-49)]) == power(-149)
    assert UNITS["ampere.mma.float16.float16"]([power(-12)], [power(-12)]) == power(-24)
    # The container's low ten bits stay zero among the subnormal numbers too.
    assert UNITS["hopper.wgmma.e4m3"]([0.0], [0.0], power(-139)) == power(-139)
    assert UNITS["hopper.wgmma.e4m3"]([0.0], [0.0], power(-140)) == 0.0


# --- NVIDIA: special values --------------------------------------------------------------------


@for_each(
    "a, b, c, result",
    [
        ([1.0, math.nan], [1.0, 1.0], 0.0, math.nan),
        ([1.0, 1.0], [1.0, 1.0], math.nan, math.nan),
        ([math.nan, INFINITY], [0.0, 1.0], -INFINITY, math.nan),
        ([INFINITY, 1.0], [0.0, 1.0], 0.0, math.nan),
        ([INFINITY, 1.0], [1.0, -INFINITY], 0.0, math.nan),
        ([INFINITY, 1.0], [1.0, 1.0], -INFINITY, math.nan),
        ([INFINITY, 1.0], [-2.0, 1.0], -INFINITY, -INFINITY),
        ([INFINITY, 1.0], [2.0, 1.0], -LARGEST_FLOAT32, INFINITY),
        ([1.0, 1.0], [1.0, 1.0], -INFINITY, -INFINITY),
        ([-0.0, 0.0], [1.0, -1.0], -0.0, 0.0),
        ([1.0, -1.0], [1.0, 1.0], 0.0, 0.0),
        ([-1.0, 0.0], [1.0, 0.0], 1.0, 0.0),
    ],
)
@pytest.mark.parametrize("architecture", NVIDIA)
def test_special_values(architecture, a, b, c, result):
    instruction = {"hopper": "wgmma", "blackwell": "tcgen05"}.get(architecture, "mma")
    assert same(UNITS[f"{architecture}.{instruction}.float16"](a, b, c), result)


def test_the_canonical_nans_are_nans_of_their_formats():
    for format, code in NAN_CODES.items():
        assert math.isnan(decode_exact(code, format))


def test_overflow_is_infinity_also_toward_zero():
    unit = UNITS["ampere.mma.bfloat16"]
    assert unit([power(127)], [1.0], power(127)) == INFINITY
    assert unit([-power(127)], [1.0], -power(127)) == -INFINITY
    # Below 2**128 truncation ends at the largest number.
    assert unit([power(103)], [1.0], LARGEST_FLOAT32 - power(104)) == LARGEST_FLOAT32 - power(104)
    assert unit([power(104)], [1.0], LARGEST_FLOAT32 - power(104)) == LARGEST_FLOAT32
    assert unit([power(104)], [1.0], LARGEST_FLOAT32) == INFINITY
    half = UNITS["ampere.mma.float16.float16"]
    assert half([15.9921875], [1.0], 65504.0) == 65504.0
    assert half([16.0], [1.0], 65504.0) == INFINITY


def test_products_beyond_float32_are_only_numbers():
    # The products cancel; c was too small for their exponent.
    unit = UNITS["hopper.wgmma.bfloat16"]
    big = power(127)
    assert same(unit([big, -big], [big, big], 1.0), 0.0)
    assert unit([big, big], [big, -1.5 * power(126)], 0.0) == INFINITY


# --- NVIDIA: instructions and their chains ------------------------------------------------------


def test_a_long_product_chains_instructions():
    # The 1 in the first eight outweighs each later instruction's sum of 2**-25 terms on Ampere.
    unit = UNITS["ampere.mma.float16"]
    a = [1.0] + [0.0] * 7 + [power(-12)] * 8
    b = [1.0] + [0.0] * 7 + [power(-13)] * 8
    assert unit(a, b) == 1.0
    assert unit(a[8:] + a[:8], b[8:] + b[:8]) == 1.0 + power(-22)


def test_padding_with_zeros_changes_nothing():
    for name in ("ada.mma.e5m2", "hopper.mma.e5m2", "cdna2.mfma.float16", "cdna3.mfma.float16"):
        unit = UNITS[name]
        a, b = [1.5, -0.25, 3.0], [0.75, 2.0, -0.125]
        assert unit(a, b, 0.1) == unit([*a, *[0.0] * 29], [*b, *[0.0] * 29], 0.1)


def test_tf32_operands_are_cut_to_ten_bits():
    unit = UNITS["ampere.mma.tf32"]
    assert unit([1.0 + power(-10) + power(-11)], [-1.0]) == -1.0 - power(-10)
    assert unit([-1.0 - power(-11) - power(-23)], [1.0]) == -1.0


def test_hopper_fp8_keeps_fourteen_bits_and_promotion_repairs_it():
    unit = UNITS["hopper.wgmma.e4m3"]
    small = [power(-7)] * 4096
    assert unit(small, small, 1.0) == 1.0
    assert promoted(unit, small, small, 1.0) == 1.25
    assert UNITS["blackwell.tcgen05.e4m3"](small, small, 1.0) == 1.25


def test_promotion_restarts_the_sum_and_rounds_to_nearest():
    unit = UNITS["hopper.wgmma.e5m2"]
    a = [1.0] + [0.0] * 127 + [power(-12), power(-13)]
    b = [1.0] + [0.0] * 127 + [power(-12), power(-12)]
    # 2**-24 + 2**-25 is beyond half the spacing of float32 above 1.
    assert promoted(unit, a, b) == 1.0 + power(-23)
    assert promoted(unit, a, b, interval=256) == 1.0


def test_mma_fp8_takes_two_steps_and_adds_c_apart():
    unit = UNITS["hopper.mma.e5m2"]
    small = power(-12)

    def products(*indices: int) -> list[float]:
        return [1.0 if i == 0 else small if i in indices else 0.0 for i in range(32)]

    # Two terms of 2**-24 count if they meet in one step: 0, 1, 4, 5, ... and 2, 3, 6, 7, ...
    for indices in ((1, 4), (2, 3), (6, 31), (5, 29)):
        assert unit(products(*indices), products(*indices)) == 1.0 + power(-23)
    for indices in ((1, 2), (4, 7), (29, 30)):
        assert unit(products(*indices), products(*indices)) == 1.0
    # c enters an ordinary addition to nearest; a fused one would lose it.
    assert unit([1.0], [1.0], 3 * power(-25)) == 1.0 + power(-23)
    assert UNITS["hopper.wgmma.e5m2"]([1.0], [1.0], 3 * power(-25)) == 1.0
    assert UNITS["blackwell.mma.e5m2"]([1.0], [1.0], power(-24)) == 1.0
    assert same(unit([0.0], [1.0], -0.0), 0.0)


def test_mma_fp8_rounds_each_step_into_the_output():
    # 1 + 2**-11 is a tie of float16, and each step's goes to 1.
    unit = UNITS["hopper.mma.e5m2.float16"]
    a = [1.0, power(-5), power(-5), 0.0]
    b = [1.0, power(-6), power(-6), 0.0]
    assert unit(a, b) == 1.0
    assert UNITS["blackwell.tcgen05.e5m2.float16"](a, b) == 1.0 + power(-10)


# --- NVIDIA: block scaling ----------------------------------------------------------------------


def test_scales_multiply_the_products_of_their_block():
    unit = UNITS["blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32"]
    a, b = [1.5] * 64, [1.0] * 64
    assert unit(a, b, 0.5, [2.0, 8.0], [4.0, 0.25]) == 0.5 + 48 * 8 + 48 * 2


def test_scales_take_part_in_the_alignment():
    unit = UNITS["blackwell.tcgen05-mxf8f6f4.e5m2-e8m0-32"]
    assert unit([1.0], [1.0], 1.0, [power(-13)], [power(-12)]) == 1.0
    assert unit([1.0, 1.0], [1.0, -1.0], power(-25), [1.0], [1.0]) == power(-25)
    assert unit([1.0, 1.0], [1.0, -1.0], power(-25), [2.0], [1.0]) == 0.0
    assert unit([1.0], [1.0], 0.0, [power(127)], [power(127)]) == INFINITY


@pytest.mark.parametrize(
    "name",
    ["blackwell.tcgen05-mxf8f6f4.e2m1-e8m0-32", "rtx-blackwell.mma-mxf4nvf4.e2m1-ue4m3-16"],
)
def test_a_nan_scale_gives_nan(name):
    assert math.isnan(UNITS[name]([1.0], [1.0], 0.0, [math.nan], [1.0]))
    assert math.isnan(UNITS[name]([0.0], [0.0], INFINITY, [1.0], [math.nan]))


def test_groups_of_sixteen_are_exact_and_align_by_their_scales():
    unit = UNITS["blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16"]
    a, b, ones = [6.0] * 32, [6.0] * 16 + [-6.0] * 16, [1.0, 1.0]
    # The sums of 576 have the exponent 0 of their scales: 35 bits reach down to 2**-35.
    assert unit(a, b, power(-35), ones, ones) == power(-35)
    assert unit(a, b, power(-36), ones, ones) == 0.0
    assert unit(a, b, power(-35), [1.5, 1.5], [1.0, 1.0]) == power(-35)
    assert unit(a, b, power(-35), [2.0, 2.0], [1.0, 1.0]) == 0.0
    # A group that cancels aligns by its scales, one of zero products does not.
    assert unit(b, [1.0] * 32, power(-36), [1.0, 1.0], [1.0, 1.0]) == 0.0
    cancelled = [6.0, -6.0] * 8
    assert unit(cancelled, [1.0] * 16, power(-36), [448.0], [1.0]) == 0.0
    assert unit([0.0] * 16, [1.0] * 16, power(-36), [448.0], [1.0]) == power(-36)


def test_scale_significands_multiply_the_group():
    unit = UNITS["blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16"]
    assert unit([1.0] * 16, [0.5] * 16, 0.0, [1.125], [1.875]) == 8 * 1.125 * 1.875
    assert unit([1.0] * 16, [1.0] * 16, 0.0, [power(-9)], [0.0]) == 0.0


def test_a_block_of_thirty_two_covers_two_groups():
    unit = UNITS["blackwell.tcgen05-mxf4nvf4.e2m1-e8m0-32"]
    a, b = [1.0] * 128, [1.0] * 128
    assert unit(a, b, 0.0, [1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 1.0, 2.0]) == 32 * (1 + 2 + 4 + 16)


# --- float64, CPUs, exact -----------------------------------------------------------------------


def test_float64_units_round_each_fma_once():
    unit = UNITS["ampere.mma.float64"]
    x = 1.0 + power(-30)
    assert unit([x, -1.0], [x, 1.0]) == power(-29)
    assert unit([x], [x], -1.0) == power(-29) + power(-60)
    assert unit([1.0, 1.0], [1.0, power(-53)]) == 1.0
    assert unit([1.0, 1.0], [power(-53), 1.0], power(-53)) == 1.0 + power(-52)
    assert same(unit([1.0], [-1.0], 1.0), 0.0)
    assert same(unit([-0.0], [1.0], -0.0), -0.0)


def test_arm_rounds_to_odd():
    unit = UNITS["arm.bfdot.bfloat16"]
    assert unit([1.0, power(-20)], [1.0, power(-20)]) == 1.0 + power(-23)
    assert unit([1.0, 1.0], [1.0, 2.0]) == 3.0
    assert unit([1.0, -power(-20)], [1.0, power(-20)]) == 1.0 - power(-24)
    assert UNITS["intel.amx.bfloat16"]([1.0, power(-20)], [1.0, power(-20)]) == 1.0


@pytest.mark.parametrize("name", ["intel.amx", "intel.avx512", "arm.bfdot", "arm.bfmmla"])
def test_processors_flush_subnormal_numbers(name):
    unit = UNITS[f"{name}.bfloat16"]
    assert same(unit([power(-127)], [power(100)]), 0.0)
    assert same(unit([power(-63)], [power(-64)]), 0.0)
    assert unit([power(-63)], [power(-63)]) == power(-126)
    assert unit([0.0], [0.0], power(-127)) == 0.0
    assert unit([power(-63) * 1.5, -power(-63)], [power(-63), power(-63)]) == 0.0
    # A sign survives the flush where nothing else is added, but AMX's chains start at +0.
    zero = 0.0 if name == "intel.amx" else -0.0
    assert same(unit([-power(-127), -0.0], [1.0, 1.0], -0.0), zero)


def test_processors_add_in_different_orders():
    a = b = [power(-12)] * 2
    # Before c: AMX in chains, Arm in pairs, which it rounds to odd.  After c, the odd one first.
    assert UNITS["intel.amx.bfloat16"](a, b, 1.0) == 1.0 + power(-23)
    assert UNITS["arm.bfdot.bfloat16"](a, b, 1.0) == 1.0 + power(-23)
    assert UNITS["intel.avx512.bfloat16"](a, b, 1.0) == 1.0
    assert UNITS["intel.avx512.bfloat16"]([power(-12), 1.0], [power(-12), 1.0], -1.0) == power(-24)
    assert UNITS["intel.avx512.bfloat16"]([1.0, power(-12)], [1.0, power(-12)], -1.0) == power(-24)
    assert UNITS["intel.avx512.bfloat16"]([1.0, power(-12)], [-1.0, power(-12)], 1.0) == 0.0
    # Even and odd elements are chains of their own: 1 in one, what it would swallow in the other.
    small = [power(-12)] * 2
    assert UNITS["intel.amx.bfloat16"](
        [1.0, *small[:1], 0.0, *small[1:]], [1.0, *small[:1], 0.0, *small[1:]]
    ) == 1.0 + power(-23)
    assert (
        UNITS["intel.amx.bfloat16"]([1.0, 0.0, power(-12), 0.0], [1.0, 0.0, power(-12), 0.0]) == 1.0
    )


def test_an_exact_sum_rounds_once():
    unit = UNITS["kulisch.exact.float32"]
    assert unit([1e30, 1.0, -1e30], [1e8, power(-24), 1e8], 1.0) == 1.0
    assert unit([1.0, 1.0], [power(-24), power(-149)], 1.0) == 1.0 + power(-23)
    assert math.isnan(unit([INFINITY, -INFINITY], [1.0, 1.0]))


# --- AMD ----------------------------------------------------------------------------------------


def test_cdna1_sums_a_group_exactly():
    a = b = [1.0, power(-12), power(-12), 0.0]
    assert UNITS["cdna1.mfma.float16"](a, b) == 1.0 + power(-23)
    # In pairs the small terms of different halves would not meet.
    assert UNITS["cdna2.mfma.float16"](a, b) == 1.0
    # Two terms of bfloat16 make a group, and four of float16.
    small = [power(-12)] * 4
    assert UNITS["cdna1.mfma.bfloat16"](small[:2], small[:2], 1.0) == 1.0 + power(-23)
    assert UNITS["cdna1.mfma.bfloat16"]([power(-12), 0.0] * 2, small, 1.0) == 1.0


def test_bfloat16_groups_are_pairs_and_fours():
    a = b = [power(-12), 0.0, power(-12), 0.0]
    assert UNITS["cdna2.mfma.bfloat16"](a, b, 1.0) == 1.0
    assert UNITS["cdna2.mfma-1k.bfloat16"](a, b, 1.0) == 1.0 + power(-23)


def test_cdna2_flushes_subnormal_numbers_and_cdna1_keeps_them():
    tiny, small = [power(-24)], [power(-63)]
    assert UNITS["cdna1.mfma.float16"](tiny, [1.0]) == power(-24)
    assert same(UNITS["cdna2.mfma.float16"](tiny, [1.0]), 0.0)
    assert UNITS["cdna1.mfma.bfloat16"](small, [power(-64)]) == power(-127)
    assert same(UNITS["cdna2.mfma.bfloat16"](small, [power(-64)]), 0.0)
    assert UNITS["cdna2.mfma.bfloat16"](small, small) == power(-126)
    # Inputs become +0, c among them, and zeros as well.
    pair = [-power(-63), -power(-63)], [power(-64), power(-65)]
    assert same(UNITS["cdna2.mfma.bfloat16"](*pair, -0.0), 0.0)
    assert same(UNITS["cdna2.mfma.bfloat16"]([-0.0, -0.0], [1.0, 1.0], -power(-130)), 0.0)


def test_cdna3_is_not_symmetric_in_sign():
    unit = UNITS["cdna3.mfma.float16"]
    assert unit([1.0], [1.0], power(-30)) == 1.0
    assert unit([1.0], [1.0], -power(-30)) == 1.0 - power(-24)
    assert unit([-1.0], [1.0], power(-30)) == -1.0
    # Products that cancel leave their exponent: a small negative c becomes a unit of it.
    assert unit([1.0, -1.0], [1.0, 1.0], -power(-30)) == -power(-24)
    assert unit([1.0, -1.0], [1.0, 1.0], power(-30)) == 0.0


def test_cdna3_keeps_thirty_one_bits_of_the_products():
    unit = UNITS["cdna3.mfma.float16"]
    # A tie of float32, and what the 31 bits leave of a second product beside it.
    for exponent, result in ((-31, 1.0 + power(-23)), (-32, 1.0)):
        a = [power(-12), power(-14)]
        b = [power(-12), power(exponent + 14)]
        assert unit(a, b, 1.0) == result


def test_cdna3_truncates_products_to_the_largest():
    unit = UNITS["cdna3.mfma.float16"]
    for sign in (1.0, -1.0):
        assert unit([1.0, -1.0, sign * power(-12)], [1.0, 1.0, power(-13)]) == 0.0
        assert unit([1.0, -1.0, sign * power(-12)], [1.0, 1.0, power(-12)]) == sign * power(-24)


def test_cdna3_takes_products_beyond_float32_for_infinities():
    unit = UNITS["cdna3.mfma.bfloat16"]
    big = power(64)
    assert unit([big], [big]) == INFINITY
    assert unit([big], [-big], LARGEST_FLOAT32) == -INFINITY
    assert math.isnan(unit([big, big], [big, -big]))
    assert unit([big, -big], [power(63), power(63)], 1.0) == 0.0


def test_cdna3_cuts_xf32_operands():
    assert UNITS["cdna3.mfma.tf32"]([-1.0 - power(-11)], [1.0]) == -1.0


def test_cdna3_fp8_drops_a_small_c():
    unit = UNITS["cdna3.mfma.e4m3fnuz"]
    assert unit([1.0], [1.0], -power(-25)) == 1.0 - power(-24)
    assert unit([1.0], [1.0], -power(-26)) == 1.0
    assert unit([1.0], [1.0], -power(-26) * 1.5) == 1.0
    assert unit([0.0], [0.0], -power(-140)) == -power(-140)


def test_cdna3_fp8_sums_even_and_odd_products_apart():
    unit = UNITS["cdna3.mfma.e5m2fnuz"]
    small, tiny = power(-12), power(-13)
    # Beside a 1 a product of -2**-25 is truncated away; in the other half it is floored.
    assert unit([1.0, 0.0, -small], [1.0, 0.0, tiny]) == 1.0
    assert unit([1.0, -small, 0.0], [1.0, tiny, 0.0]) == 1.0 - power(-24)
    assert unit([1.0, small, 0.0], [1.0, tiny, 0.0]) == 1.0
