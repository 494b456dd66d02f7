"""Accumulators as plain data: their fields are their arguments."""

from dataclasses import replace

import numpy as np
import pytest

import fpemu


def test_every_field_of_an_accumulator_is_an_argument():
    core = fpemu.TensorCore(4, 23, inputs="float16", exponent_floor=-132, convert="rtz")
    for accumulator, changes in (
        (fpemu.Sequential("bfloat16", "rtz", via="float32"), {"format": fpemu.format("e8m5")}),
        (fpemu.Blocked("e8m7", 4), {"block": 8}),
        (fpemu.Pairwise("e8m7", flush="signed"), {"block": 8}),
        (fpemu.Exact("e8m7"), {"block": 8}),
        (core, {"block": 8}),
        (fpemu.Chained(8, "bfloat16", 2), {"block": 4}),
        (fpemu.FlooredCore(8, "bfloat16", convert="rtz"), {"block": 4}),
        (fpemu.Promoted(core, "float32", 128), {"block": 64}),
    ):
        assert replace(accumulator) == accumulator
        changed = replace(accumulator, **changes)
        assert changed != accumulator
        assert replace(changed, **{name: getattr(accumulator, name) for name in changes}) == (
            accumulator
        )


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64])
def test_integers_of_numpy_are_integers(kind):
    assert fpemu.Blocked("e8m7", kind(4)) == fpemu.Blocked("e8m7", 4)
    assert fpemu.TensorCore(kind(8), kind(24), exponent_floor=np.int64(-132)) == fpemu.TensorCore(
        8, 24, exponent_floor=-132
    )
    assert type(fpemu.Pairwise("e8m7", block=kind(4)).block) is int
    made = fpemu.Format("f", kind(8), kind(4), kind(7))
    assert made == fpemu.Format("f", 8, 4, 7)
    assert type(made.bias) is int


@pytest.mark.parametrize(
    "accumulator",
    [
        fpemu.Sequential("float32", inputs="bfloat16"),
        fpemu.Pairwise("float32", inputs="bfloat16"),
        fpemu.Blocked("float32", 4, fpemu.Sequential("float32", inputs="bfloat16")),
        fpemu.Promoted(fpemu.Sequential("float32", inputs="bfloat16"), "float32", 4),
        fpemu.Promoted(
            fpemu.Blocked("float32", 2, fpemu.Sequential("float32", inputs="bfloat16")),
            "float32",
            4,
        ),
    ],
    ids=str,
)
def test_inputs_of_an_inner_accumulator_are_inputs(accumulator):
    a = np.array([[1.0, 1.0 + 2.0**-20]])
    with pytest.raises(ValueError, match=r"a\[0, 1\] is .*, which is not a member of bfloat16"):
        fpemu.matmul(a, a.T, accumulator)
    assert fpemu.matmul(a, a.T, accumulator, convert="rne").item() == 2.0
    assert accumulator.input_formats == (fpemu.format("bfloat16"),) * 2


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint64])
def test_numbers_of_terms_may_be_integers_of_numpy(kind):
    for accumulator in (
        fpemu.Sequential("bfloat16"),
        fpemu.Blocked("bfloat16", 3),
        fpemu.Pairwise("bfloat16", block=4),
        fpemu.Exact("bfloat16", block=3),
        fpemu.TensorCore(4, 23),
        fpemu.Promoted(fpemu.Sequential("bfloat16"), "float32", 3),
    ):
        assert accumulator.error_bound(kind(200)) == accumulator.error_bound(200)
        assert accumulator.underflow_bound(kind(200)) == accumulator.underflow_bound(200)
    with pytest.raises(TypeError, match="terms must be an int"):
        fpemu.Exact("bfloat16").error_bound(2.5)


def test_sums_of_cdna3_take_just_the_bits_that_float64_has():
    """Seven products and a sum, as all ones: three bits more than one of them has."""
    assert fpemu.FlooredCore(7, "float16", 47).fraction_bits == 47
    for block, fraction_bits in ((8, 47), (7, 48)):
        with pytest.raises(ValueError, match="54 bits; at most 53 are summed exactly"):
            fpemu.FlooredCore(block, "float16", fraction_bits)
