"""The architect, who designs a matrix unit: 8 terms, 12 bits, truncated, an fp22 accumulator.

Only what docs/fpemu.md, docs/hardware.md and docs/lamp.md show is used.  The judges are a unit of
ten lines in rational arithmetic, and the definition of perplexity.
"""

import json
import math
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

import fpemu
import lamp

UNIT = fpemu.TensorCore(8, 12, "fp22", "rtz", inputs="bfloat16")
MACHINE = """
name = "eight terms"
preset = "bf16"

[products.accumulator]
kind = "tensor_core"
block = 8
fraction_bits = 12
format = "fp22"
rounding = "rtz"
inputs = "bfloat16"
"""
TEXT = "If it were done when 'tis done, then 'twere well it were done quickly: if the assassination"


def exponent(x):
    """floor(log2 |x|), exactly."""
    up = abs(x).numerator.bit_length() - abs(x).denominator.bit_length()
    return up if Fraction(2) ** up <= abs(x) else up - 1


def cut(x, quantum):
    """Toward zero to a multiple."""
    return math.trunc(x / quantum) * quantum


def as_designed(a, b):
    """The inner product as the architect writes it down."""
    total = Fraction(0)
    for start in range(0, len(a), 8):
        pairs = zip(a[start : start + 8], b[start : start + 8], strict=True)
        terms, tops = [total], [exponent(total)] if total else []
        for x, y in ((Fraction(float(x)), Fraction(float(y))) for x, y in pairs):
            terms.append(x * y)
            tops += [exponent(x) + exponent(y)] if x * y else []
        top = max(tops, default=0)
        total = sum(cut(term, Fraction(2) ** (top - 12)) for term in terms)
        total = cut(total, Fraction(2) ** (exponent(total) - 13)) if total else total
    return float(total)


def test_the_unit_computes_as_designed():
    generator = np.random.default_rng(0)
    scale = 2.0 ** generator.integers(-6, 6, size=(2, 40, 32))
    a, b = fpemu.round(generator.normal(size=(2, 40, 32)) * scale, "bfloat16")
    found = [float(fpemu.dot(x, y, UNIT)) for x, y in zip(a, b, strict=True)]
    assert found == [as_designed(x, y) for x, y in zip(a, b, strict=True)]
    exact = (a.astype(float) * b).sum(axis=1)
    size = np.abs(a.astype(float) * b).sum(axis=1)
    assert (np.abs(found - exact) <= UNIT.error_bound(32) * size).all()
    assert (found != exact).any()


def test_from_the_unit_to_perplexity_and_picture(shell):
    Path("unit.toml").write_text(MACHINE)
    shown = shell("lamp hardware show unit.toml")
    assert shown.count("tensor core(8 terms, ") == 7  # products of weights, scores, values
    Path("text.txt").write_text(TEXT)
    found = json.loads(shell("lamp compare bf16 unit.toml hopper-fp8 --text text.txt --json"))
    perplexities = [run["metrics"]["perplexity"] for run in found["runs"]]
    model = lamp.from_pretrained("embedded", hardware="unit.toml")
    assert model.hardware.mlp_up.accumulator == UNIT
    tokens = model.encode(TEXT)
    logits = model.logits(tokens)[:-1].astype(float)
    chosen = logits[np.arange(len(logits)), tokens[1:]]
    losses = np.log(np.exp(logits).sum(axis=1)) - chosen
    assert math.isclose(perplexities[1], math.exp(losses.mean()), rel_tol=1e-12)
    assert len(set(perplexities)) == 3
    shell("lamp depth bf16 unit.toml --text text.txt --output depth.svg")
    text = " ".join(ElementTree.parse("depth.svg").getroot().itertext())
    assert "eight terms" in text
    assert "bf16" in text
