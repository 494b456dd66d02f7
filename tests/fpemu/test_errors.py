"""Errors of sums against their length: the numbers, and accumulators by name."""

import csv
import json
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import median

import numpy as np
import pytest

import fpemu
from fpemu import names
from fpemu.cli.application import main
from fpemu.reference import round_exact
from tests.oracle import units


def exactly(seed, terms, trials, inputs):
    """The vectors of all trials in rationals, drawn as the documentation says."""
    generator = np.random.default_rng([seed, terms])
    rows = math.isqrt(trials)
    columns = -(-trials // rows)
    a = generator.standard_normal((rows, terms))
    b = generator.standard_normal((terms, columns))
    a, b = (
        [[Fraction(round_exact(x, inputs, overflow="saturate")) for x in row] for row in y.tolist()]
        for y in (a, b.T)
    )
    return [(row, column) for row in a for column in b][:trials]


def in_order(pair, format):
    """A sequential sum by definition."""
    total = Fraction(0)
    for x, y in zip(*pair, strict=True):
        total = Fraction(round_exact(total + x * y, format))
    return total


@pytest.mark.parametrize("terms", [1, 7])
def test_errors_are_those_of_exact_rationals(terms):
    (found,) = fpemu.sum_errors("e8m4", terms, trials=7, inputs="float8_e4m3fn", seed=3)
    errors = []
    for pair in exactly(3, terms, 7, "float8_e4m3fn"):
        products = [x * y for x, y in zip(*pair, strict=True)]
        off = abs(in_order(pair, "e8m4") - sum(products))
        errors.append(off / sum(map(abs, products)))
    assert len(errors) == 7
    assert found.mean == pytest.approx(float(sum(errors) / 7), rel=1e-14)
    assert found.median == pytest.approx(float(median(errors)), rel=1e-14)
    assert found.largest == pytest.approx(float(max(errors)), rel=1e-14)
    facts = (found.unit, found.terms, found.trials, found.distribution, found.inputs, found.seed)
    assert facts == ("e8m4", terms, 7, "normal", "float8_e4m3fn", 3)


def power_scale(largest, element):
    """OCP MX section 6.3: the exponent of the largest magnitude, less the largest element's."""
    exponent = math.frexp(largest)[1] - 1 - (math.frexp(element.max_finite)[1] - 1)
    return Fraction(2) ** exponent


def nearest_scale(largest, element):
    """NVIDIA's recipe without a scale of the array."""
    return Fraction(round_exact(Fraction(largest) / Fraction(element.max_finite), "float8_e4m3fn"))


def blocks(vector, element, block, scale_of):
    """Elements and scales of a vector of rationals, in float64."""
    elements, scales = [], []
    for start in range(0, len(vector), block):
        piece = vector[start : start + block]
        scale = scale_of(float(max(map(abs, piece))), element)
        scales.append(float(scale))
        elements += [round_exact(x / scale, element, overflow="saturate") for x in piece]
    return elements, scales


@pytest.mark.parametrize("terms", [5, 300])
@pytest.mark.parametrize(
    ("name", "block", "scale_of"),
    [
        ("blackwell.tcgen05-mxf8f6f4.e5m2-e8m0-32", 32, power_scale),
        ("blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16", 16, nearest_scale),
    ],
)
def test_errors_of_block_scaled_units_are_those_of_exact_rationals(name, block, scale_of, terms):
    (found,) = fpemu.sum_errors(name, terms, trials=6, seed=5)
    unit, errors = units.UNITS[name], []
    for pair in exactly(5, terms, 6, "float32"):
        (a, a_scales), (b, b_scales) = (
            blocks(x, format, block, scale_of)
            for x, format in zip(pair, unit.input_formats, strict=True)
        )
        computed = unit(a, b, 0.0, a_scales, b_scales)
        products = [
            Fraction(x)
            * Fraction(y)
            * Fraction(a_scales[i // block])
            * Fraction(b_scales[i // block])
            for i, (x, y) in enumerate(zip(a, b, strict=True))
        ]
        errors.append(abs(Fraction(computed) - sum(products)) / sum(map(abs, products)))
    assert len(errors) == 6
    assert found.largest == pytest.approx(float(max(errors)), rel=1e-14)
    assert found.mean == pytest.approx(float(sum(errors) / 6), rel=1e-14)
    assert found.largest <= found.bound < 1e-3
    assert found.inputs.endswith(f" per {block}")


def test_the_bound_of_a_block_scaled_unit_holds_where_elements_are_subnormal():
    """A subnormal element counts with an exponent above its own, by which others are truncated."""
    unit = fpemu.devices.get("blackwell.tcgen05-mxf8f6f4.e5m2-e8m0-32")
    a = np.full((1, 32), 1.75 * 2.0**-11)
    b = np.full((32, 1), 2.0**-14)
    a[0, 0], b[0, 0] = 2.0**-16, 2.0**15
    kind = fpemu.scaling.FORMATS["mxfp8_e5m2"]
    for exponent in (0, 40):
        scale = 2.0**exponent
        left = fpemu.scaling.Scaled(a, np.full((1, 1), scale), kind, 1)
        right = fpemu.scaling.Scaled(b, np.ones((1, 1)), kind, 0)
        computed = fpemu.scaling.matmul(left, right, unit).item()
        terms = [
            Fraction(x) * Fraction(y) * Fraction(scale) for x, y in zip(a[0], b[:, 0], strict=True)
        ]
        off, relative = abs(Fraction(computed) - sum(terms)), unit.error_bound(32) * sum(terms)
        assert off > relative  # or nothing would be tested
        for more in ({"scales": (scale, 1.0)}, {"scales": (scale, 1.0), "largest": 2.0**15}, {}):
            assert off <= relative + Fraction(unit.underflow_bound(32, **more))
        assert unit.underflow_bound(32, scales=(scale, 1.0)) < 2.0 ** (exponent - 2)
    assert unit.underflow_bound(0) == 0.0


def test_stochastic_roundings_of_block_scaled_units_have_the_seed():
    unit = fpemu.devices.get("blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32")
    assert unit.seeded(3) == unit
    drawn = replace(unit, core=fpemu.TensorCore(32, 25, rounding="sr", inputs="float8_e4m3fn"))
    assert drawn.seeded(3).core.rounding.seed == 3


def test_an_error_of_zero_is_no_error_at_all():
    sums = fpemu.sum_errors("exact:float64", [1, 8], inputs="float8_e4m3fn")
    assert [each.largest for each in sums] == [0.0, 0.0]
    # Of float32 numbers the exact sums are no float64 numbers: less than half of the last place.
    (rounded,) = fpemu.sum_errors("exact:float64", 64, trials=9)
    assert 0 < rounded.mean < rounded.largest <= 2.0**-53


UNITS = ["e8m4", "float8_e5m2", "blocked:e8m7:16", "pairwise:e8m7", "hopper.wgmma.e4m3"]


@pytest.mark.parametrize("distribution", ["normal", "uniform", "positive"])
def test_no_error_exceeds_its_bound(distribution):
    found = fpemu.sum_errors(UNITS, [1, 3, 200], trials=30, distribution=distribution)
    assert [(each.unit, each.terms) for each in found] == [
        (u, k) for u in UNITS for k in (1, 3, 200)
    ]
    assert [each for each in found if each.overflows] == []
    for each in found:
        assert each.median <= each.largest <= each.bound < math.inf
        assert each.mean <= each.largest
    assert max(each.largest for each in found) > 1e-3


def test_the_bound_holds_for_results_that_underflow():
    (found,) = fpemu.sum_errors("float8_e4m3fn", 1)
    assert fpemu.Sequential("float8_e4m3fn").error_bound(1) < 0.07 < found.largest <= found.bound


def test_sums_that_overflow_are_counted():
    saturating = fpemu.Sequential("e4m7", fpemu.Rounding("rne", "saturate"))
    units = {"to infinity": "e4m7", "to the largest": saturating, "not at all": "e5m7"}
    found = fpemu.sum_errors(units, 4096, trials=4, distribution="positive")
    assert [each.unit for each in found] == [*units]
    assert [each.overflows for each in found] == [4, 4, 0]
    assert found[0].mean == found[0].median == found[0].largest == math.inf
    assert 0.7 < found[1].median < 0.8
    # What is not finite among errors does not hide those that are.
    some = fpemu.sum_errors("e4m7", [1100, 1200, 1300], trials=9, distribution="positive")
    assert any(0 < each.overflows < 5 and 0.1 < each.median < 0.5 for each in some)
    assert all((each.overflows > 0) == (each.largest == math.inf) for each in some)


def test_numbers_depend_on_the_seed_alone():
    units = ["sequential:e8m7:sr", "e8m7"]
    found = fpemu.sum_errors(units, [5, 40], trials=5, seed=1)
    assert found == fpemu.sum_errors(units, [40, 5], trials=5, seed=1)
    assert found[3] == fpemu.sum_errors("e8m7", 40, trials=5, seed=1)[0]
    others = fpemu.sum_errors(units, [5, 40], trials=5, seed=2)
    assert all(a.mean != b.mean for a, b in zip(found, others, strict=True))


def test_seeds_reach_all_parts_that_have_none():
    own = fpemu.Rounding("sr", seed=7)
    inner = fpemu.Sequential("e8m7", "sr")
    seeded = fpemu.Promoted(fpemu.Blocked("e8m7", 4, inner, own), "float32", 8, "rne").seeded(3)
    assert seeded.inner.inner.rounding == fpemu.Rounding("sr", seed=3)
    assert (seeded.inner.rounding, seeded.rounding.seed) == (own, None)
    assert inner.rounding.seed is None


@dataclass(frozen=True)
class Careless(fpemu.Accumulator):
    """Forgets all terms but the first, and states no bound."""

    format: fpemu.Format
    rounding: fpemu.Rounding

    def inner_product(self, a, b, c):
        return c + Fraction(round_exact(a[0] * b[0], self.format))


def test_an_accumulator_without_a_bound_has_an_infinite_one():
    (found,) = fpemu.sum_errors(
        {"careless": Careless(fpemu.format("float32"), fpemu.Rounding())}, 2, trials=2
    )
    assert (found.unit, found.bound) == ("careless", math.inf)
    assert 0 < found.median < 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], 4), ValueError, "units must have at least one"),
        (([3.0], 4), TypeError, "units must be accumulators or names of them, not 3.0"),
        (("e9", 4), ValueError, "unknown format 'e9'"),
        (("hopper.wgmma.e4m4", 4), ValueError, "unknown unit 'hopper.wgmma.e4m4': did you mean"),
        (("e8m4", []), ValueError, "terms must have at least one"),
        (("e8m4", [4, 0]), ValueError, "terms must be at least 1, not 0"),
        (("e8m4", "4"), TypeError, "terms must be an int, not str"),
        (("e8m4", 4, {"trials": 0}), ValueError, "trials must be at least 1, not 0"),
        (("e8m4", 4, {"seed": -1}), ValueError, "seed must be at least 0, not -1"),
        (("e8m4", 4, {"distribution": "cauchy"}), ValueError, "distribution must be .*'cauchy'"),
        (("e8m4", 4, {"inputs": "float8_e8m0fnu"}), ValueError, "e8m0fnu has no negative"),
        (("e8m4", 4, {"inputs": "e4m3"}), ValueError, "e4m3"),
    ],
)
def test_what_cannot_be_measured_is_named(arguments, error, message):
    units, terms, *options = arguments
    with pytest.raises(error, match=message):
        fpemu.sum_errors(units, terms, **dict(*options))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bfloat16", fpemu.Sequential("bfloat16")),
        ("hopper.wgmma-promoted.e4m3", fpemu.devices.get("hopper.wgmma-promoted.e4m3")),
        ("sequential:e8m7:rtz", fpemu.Sequential("e8m7", "rtz")),
        ("blocked:e8m7:16", fpemu.Blocked("e8m7", 16)),
        ("blocked:e8m7:inner=e8m10:block=8", fpemu.Blocked("e8m7", 8, "e8m10")),
        ("pairwise:e8m7:fused=false", fpemu.Pairwise("e8m7", fused=False)),
        ("tensor_core:8:12:e8m13", fpemu.TensorCore(8, 12, "e8m13")),
        (
            "promoted:hopper.wgmma.e4m3:float32:128",
            fpemu.Promoted(fpemu.devices.get("hopper.wgmma.e4m3"), "float32", 128),
        ),
    ],
)
def test_accumulators_have_names(name, expected):
    assert names.accumulator(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("block:e8m7", "unknown kind 'block' in 'block:e8m7': expected sequential, blocked"),
        ("blocked", "'blocked' lacks format, block: expected format:block:inner"),
        ("hopper", r"unknown unit 'hopper': did you mean hopper\.wgmma\.float16, .*, \.\.\.\?"),
        ("H100", r"unknown unit 'H100': did you mean hopper\."),
        ("blocked:e8m7:0", "'blocked:e8m7:0': block must lie in"),
        ("exact:float32:rne:4:e8m7:6", "has '6': expected format:rounding:block:inputs"),
        ("exact:fmt=float32", "has 'fmt=float32': expected format:"),
        ("exact:float32:format=float64", "has 'format=float64'"),
        ("promoted:none.such:float32:1", "unknown unit 'none.such'"),
    ],
)
def test_names_of_nothing_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        names.accumulator(name)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def command(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        return (stop.value.code, *capsys.readouterr())

    return run


OPTIONS = ("--terms", "4", "16", "--trials", "5", "--seed", "2", "--inputs", "bfloat16")


def test_the_command_prints_what_is_measured(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    units = ["hopper.wgmma.e4m3", "blocked:e8m7:16"]
    expected = fpemu.sum_errors(units, [4, 16], trials=5, seed=2, inputs="bfloat16")
    code, text, errors = command("errors", *units, *OPTIONS)
    assert (code, errors) == (0, "")
    rows = [line.split() for line in text.split("\n\n")[0].splitlines()[1:]]
    assert [row[:2] for row in rows] == [[each.unit, str(each.terms)] for each in expected]
    for row, each in zip(rows, expected, strict=True):
        shown = (each.median, each.mean, each.largest, each.bound)
        assert [*map(float, row[2:])] == pytest.approx(shown, rel=0.06)
    assert "5 sums of each length" in text
    assert max(map(len, text.splitlines())) <= 80
    _, text, _ = command("errors", *OPTIONS[:3], *units, *OPTIONS[3:], "--csv")
    rows = [*csv.DictReader(text.splitlines())]
    assert [float(row["mean"]) for row in rows] == [each.mean for each in expected]
    assert [row["inputs"] for row in rows] == [each.inputs for each in expected]
    picture = tmp_path / "errors.svg"
    code, text, errors = command("errors", *units, *OPTIONS, "--json", "--output", str(picture))
    assert json.loads(text)["errors"] == [vars(each) for each in expected]
    assert errors == f"Wrote {picture}\n"
    assert picture.read_text().count("blocked:e8m7:16") >= 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--terms", "4"], 2, "Missing argument 'unit'"),
        (["e8m4", "--terms", "4,x"], 2, "not 'x'"),
        (["e8m4", "--terms", "4", "--csv", "--json"], 2, "--csv and --json"),
        (["e8m4", "--terms", "4", "--trials", "0"], 2, "that is at least 1, not '0'"),
        (["e8m4", "--output", "errors.gif"], 2, "ends in no kind of picture"),
        (["e8m4", "--output", "missing/errors.png"], 1, "missing"),
        (["blocked:e8m7", "--terms", "4"], 2, "lacks block"),
    ],
)
def test_bad_usage_of_the_command_gives_one_clear_line(command, arguments, code, message):
    found, output, errors = command("errors", *arguments)
    assert (found, output) == (code, "")
    assert message in " ".join(errors.replace("│", " ").split())
