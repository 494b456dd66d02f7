"""Pictures of formats and of errors of sums: what is drawn, and the files."""

import math
import sys
from fractions import Fraction
from itertools import pairwise

import matplotlib.colors
import numpy as np
import pytest

import fpemu
import fpemu.pictures
from fpemu import reference
from fpemu.pictures import colors
from fpemu.reference import round_exact


def members(format, low, high):
    return sorted({x for x in reference.members(format) if low <= x <= high and math.isfinite(x)})


@pytest.mark.parametrize(
    ("format", "low", "high"),
    [
        ("float8_e4m3fn", -2.0, 2.0),
        ("float6_e3m2fn", -30.0, 30.0),
        ("float6_e2m3fn", 0.1, 1.05),
        ("float8_e4m3fn", 2.0**-9, 448.0),
        ("float8_e8m0fnu", 0.001, 1000.0),
        ("Binary6p3ue", 0.0, 2.0),
    ],
)
def test_the_line_has_every_member_in_the_range(format, low, high):
    figure = fpemu.plot_formats(format, panels="line", range=(low, high))
    (axes,) = figure.axes
    ticks = [segment[0][0] for segment in axes.collections[0].get_segments()]
    assert ticks == members(format, low, high)
    assert axes.get_xlim() == (low, high)
    assert axes.get_xscale() == ("log" if low > 0 and high >= 10 * low else "linear")


def test_ticks_of_subnormal_numbers_are_short():
    (axes,) = fpemu.plot_formats("float6_e3m2fn", panels="line", range=(0, 1)).axes
    lengths = {x: bottom - top for (x, top), (_, bottom) in axes.collections[0].get_segments()}
    short = [x for x, length in lengths.items() if length < 0.6 * max(lengths.values())]
    assert short == [0.0, 0.0625, 0.125, 0.1875]


def drawn(axes):
    """The places of all lines of an axes together, without interruptions, and the last line's."""
    lines = [np.asarray(line.get_xydata()) for line in axes.lines]
    points = np.concatenate(lines)
    return points[~np.isnan(points).any(axis=1)], lines[-1]


@pytest.mark.parametrize("format", ["float8_e4m3fn", "float6_e2m3fn", "float8_e5m2fnuz"])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_spacing_is_the_distance_between_members(format, scale):
    (axes,) = fpemu.plot_formats(format, panels="spacing", scale=scale).axes
    ends = axes.get_xlim()
    places, _ = drawn(axes)
    inside = members(format, *ends)
    gaps = np.diff(inside)
    middles = np.array(inside[:-1]) + gaps / 2
    assert len(gaps) > 25
    assert np.interp(middles, places[:, 0], places[:, 1]).tolist() == gaps.tolist()
    assert axes.get_yscale() == "log"
    assert places[0, 0] == inside[0]
    assert places[-1, 0] == inside[-1]


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_drawn_is_computed_once(monkeypatch, apart):
    asked = []
    own = fpemu.pictures.formats._binades

    def counted(format, window):
        asked.append(format.name)
        return own(format, window)

    monkeypatch.setattr(fpemu.pictures.formats, "_binades", counted)
    names = ["float8_e4m3fn", "float8_e5m2"]
    fpemu.plot_formats(names, panels=["spacing", "error"], apart=apart)
    assert sorted(asked) == sorted(2 * names)


def test_teeth_are_the_errors_of_rounding():
    (axes,) = fpemu.plot_formats("float8_e4m3fn", panels="error", range=(0.004, 3.0)).axes
    teeth = np.asarray(axes.lines[0].get_xydata())
    teeth = teeth[~np.isnan(teeth).any(axis=1)]
    assert len(teeth) > 500
    for x, y in teeth[::3].tolist():
        exact = abs(Fraction(round_exact(x, "float8_e4m3fn")) - Fraction(x)) / Fraction(x)
        assert y == pytest.approx(float(exact), rel=1e-15)
    within = members("float8_e4m3fn", 0.004, 3.0)
    ties = [(a + b) / 2 for a, b in pairwise(within)]
    assert {*within, *ties} <= {*teeth[:, 0].tolist()}


def test_where_teeth_are_too_narrow_the_largest_errors_are_drawn():
    (axes,) = fpemu.plot_formats("bfloat16", panels="error", range=(1.0, 256.0)).axes
    teeth, band = (np.asarray(line.get_xydata()) for line in axes.lines[:2])
    assert np.isnan(teeth).all()
    band = band[~np.isnan(band).any(axis=1)]
    assert band[:, 1].max() == 2.0**-8
    within = band[~np.isin(band[:, 0], 2.0 ** np.arange(9))]
    powers = 2.0 ** np.floor(np.log2(within[:, 0]))
    np.testing.assert_allclose(within[:, 1], powers * 2.0**-8 / within[:, 0], rtol=1e-12)
    assert len(axes.collections) == 1


@pytest.mark.parametrize(("format", "precision"), [("float8_e4m3fn", 4), ("bfloat16", 8)])
def test_the_bound_is_u_where_numbers_are_normal(format, precision):
    (axes,) = fpemu.plot_formats(format, panels="error").axes
    _, bound = drawn(axes)
    known = fpemu.format(format)
    assert bound.tolist() == [
        [known.smallest_normal, 2.0**-precision],
        [known.max_finite, 2.0**-precision],
    ]
    assert axes.lines[-1].is_dashed()


def test_functions_are_rounded_once_more():
    axes = fpemu.plot_formats("float8_e4m3fn", panels=["line", "exp"]).axes[1]
    exact, found = (np.asarray(line.get_xydata()) for line in axes.lines)
    assert (found[0, 0], found[-1, 0]) == (-4.0, 4.0)
    assert np.abs(exact[:, 1] / np.exp(exact[:, 0]) - 1).max() < 1e-7
    for x, y in found[::331].tolist():
        rounded = round_exact(x, "float8_e4m3fn")
        assert y == reference.function("exp", rounded, "float8_e4m3fn")


def test_several_formats_share_panels_or_have_their_own():
    formats = ["float8_e4m3fn", fpemu.format("float8_e5m2")]
    together = fpemu.plot_formats(formats, panels=["line", "spacing"])
    assert len(together.axes) == 2
    names = [label.get_text() for label in together.axes[0].get_yticklabels()]
    assert names == ["float8_e4m3fn", "float8_e5m2"]
    hues = {line.get_color() for line in together.axes[1].lines}
    assert hues == {colors.LIGHT["c0"], colors.LIGHT["c1"]}
    apart = fpemu.plot_formats(formats, panels=["line", "spacing"], apart=True)
    assert len(apart.axes) == 4
    assert [axes.lines[0].get_color() for axes in apart.axes[2:]] == [
        colors.LIGHT["c0"],
        colors.LIGHT["c1"],
    ]
    titles = [axes.get_title(loc="left") for axes in apart.axes[:2]]
    assert titles == ["float8_e4m3fn, p = 4", "float8_e5m2, p = 3"]


@pytest.mark.parametrize("format", ["float64", "float8_e8m0fnu", "Binary3p1uf"])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_every_kind_of_format_can_be_drawn(format, scale):
    for axes in fpemu.plot_formats(format, scale=scale).axes:
        assert all(np.isfinite(axes.get_xlim()))
        assert axes.get_xlim()[0] < axes.get_xlim()[1]


def test_a_range_without_any_number_of_the_format_is_empty():
    line, spacing, error = fpemu.plot_formats("float4_e2m1fn", range=(100, 200)).axes
    assert line.collections[0].get_segments() == []
    assert drawn(spacing)[0].size == 0
    assert drawn(error)[0].size == 0


SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-"}


@pytest.mark.parametrize("kind", SIGNATURES)
def test_the_name_of_a_file_says_its_kind(tmp_path, kind):
    path = tmp_path / f"picture.{kind.upper()}"
    figure = fpemu.plot_formats("float4_e2m1fn", path, panels="line")
    written = path.read_bytes()
    assert written.startswith(SIGNATURES[kind])
    if kind == "png":  # which notebooks show
        assert figure._repr_png_() == written
    else:
        fpemu.plot_formats("float4_e2m1fn", path, panels="line")
        assert path.read_bytes() == written


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"formats": []}, ValueError, "formats must have at least one"),
        ({"formats": ["float9"]}, ValueError, "unknown format 'float9'"),
        ({"panels": []}, ValueError, "panels has 'none': expected line, spacing, error, erf"),
        ({"panels": ["lines"]}, ValueError, "panels has 'lines': expected line, spacing"),
        ({"range": (2, 1)}, ValueError, r"range must be two finite numbers.*\(2, 1\)"),
        ({"range": (0, math.inf)}, ValueError, "range must be two finite numbers"),
        ({"range": (0, 1e308)}, ValueError, "range must lie within"),
        ({"range": 3}, ValueError, "range must be two numbers, not 3"),
        ({"scale": "symlog"}, ValueError, "scale must be 'linear' or 'log', not 'symlog'"),
        ({"scale": "log", "range": (0, 1)}, ValueError, "range must be positive .* not from 0"),
        ({"path": "a.gif"}, ValueError, "path 'a.gif' ends in no kind of picture: expected .png"),
        ({"path": "nowhere/a.png"}, FileNotFoundError, "no folder 'nowhere'"),
    ],
)
def test_what_cannot_be_drawn_is_named(options, error, message):
    with pytest.raises(error, match=message):
        fpemu.plot_formats(**{"formats": "bfloat16", **options})


# --- errors of sums -------------------------------------------------------------------------------

UNITS = ["e8m4", "hopper.wgmma.e4m3", "blocked:e8m4:16", "exact:float64"]


@pytest.fixture(scope="module")
def found():
    return fpemu.sum_errors(UNITS, [4, 64, 256], trials=9, inputs="float8_e4m3fn")


def test_lines_are_medians_and_bounds(found):
    figure = fpemu.plot_errors(found)
    axes, below = figure.axes
    for number, unit in enumerate(UNITS):
        median, bound = (axes.lines[2 * number + i].get_ydata() for i in (0, 1))
        rows = [each for each in found if each.unit == unit]
        assert [0 if np.isnan(y) else y for y in median] == [each.median for each in rows]
        assert list(bound) == [each.bound for each in rows]
        assert list(axes.lines[2 * number].get_xdata()) == [each.terms for each in rows]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    top, bottom = axes.get_ylim()[1], axes.get_ylim()[0]
    assert bottom < min(each.median for each in found if each.median)
    assert top > max(each.largest for each in found)
    assert "64" in [label.get_text() for label in below.get_xticklabels()]


def test_medians_of_zero_are_seen_below_the_axis(found):
    axes, below = fpemu.plot_errors(found).axes
    zeros = {each.unit: [] for each in found if each.median == 0}
    for each in found:
        if each.median == 0:
            zeros[each.unit].append(each.terms)
    assert zeros["exact:float64"] == [4, 64, 256]
    assert [list(line.get_xdata()) for line in below.lines] == [*zeros.values()]
    assert [label.get_text() for label in below.get_yticklabels()] == ["median 0"]
    hues = [axes.lines[2 * UNITS.index(unit)].get_color() for unit in zeros]
    assert [line.get_color() for line in below.lines] == hues
    others = [each for each in found if each.unit == "e8m4"]
    assert len(fpemu.plot_errors(others).axes) == 1


def test_units_are_measured_and_the_picture_is_written(found, tmp_path):
    path = tmp_path / "errors.pdf"
    options = {"trials": 9, "inputs": "float8_e4m3fn"}
    figure = fpemu.plot_errors("e8m4", [4, 64, 256], path, **options)
    assert path.read_bytes().startswith(SIGNATURES["pdf"])
    median = figure.axes[0].lines[0].get_ydata()
    assert list(median) == [each.median for each in found if each.unit == "e8m4"]


def test_a_picture_of_nothing_is_refused(found):
    with pytest.raises(TypeError, match="terms must be the lengths"):
        fpemu.plot_errors(["e8m4"])
    with pytest.raises(TypeError, match="trials cannot change"):
        fpemu.plot_errors(found, trials=3)
    with pytest.raises(ValueError, match="no kind of picture"):
        fpemu.plot_errors(found, path="errors.txt")


# --- colors and packages --------------------------------------------------------------------------


def seen(color, missing):
    """A color as those see it who lack one kind of cone (Viénot, Brettel, Mollon, 1999)."""
    linear = np.array(matplotlib.colors.to_rgb(color)) ** 2.2
    to_cones = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    lost = {
        "long": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
        "middle": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
    }[missing]
    return np.linalg.inv(to_cones) @ np.array(lost) @ to_cones @ linear


@pytest.mark.parametrize("missing", ["long", "middle"])
def test_the_first_colors_differ_for_the_color_blind(missing):
    hues = [seen(colors.LIGHT[f"c{number}"], missing) for number in range(4)]
    apart = [np.abs(a - b).max() for i, a in enumerate(hues) for b in hues[:i]]
    assert min(apart) > 0.05


def test_without_matplotlib_a_message_says_what_to_install(monkeypatch):
    fpemu.plot_formats("float4_e2m1fn", panels="line")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "fpemu.pictures.drawing")
    monkeypatch.delattr(fpemu.pictures, "drawing")
    message = r"pictures need matplotlib: pip install 'fpemu-lamp\[plot\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        fpemu.plot_formats("float4_e2m1fn")
    with pytest.raises(ModuleNotFoundError, match=message):
        fpemu.plot_errors("e8m4", 4)
