"""What is seen of things: representations that make equal objects, and HTML for notebooks."""

import re
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
import pytest

import fpemu
from fpemu import formats, scaling
from fpemu.reference import members
from tests.cases import for_each
from tests.oracle.points import ALL_FORMATS

TRUNCATION = fpemu.Rounding("rtz")
UNITS = fpemu.devices.entries()
ACCUMULATORS = [
    fpemu.Sequential("bfloat16"),
    fpemu.Sequential("e5m7", "rtz", via="float32", inputs="float16"),
    fpemu.Sequential("float16", fused=False, product="bfloat16"),
    fpemu.Blocked("float32", 16, fpemu.Sequential("e8m7")),
    fpemu.Pairwise("bfloat16", fpemu.Rounding("sr", random_bits=8, seed=3)),
    fpemu.Exact("float16"),
    fpemu.Promoted(fpemu.devices.get("hopper.wgmma.e4m3"), "float32", 128),
]


class Checked(HTMLParser):
    """Keeps the text, and sees that what is opened is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.tags = [], "", []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag != "path":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += f"{text} "


def read(thing):
    page = Checked(thing._repr_html_())
    assert "script" not in page.tags
    assert not re.search(r"#[0-9a-f]{3,6}|rgb\(", thing._repr_html_())  # pages are light or dark
    return page.text


@for_each("format", ALL_FORMATS)
def test_the_representation_of_a_format_makes_an_equal_one(format):
    made = eval(repr(format))
    assert made == format
    assert made.name == format.name
    assert len(repr(format)) < 150
    assert format.name in read(format)


def test_representations_of_formats_are_short():
    assert repr(fpemu.format("bf16")) == "fpemu.format('bfloat16')"
    mine = fpemu.Format("mine", bits=7, precision=4, bias=3, infinities=False, high_nans=1)
    assert repr(mine) == (
        "fpemu.Format('mine', bits=7, precision=4, bias=3, infinities=False, high_nans=1)"
    )
    false = fpemu.Format("bfloat16", 16, 8, 127, subnormals=False)
    assert eval(repr(false)) == false != fpemu.format("bfloat16")


@pytest.mark.parametrize(
    "name", ["float4_e2m1fn", "float8_e4m3fn", "Binary8p4se", "float8_e8m0fnu"]
)
def test_the_strip_has_a_tick_for_every_positive_number(name):
    format = fpemu.format(name)
    ticks = re.search(r'path d="(M[^"]*)v10"', format._repr_html_())[1].split("v10")
    places = np.array([float(tick.split()[0][1:]) for tick in ticks])
    numbers = np.log2([x for x in members(format) if x > 0])
    expected = (numbers - numbers[0]) / (numbers[-1] - numbers[0])
    np.testing.assert_allclose((places - places[0]) / (places[-1] - places[0]), expected, atol=1e-3)


@pytest.mark.parametrize("accumulator", ACCUMULATORS, ids=str)
def test_the_representation_of_an_accumulator_makes_an_equal_one(accumulator):
    assert eval(repr(accumulator)) == accumulator
    assert str(accumulator) in read(accumulator)


def test_units_are_seen_whole():
    for unit in UNITS:
        core = fpemu.accumulators.ScaledCore
        names = {"ScaledCore": core, "Device": fpemu.devices.Device, "fpemu": fpemu}
        assert eval(repr(unit), names) == unit
        for fact in (unit.name, unit.inputs, str(unit.accumulator), unit.source):
            assert fact in read(unit)
        read(unit.accumulator)


def test_what_is_by_default_as_it_is_is_left_out():
    assert repr(ACCUMULATORS[0]) == "fpemu.Sequential('bfloat16')"
    assert repr(fpemu.Rounding("sr", seed=1)) == "fpemu.Rounding('sr', seed=1)"
    assert repr(ACCUMULATORS[3]) == (
        "fpemu.Blocked('float32', 16, inner=fpemu.Sequential('bfloat16'))"
    ).replace("bfloat16", "e8m7")


def test_an_accumulator_of_ones_own_is_seen_as_a_dataclass():
    @dataclass(frozen=True)
    class Own(fpemu.Accumulator):
        format: fpemu.Format = formats.bfloat16
        rounding: fpemu.Rounding = TRUNCATION

    assert repr(Own()).endswith(
        "Own(format=fpemu.format('bfloat16'), rounding=fpemu.Rounding('rtz'))"
    )
    assert "rtz" in read(Own())


def test_arrays_and_block_scaled_arrays_show_their_numbers():
    text = read(fpemu.array([[0.3, 1.0]], "bfloat16", "rtz"))
    for words in ("array: 1 x 2, bfloat16", "rtz", "0.29882812"):
        assert words in text
    assert "one number" in read(fpemu.array(1.0, "bfloat16"))
    read(fpemu.array([], "bfloat16"))
    text = read(scaling.quantize(np.arange(64.0), "nvfp4"))
    for words in ("nvfp4: 64", "float4_e2m1fn, blocks of 16 along axis 0", "float8_e4m3fn, 4"):
        assert words in text
    read(scaling.quantize([], "mxfp4"))
    read(scaling.quantize([np.nan], "mxfp8_e4m3"))
    for format in scaling.FORMATS.values():
        assert eval(repr(format)) == format
        assert format.name in read(format)
    own = scaling.BlockFormat("own", "float4_e2m1fn", "float8_e5m2", 8)
    assert eval(repr(own)) == own
    assert "precision" in read(fpemu.finfo("bfloat16"))


def test_names_cannot_put_anything_into_a_page():
    name = "<script>alert(1)</script>\x1b[31m"
    format = fpemu.Format(name, 8, 4, 7, high_nans=3)
    assert "<script>alert(1)</script>\ufffd[31m" in read(format)
    assert "<script" not in format._repr_html_()
    read(fpemu.Sequential(format))
