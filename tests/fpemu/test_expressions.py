"""Expressions on a machine of one format, against fpemu's own arithmetic."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fpemu
from fpemu import explain, testing
from fpemu.expressions import compute
from fpemu.reference import round_exact
from tests.cases import for_each
from tests.oracle.points import MODES

FORMATS = ("float8_e4m3fn", "bfloat16", "Binary8p4se", "float6_e3m2fn", "float64")
OPERATIONS = {
    "+": (fpemu.add, "({} + {})"),
    "-": (fpemu.subtract, "{}-{}"),
    "*": (fpemu.multiply, "{} * {}"),
    "/": (fpemu.divide, "{}/{}"),
    "fma": (fpemu.fma, "fma({}, {},{})"),
    "sqrt": (fpemu.sqrt, "sqrt({})"),
}


@testing.settings(max_examples=40, derandomize=True, database=None)
@given(st.data())
def test_an_operation_is_the_one_of_fpemu_in_every_mode(data):
    format = fpemu.format(data.draw(st.sampled_from(FORMATS)))
    function, form = OPERATIONS[data.draw(st.sampled_from([*OPERATIONS]))]
    operands = [data.draw(testing.members(format, finite=True)) for _ in range(form.count("{}"))]
    if not format.has_nan and ("/" in form or "sqrt" in form):
        operands = [abs(x) or 1.0 for x in operands]
    computed = compute(form.format(*map(float.hex, operands)), format)
    assert computed.rounded == ()
    steps = explain.rounding_steps(computed.value, format, cancelled=computed.cancelled)
    for step in steps:
        expected = float(function(*operands, format, step.mode))
        assert repr(step.result) == repr(expected), (form, operands, step.mode)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", Fraction(1, 10)),
        (" -0.1", Fraction(-1, 10)),
        ("--0x1.8p1", 3.0),
        ("1e-400", Fraction(1, 10**400)),
        ("0x2a", 0.3125),
        ("-0x2A", -0.3125),
        ("0x2ap0", 42.0),
        ("-inf", -math.inf),
        ("+Infinity", math.inf),
        ("0x3c * 2", 3.0),
        ("2 - 2", 0.0),
        ("1/3", Fraction(1, 3)),
        ("sqrt(2.25)", 1.5),
        ("1/0", math.inf),
        ("1/-0.0", -math.inf),
        ("-2*0", -0.0),
    ],
)
def test_numbers_codes_and_operations_are_read_exactly(text, value):
    computed = compute(text, fpemu.format("float8_e4m3fn"))
    assert (computed.value, type(computed.value)) == (value, type(value))
    if value == 0:
        assert math.copysign(1, computed.value) == math.copysign(1, value)


def test_operands_and_results_on_the_way_are_rounded():
    format = fpemu.format("float8_e4m3fn")
    computed = compute("0.1 + 0.2", format)
    assert [(each.text, each.result) for each in computed.rounded] == [
        ("0.1", 0.1015625),
        ("0.2", 0.203125),
    ]
    assert computed.value == 0.3046875
    assert compute("0.1 + 0.2", format, exact=True).value == Fraction(3, 10)
    twice = compute("(0.1*3)+2.0", format)
    assert [each.text for each in twice.rounded] == ["0.1", "0.1*3"]
    assert twice.value == fpemu.multiply(0.1015625, 3.0, format) + 2.0
    assert compute("fma(0.1, 3, 2)", format).value == 0.1015625 * 3 + 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1 + x", r"'x' is not a number such as 0.3, 0x2a or inf: character 7 of '0.1 \+ x'"),
        ("(1+", "no expression of numbers: character 3"),
        ("1 2", "no expression of numbers: character 3"),
        ("1,5", "neither a number nor an operation: character 1 of '1,5'"),
        ("2**3", r"only \+ - \* / join numbers: character 1"),
        ("1 + 3//2", "join numbers: character 5"),
        ("~1", "stand before a number: character 1"),
        ("1 + cos(1)", "the functions are sqrt, fma: character 5"),
        ("fma(1, 2)", "fma takes 3 numbers, not 2: character 1"),
        ("__import__('os').system('x')", "functions are sqrt, fma: character 1"),
        ("[1]", "neither a number nor an operation: character 1"),
        ("1 if 2 else 3", "neither a number"),
        ("0x1ff", "0x1ff is no code, as float8_e4m3fn has codes of 8 bits; a number is 0x1ffp0"),
        ("1 \u2212 2", "'\u2212' is not part of an expression: character 3"),
        ("1e99999 + 1", "more than 4 digits: character 1"),
        ("0xp1", "'0xp1' is not a number"),
        ("", "no expression"),
        ("(" * 250, "."),
        ("-" * 290 + "1" + "+" * 300, "at most 300 are read"),
        ("fma(1, *2, 3)", "neither a number"),
        ("sqrt(a=1)", "functions are"),
    ],
)
def test_what_is_no_expression_is_refused_and_placed(text, message):
    with pytest.raises(ValueError, match=message):
        compute(text, fpemu.format("float8_e4m3fn"))


def test_many_signs_are_a_number():
    assert compute("-" * 250 + "1", fpemu.format("bfloat16")).value == 1.0
    assert compute("1" + "+1" * 140, fpemu.format("float64")).value == 141.0


MANY = 4000
CASES = [
    *(("float8_e4m3fn", x) for x in (0.3, -0.3, 4.0, 0.0, 460.0, 470.0, 1000.0, 1e-4)),
    *(("float4_e2m1fn", x) for x in (0.2, 5.5, 7.5)),
    *(("float8_e5m2", x) for x in (60000.0, -1e-6, math.inf)),
    *(("Binary8p4se", x) for x in (230.0, -0.0004)),
    ("float8_e8m0fnu", 3.0),
]


@pytest.mark.parametrize(("format", "x"), CASES)
@for_each("overflow", ["ieee", "saturate"])
def test_stochastic_results_come_as_often_as_is_said(format, x, overflow):
    bits = 3
    steps = explain.stochastic_steps(x, fpemu.format(format), overflow, bits)
    modes = [("sr", None), ("sr", bits), ("sr_b", bits), ("sr_c", bits), ("sr_equal", None)]
    assert [step.mode for step in steps] == [
        mode + (f", {bits} bits" if random_bits else "") for mode, random_bits in modes
    ]
    for step, (mode, random_bits) in zip(steps, modes, strict=True):
        rounding = fpemu.Rounding(mode, overflow, random_bits, seed=5)
        drawn = fpemu.round(np.full(MANY, x), format, rounding)
        found = Counter(map(repr, drawn.tolist()))
        merged = Counter()
        for result, chance in step.results:
            merged[repr(result)] += chance
        assert sum(merged.values()) == 1
        assert set(found) == set(merged)
        for result, chance in merged.items():
            deviation = math.sqrt(float(chance * (1 - chance)) * MANY)
            assert abs(found[result] - float(chance) * MANY) <= 5 * deviation, (mode, result)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "Binary4p2uf", "float8_e8m0fnu"])
def test_codes_are_those_of_the_reference(name):
    format = fpemu.format(name)
    listed = explain.codes(format)
    assert [each.code for each in listed] == [*range(2**format.bits)]
    assert [repr(each.value) for each in listed] == [
        repr(float(x)) for x in fpemu.decode(np.arange(2**format.bits), format)
    ]
    for each in listed:
        assert int(each.bits.replace(" ", ""), 2) == each.code
        kinds = {"NaN": math.isnan, "infinity": math.isinf, "zero": lambda x: x == 0}
        expected = next((kind for kind, holds in kinds.items() if holds(each.value)), None)
        small = 0 < abs(each.value) < format.smallest_normal
        assert each.kind == (expected or ("subnormal" if small else "normal"))


def test_every_mode_agrees_with_the_reference_on_a_decimal():
    for step in explain.rounding_steps(Fraction(1, 10), fpemu.format("float64")):
        assert step.mode in MODES
        assert step.result == round_exact(Fraction(1, 10), "float64", step.mode)
