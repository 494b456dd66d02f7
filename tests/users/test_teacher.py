"""The teacher, who shows why 0.1 + 0.2 is not 0.3 in fp8.

Only what docs/tutorial.md and docs/fpemu.md show is used.  The judge is a table of all fp8 numbers
by their definition.
"""

import csv
import re
from fractions import Fraction
from pathlib import Path

import numpy as np

import fpemu

FP8 = "float8_e4m3fn"


def definition(code):
    """The number of a code: a sign, four bits of exponent with bias 7, three of fraction."""
    sign, exponent, fraction = code >> 7, code >> 3 & 15, code & 7
    if (exponent, fraction) == (15, 7):
        return None  # NaN
    magnitude = Fraction(fraction + (8 if exponent else 0), 8) * Fraction(2) ** (
        max(exponent, 1) - 7
    )
    return -magnitude if sign else magnitude


NUMBERS = {code: number for code in range(256) if (number := definition(code)) is not None}


def nearest(x):
    """The number of fp8 next to another, where there is one alone."""
    first, second = sorted(set(NUMBERS.values()), key=lambda each: abs(each - x))[:2]
    assert abs(first - x) < abs(second - x)
    return first


def test_the_sum_is_explained_step_by_step(shell):
    shown = shell(f"fpemu show {FP8} 0.1+0.2")
    tenth, fifth = nearest(Fraction(1, 10)), nearest(Fraction(2, 10))
    exact, rounded = tenth + fifth, nearest(tenth + fifth)
    assert f"0.1+0.2 = {float(exact)} in {FP8}" in shown
    assert f"0.1 is rounded to {float(tenth)}" in shown
    assert f"0.2 is rounded to {float(fifth)}" in shown
    (code,) = re.findall(rf"rne +{float(rounded)}  \(code (0x\w+)\)", shown)
    assert NUMBERS[int(code, 16)] == rounded
    assert rounded != Fraction(3, 10)
    below = max(number for number in NUMBERS.values() if number < rounded)
    assert f"next     {float(below)} below" in shown
    up = (exact - below) / (rounded - below)
    assert f"{float(below)}: {float(1 - up):.0%}, {float(rounded)}: {float(up):.0%}" in shown


def test_whether_the_sum_is_three_tenths_depends_on_the_format():
    """With three stored bits both are 0.3125; with two, the sum is a tie and goes to 0.25."""
    for name, equal in ((FP8, True), ("float8_e5m2", False)):
        tenth, fifth, three = (fpemu.round(x, name) for x in (0.1, 0.2, 0.3))
        assert bool(fpemu.add(tenth, fifth, name) == three) is equal
    tenth, fifth, three = (fpemu.array(x, FP8) for x in (0.1, 0.2, 0.3))
    assert float(tenth + fifth) == float(three) == float(nearest(Fraction(3, 10))) != 0.3


def test_the_table_has_all_numbers(shell):
    rows = list(csv.DictReader(shell(f"fpemu table {FP8} --csv").splitlines()))
    assert len(rows) == 256
    found = {}
    for row in rows:
        value = row["value"]
        if value.lower() != "nan":
            found[int(row["code"])] = Fraction(value)
    assert found == NUMBERS
    assert sorted(set(NUMBERS.values())) == sorted({Fraction(float(x)) for x in fpemu.values(FP8)})


def test_the_picture_is_drawn(shell):
    from matplotlib import image

    shell(f"fpemu plot {FP8} bfloat16 --output spacing.png")
    picture = image.imread("spacing.png")
    assert min(picture.shape[:2]) > 200
    colors = np.unique(np.round(255 * picture[..., :3]) @ (1, 256, 65536))
    assert len(colors) > 20  # lines of two colors, and not a blank page
    assert Path("spacing.png").stat().st_size > 5000
