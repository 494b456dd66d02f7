"""What a step costs, worked out by hand, and how much work a token is."""

import numpy as np
import pytest

import fpemu
import lamp
from fpemu import accumulators, devices
from lamp.machines import Function, Product, Sum
from lamp.tuning.costs import COSTS, width, work
from tests.lamp.tiny_models import FAMILIES, TOKENS

FLOAT32 = fpemu.format("float32")


@pytest.mark.parametrize(
    ("step", "bits"),
    [
        (Product(), 24 * 24 + 32),
        (Product("e8m7"), 24 * 24 + 16),
        (Product("float32", "bfloat16"), 8 * 8 + 32),
        (Product("e8m4", "float8_e4m3fn"), 4 * 4 + 13),
        (Product("float32", "mxfp8_e4m3"), 4 * 4 + 32 + 2 * 8 / 32),
        (Product("float32", "nvfp4"), 2 * 2 + 32 + 2 * 8 / 16),
        (Product("float32", "float8_e5m2", scaling="block", block=128), 3 * 3 + 32 + 2 * 32 / 128),
        (Product("float32", "float8_e5m2", scaling="row"), 3 * 3 + 32),
        (Function("bfloat16"), 16),
        (Function("bfloat16", steps="float32"), 32),
        (Sum("float16"), 16),
    ],
)
def test_bits_of_a_step(step, bits):
    assert COSTS["bits"](step, FLOAT32) == bits


def test_operands_that_are_not_rounded_are_as_wide_as_arrays():
    assert COSTS["bits"](Product(), fpemu.format("float64")) == 53 * 53 + 32


@pytest.mark.parametrize(
    ("accumulator", "bits"),
    [
        (accumulators.Sequential("e8m4"), 13),
        (accumulators.Sequential("e8m4", product="float32", via="float32"), 32),
        (accumulators.Pairwise("e8m3"), 12),
        (accumulators.Blocked("float32", 16, "e8m4"), 13 + 32 / 16),
        (accumulators.Blocked("e8m4", 8, "float32"), 32 + 13 / 8),
        (devices.get("hopper.wgmma.e4m3"), 22),
        (devices.get("hopper.wgmma-promoted.e4m3"), 22 + 32 / 128),
        (devices.get("blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32"), 32),
        # Products of two bfloat16 numbers reach from 2**-266 to below 2**256, and have a sign.
        (accumulators.Exact("float32", inputs="bfloat16"), 1 + 2 * (128 + 133)),
    ],
)
def test_width_of_an_accumulator(accumulator, bits):
    assert width(accumulator) == bits


def test_accumulators_alone_cost_nothing_else():
    assert COSTS["accumulators"](Product("e8m7"), FLOAT32) == 16
    assert COSTS["accumulators"](Function(), FLOAT32) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_multiply_adds_are_those_of_a_forward_pass(family):
    model = FAMILIES[family].model("fp32")
    amounts = work(model.shape, len(TOKENS))
    products = ("qkv", "scores", "values", "attention_output", "mlp_up", "mlp_down")
    per_token = model.shape.layers * sum(amounts[each] for each in products) + amounts["lm_head"]
    assert len(TOKENS) * per_token == model.forward(TOKENS).multiply_adds


@pytest.mark.parametrize("family", FAMILIES)
def test_elements_are_those_of_a_forward_pass(family):
    model = FAMILIES[family].model("fp32")
    amounts = work(model.shape, len(TOKENS))
    steps = model.trace(TOKENS, 0).steps
    norms = steps["norm_1"].size + steps["norm_2"].size
    seen = np.count_nonzero(np.tril(np.ones((len(TOKENS), len(TOKENS)))))
    assert len(TOKENS) * amounts["norm"] == norms
    assert len(TOKENS) * amounts["softmax"] == seen * model.shape.heads
    gates = 2 if model.shape.gated else 1
    assert len(TOKENS) * amounts["activation"] == gates * steps["activation"].size


def test_work_of_the_embedded_model():
    shape = lamp.from_pretrained("embedded").shape
    assert work(shape, 512)["lm_head"] == 256 * 2048
