"""Limits of formats under numpy's names, against all members and against the libraries."""

import functools
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import fpemu
from fpemu import reference
from tests.cases import for_each
from tests.oracle.points import ALL_FORMATS

members = functools.cache(reference.members)
WITH_ONE = [format for format in ALL_FORMATS if format.bits <= 8 and 1.0 in members(format)]
INTEGERS = ("bits", "machep", "negep", "maxexp", "minexp", "nexp", "iexp", "nmant")
NUMBERS = ("eps", "epsneg", "max", "min", "smallest_normal", "smallest_subnormal", "tiny")


@for_each("format", WITH_ONE)
def test_limits_are_those_of_all_members(format):
    numbers = sorted({Fraction(x) for x in members(format)})
    limits, one = fpemu.finfo(format), numbers.index(1)
    assert (limits.max, limits.min) == (numbers[-1], numbers[0])
    positive = [x for x in numbers if x > 0]
    assert limits.smallest_subnormal == positive[0]
    if one + 1 < len(numbers):
        assert limits.eps == numbers[one + 1] - 1
    if one > 0:
        assert limits.epsneg == 1 - numbers[one - 1]
    assert (limits.eps, limits.epsneg) == (2.0**limits.machep, 2.0**limits.negep)
    assert 2.0 ** (limits.maxexp - 1) in positive
    assert Fraction(2) ** limits.maxexp not in positive
    full = [x for x in positive if x >= limits.smallest_normal]
    assert full[0] == limits.smallest_normal == Fraction(2) ** limits.minexp
    assert limits.nexp + limits.nmant + format.signed == limits.bits


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpys_own_types_are_as_numpy_has_them(dtype):
    limits, theirs = fpemu.finfo(dtype), np.finfo(dtype)
    for name in (*INTEGERS, *NUMBERS, "precision"):
        assert getattr(limits, name) == getattr(theirs, name), name
    assert limits.resolution == float(str(theirs.resolution))


@pytest.mark.parametrize(
    "name",
    [f.name for f in fpemu.formats.named_formats().values() if hasattr(ml_dtypes, f.name)],
)
def test_ml_dtypes_agrees(name):
    limits, theirs = fpemu.finfo(name), ml_dtypes.finfo(getattr(ml_dtypes, name))
    for field in (*INTEGERS, *NUMBERS):
        assert getattr(limits, field) == float(getattr(theirs, field)), field


def test_what_has_a_format_has_limits():
    assert fpemu.finfo(fpemu.array([1.0], "bfloat16")) == fpemu.finfo("bf16")
    assert repr(fpemu.finfo("fp16")) == (
        "finfo(resolution=0.001, min=-65504.0, max=65504.0, format=float16)"
    )
    with pytest.raises(ValueError, match="ambiguous"):
        fpemu.finfo("fp8")
    with pytest.raises(TypeError, match="int32"):
        fpemu.finfo(np.int32)
