"""Formats: the derived quantities, the names, and the facts that contradict each other."""

import copy
import dataclasses
import pickle

import ml_dtypes
import numpy as np
import pytest

import fpemu
from fpemu import formats
from fpemu.formats import Format
from tests.cases import for_each
from tests.oracle.points import ALL_FORMATS, NAMED, label

WITH_FINFO = [format for format in NAMED if format.name != "tf32"]


def finfo(format):
    return ml_dtypes.finfo(getattr(ml_dtypes, format.name, format.name))


@pytest.mark.parametrize("format", WITH_FINFO, ids=label)
def test_derived_quantities_are_those_of_finfo(format):
    info = finfo(format)
    assert format.bits == info.bits
    assert format.precision == info.nmant + 1
    assert format.exponent_bits == info.nexp
    assert format.max_finite == float(info.max)
    assert format.smallest_normal == float(info.smallest_normal)
    assert format.smallest_subnormal == float(info.smallest_subnormal)
    assert format.epsilon == float(info.eps)
    assert format.unit_roundoff == float(info.eps) / 2
    assert format.emin == info.minexp
    assert 2.0**format.emax <= format.max_finite < 2 * 2.0**format.emax
    assert format.bits == int(format.signed) + format.exponent_bits + format.precision - 1


@pytest.mark.parametrize("format", [f for f in WITH_FINFO if f.bits <= 16], ids=label)
def test_formats_have_the_special_values_their_dtypes_have(format):
    dtype = np.dtype(getattr(ml_dtypes, format.name, format.name))
    codes = np.arange(2**format.bits).astype(f"u{dtype.itemsize}")
    with np.errstate(invalid="ignore"):  # signalling NaNs
        values = codes.view(dtype).astype(np.float64)
    zeros = values[values == 0]
    assert format.has_nan == np.isnan(values).any()
    assert format.infinities == np.isinf(values).any()
    assert format.has_zero == (zeros.size > 0)
    assert format.has_negative_zero == np.signbit(zeros).any()
    assert format.signed == (values < 0).any()


def test_tf32_is_e8m10():
    assert formats.tf32 == fpemu.format("e8m10")
    assert formats.tf32.bits == 19


@for_each("format", ALL_FORMATS)
def test_carrier_is_the_narrowest_that_holds_every_value(format):
    extremes = [format.max_finite, format.smallest_subnormal]
    # The number below max_finite has as many significand bits as the format allows.
    extremes.append(float(np.ldexp(2.0**format.precision - 1, format.quantum_exponent)))
    extremes.append(format.smallest_normal * (1 + format.epsilon))
    with np.errstate(over="ignore"):
        fits = all(float(np.float32(value)) == value for value in extremes)
    assert format.carrier == np.dtype(np.float32 if fits else np.float64)


@pytest.mark.parametrize(
    ("name", "max_finite", "smallest_normal", "smallest_subnormal"),
    [
        ("binary8p3se", 49152.0, 2.0**-15, 2.0**-17),
        ("binary8p4se", 224.0, 2.0**-7, 2.0**-10),
        ("binary8p5se", 15.0, 2.0**-3, 2.0**-7),
        ("binary8p3sf", 57344.0, 2.0**-15, 2.0**-17),
        ("binary8p4sf", 240.0, 2.0**-7, 2.0**-10),
        ("binary8p1se", 2.0**62, 2.0**-63, 2.0**-63),
        ("binary8p4ue", 53248.0, 2.0**-15, 2.0**-18),
        ("binary8p4uf", 57344.0, 2.0**-15, 2.0**-18),
        ("binary4p2sf", 3.0, 0.5, 0.25),
    ],
)
def test_p3109_formats_have_the_ranges_of_the_report(
    name, max_finite, smallest_normal, smallest_subnormal
):
    format = fpemu.format(name)
    assert format.max_finite == max_finite
    assert format.smallest_normal == smallest_normal
    assert format.smallest_subnormal == smallest_subnormal
    assert format.has_nan
    assert format.has_zero
    assert not format.has_negative_zero
    assert format.infinities == name.endswith("e")
    assert format.signed == (name[-2] == "s")


def test_a_format_with_the_values_of_p3109_need_not_be_projected_so():
    fnuz = formats.float8_e4m3fnuz
    assert fnuz != formats.Binary8p4sf
    assert dataclasses.replace(fnuz, p3109=True) == formats.Binary8p4sf
    assert (fpemu.round(300.0, "Binary8p4sf"), str(fpemu.round(300.0, fnuz))) == (240.0, "nan")


def test_p3109_formats_are_module_attributes():
    assert formats.binary8p4se == fpemu.format("binary8p4se")
    assert formats.binary6p3uf.name == "binary6p3uf"
    assert formats.Binary6p3uf == formats.binary6p3uf
    for name in ("binary8p9se", "binary2p1se", "binary17p4se", "float7"):
        with pytest.raises(AttributeError, match=name):
            getattr(formats, name)


@pytest.mark.parametrize(
    ("name", "bits", "precision", "emin", "emax"),
    [
        ("e2m0", 3, 1, 0, 1),
        ("e2m52", 55, 53, 0, 1),
        ("e11m0", 12, 1, -1022, 1023),
        ("e11m52", 64, 53, -1022, 1023),
        ("e5m7", 13, 8, -14, 15),
    ],
)
def test_shape_names_give_the_ieee_like_format_of_that_shape(name, bits, precision, emin, emax):
    format = fpemu.format(name)
    assert (format.bits, format.precision) == (bits, precision)
    assert (format.emin, format.emax) == (emin, emax)
    assert format.max_finite == 2.0**emax * (2 - 2.0 ** (1 - precision))
    assert format.infinities
    assert format.has_nan == (precision > 1)
    assert format.name == name


@pytest.mark.parametrize("exponent_bits", range(2, 12))
def test_every_shape_up_to_float64_is_a_format(exponent_bits):
    for stored_bits in range(53):
        format = fpemu.format(f"e{exponent_bits}m{stored_bits}")
        assert format.exponent_bits == exponent_bits
        assert format.precision == stored_bits + 1
        assert format.emax == 1 - format.emin == 2 ** (exponent_bits - 1) - 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("e8m23", "float32"),
        ("e11m52", "float64"),
        ("e5m10", "float16"),
        ("e8m7", "bfloat16"),
        ("ps7", "bfloat16"),
        ("ps23", "float32"),
        ("ps0", "e8m0"),
        ("e5m2", "float8_e5m2"),
        ("e4m3", "float8_e4m3"),
    ],
)
def test_equality_ignores_the_name(one, other):
    assert fpemu.format(one) == fpemu.format(other)
    assert hash(fpemu.format(one)) == hash(fpemu.format(other))


def test_different_facts_make_different_formats():
    assert len(set(NAMED)) == len(NAMED)
    base = fpemu.format("e4m3")
    changes = {
        "bits": 9,
        "precision": 3,
        "bias": 8,
        "signed": False,
        "subnormals": False,
        "infinities": False,
        "high_nans": 1,
        "negative_zero": False,
    }
    for fact, value in changes.items():
        assert dataclasses.replace(base, **{fact: value}) != base


def test_format_returns_a_format_as_it_is():
    own = Format("mine", 8, 4, 9)
    assert fpemu.format(own) is own


def test_named_formats_are_module_attributes_of_their_names():
    for name, format in formats.named_formats().items():
        assert format.name == str(format) == name
        assert getattr(formats, name) is format
        assert fpemu.format(name) is format


def test_named_formats_cannot_be_changed_through_their_listing():
    formats.named_formats().clear()
    assert formats.named_formats()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("float8_e4m3fnu", "float8_e4m3fn"),
        ("bfloat", "bfloat16"),
        ("float_32", "float32"),
        ("BFLOAT16", "bfloat16"),
        ("float4_e2m1", "float4_e2m1fn"),
    ],
)
def test_an_unknown_name_lists_near_names(name, near):
    with pytest.raises(ValueError, match=f"{name}.*'{near}'"):
        fpemu.format(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "e1m3",
        "e12m3",
        "e5m53",
        "e5m",
        "E5M7",
        " e5m7",
        "e5m7 ",
        "e5m7\n",
        "e-5m7",
        "ps24",
        "binary8p8se",
        "binary8p0se",
        "binary8p4xe",
        "binary2p1ue",
        "binary17p4se",
        "BINARY8p4se",
        "Binary16p1se",
        "binary8p9ue",
    ],
)
def test_a_name_that_stands_for_no_format_is_a_value_error(name):
    with pytest.raises(ValueError, match="format"):
        fpemu.format(name)


WRONG = [None, 8, 5.0, b"float32", ("e", 5), int, str, np.int8, np.complex64, np.longdouble, object]


@pytest.mark.parametrize("spec", [*WRONG, np.dtype("i4"), ml_dtypes.int4])
def test_a_spec_of_the_wrong_type_is_a_type_error(spec):
    with pytest.raises(TypeError, match=r"Format.*" + type(spec).__name__):
        fpemu.format(spec)


@pytest.mark.parametrize("format", [f for f in NAMED if f.name != "tf32"], ids=label)
def test_dtypes_stand_for_the_formats_of_their_names(format):
    scalar = getattr(ml_dtypes, format.name, None) or getattr(np, format.name)
    for spec in (scalar, np.dtype(scalar), np.dtype(scalar).newbyteorder(">")):
        assert fpemu.format(spec) is formats.format(format.name)
    torch = pytest.importorskip("torch")
    if hasattr(torch, format.name):
        assert fpemu.format(getattr(torch, format.name)) == format
    assert fpemu.format(float) == formats.float64


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("fp16", "float16"), ("half", "float16"), ("bf16", "bfloat16"), ("fp32", "float32")),
        *(("single", "float32"), ("fp64", "float64"), ("double", "float64"), ("fp22", "e8m13")),
        ("fp4", "float4_e2m1fn"),
    ],
)
def test_other_names_are_understood_where_they_mean_one_format(name, meant):
    assert fpemu.format(name) == fpemu.format(meant)
    assert fpemu.format(name).name == meant
    with pytest.raises(ValueError, match=f"did you mean '{name}'"):
        fpemu.format(name.upper())


@pytest.mark.parametrize("name", ["fp8", "float8", "fp6", "float6"])
def test_names_that_mean_several_formats_list_them(name):
    with pytest.raises(ValueError, match="ambiguous") as raised:
        fpemu.format(name)
    listed = str(raised.value).partition("one of ")[2].split(", ")
    meant = [f for f in NAMED if f.name.startswith(f"float{name[-1]}_")]
    assert listed == [f"{f} (largest {f.max_finite:g})" for f in meant]


@pytest.mark.parametrize("shape", ["e4m3", "e3m2", "e2m3", "e2m1", "e8m0"])
def test_shapes_of_ocps_formats_are_no_operands_of_units(shape):
    assert fpemu.format(shape).infinities
    for make in (
        lambda: fpemu.TensorCore(4, 23, inputs=shape),
        lambda: fpemu.TensorCore(4, 23, inputs=("float16", shape)),
        lambda: fpemu.Sequential("float32", inputs=shape),
    ):
        with pytest.raises(ValueError, match=f"{shape}.*ambiguous.*fn"):
            make()


@pytest.mark.parametrize(
    "facts",
    [
        {"precision": 0},
        {"precision": 54, "bits": 64},
        {"bits": 1},
        {"bits": 65},
        {"precision": 8},
        {"high_nans": -2},
        {"high_nans": 128},
        {"high_nans": 119},
        {"bias": 1100},
        {"bias": -1100},
        {"bias": 7 + 1067},
        {"p3109": True},
        {"p3109": True, "bias": 8, "high_nans": 0},
        {"p3109": True, "bias": 7, "high_nans": 0, "negative_zero": False},
        {"p3109": True, "bias": 8, "high_nans": 1, "negative_zero": False},
    ],
    ids=str,
)
def test_facts_that_contradict_each_other_are_a_value_error(facts):
    with pytest.raises(ValueError, match="wrong"):
        Format(**({"name": "wrong", "bits": 8, "precision": 4, "bias": 7} | facts))


def test_the_widest_ranges_that_float64_holds_are_formats():
    lowest = Format("lowest", 56, 52, 1024)
    assert lowest.emin == -1023
    assert lowest.smallest_subnormal == 2.0**-1074
    highest = Format("highest", 8, 4, 14 - 1023)
    assert highest.emax == 1023
    assert highest.max_finite == 1.875 * 2.0**1023


def test_formats_that_reach_far_below_the_normal_range_of_float64_are_refused():
    with pytest.raises(ValueError, match="emin -1024 is below -1023"):
        Format("low", 8, 4, 1025)


def test_high_nans_left_out_are_those_of_ieee_754():
    assert Format("x", 8, 4, 7).high_nans == 7
    assert Format("x", 8, 1, 63).high_nans == 0
    assert Format("x", 8, 4, 7, high_nans=0).high_nans == 0


@for_each("format", ALL_FORMATS)
def test_formats_survive_pickling_and_copying(format):
    for twin in (pickle.loads(pickle.dumps(format)), copy.deepcopy(format)):
        assert twin == format
        assert twin.name == format.name
        assert hash(twin) == hash(format)


def test_formats_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        formats.float32.precision = 8


def test_a_format_may_have_two_bits():
    two = fpemu.Format("two", 2, 1, 0, infinities=False, high_nans=0, negative_zero=False)
    assert fpemu.values(two).tolist() == [-2.0, 0.0, 2.0]
