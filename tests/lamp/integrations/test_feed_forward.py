"""Feed-forward layers of few rows in one piece: the bits of their parts on a machine."""

import numpy as np
import pytest
import torch
from transformers.models.qwen3 import modeling_qwen3

import lamp
from fpemu import Rounding
from lamp.integrations.transformers import feed_forward
from tests.lamp.integrations.random_families import random_model

FEW, MANY = (torch.tensor(np.random.default_rng(1).integers(3, 61, (2, n))) for n in (3, 9))
ROUNDED = lamp.Product("e8m7", operands="bfloat16", output="bfloat16")
MACHINES = {
    "rounded": lamp.Hardware(
        "m", mlp_up=ROUNDED, activation=lamp.Function("float16"), mlp_down=ROUNDED
    ),
    "float64": lamp.hardware("fp64"),
    "fp8": lamp.hardware("hopper-fp8"),
}
KNOWN = ("mistral", "qwen3", "gemma3", "gpt_neox", "gptj")
# Phi-3 cuts one product into gate and factor; BERT has a module for each of its products.
UNKNOWN = ("phi3", "bert")


@pytest.fixture
def counted(monkeypatch):
    """The shapes for which feed-forward layers were computed in one piece, trials too."""
    shapes, own = [], feed_forward._computed

    def computed(x, parts, run):
        shapes.append(x.shape)
        return own(x, parts, run)

    monkeypatch.setattr(feed_forward, "_computed", computed)
    return shapes


def part_by_part(monkeypatch, simulated, machine, **options):
    with monkeypatch.context() as patched:
        patched.setattr(feed_forward, "in_one_piece", lambda fitting: {})
        return simulated.with_hardware(machine, **options)


def result(simulated, tokens):
    """What a pass gives, and how much it counted."""
    given = simulated.model(tokens)
    numbers = given.logits if "logits" in given else given.last_hidden_state
    return numbers.numpy(), simulated._run.multiply_adds


@pytest.mark.parametrize("name", [*KNOWN, *UNKNOWN])
def test_the_bits_and_counts_are_those_of_part_by_part(name, monkeypatch, counted):
    simulated = lamp.simulate(random_model(name))
    for machine in MACHINES.values():
        parts = part_by_part(monkeypatch, simulated, machine)
        expected, again = result(parts, FEW), result(parts, FEW)
        assert not counted
        joined = simulated.with_hardware(machine)
        for found in (result(joined, FEW), result(joined, FEW)):
            np.testing.assert_array_equal(found[0], expected[0])
            assert found[1] == expected[1] == again[1]
        # Each layer is tried once and then runs twice.
        assert len(counted) == (0 if name in UNKNOWN else 3 * simulated.shape.layers)
        counted.clear()


def test_many_rows_random_bits_rules_and_traces_go_part_by_part(counted):
    model = random_model("qwen3")
    lamp.simulate(model, "bf16").model(MANY)
    drawn = lamp.Product("float32", output="bfloat16", rounding=Rounding("sr", seed=3))
    lamp.simulate(model, lamp.Hardware("m", mlp_up=drawn)).model(FEW)
    for place in ("norm", "activation"):
        lamp.simulate(model, "ps4", lamp.LAMP(on=place, rule=place, tau=0.05)).model(FEW)
    lamp.simulate(model, "bf16").trace(FEW[0].numpy(), 0)
    assert not counted


class Doubled(modeling_qwen3.Qwen3MLP):
    """More than its parts."""

    def forward(self, x):
        return super().forward(x) * (1 + 2**-20)


def test_a_module_that_does_more_runs_as_it_is(monkeypatch):
    monkeypatch.setattr(modeling_qwen3, "Qwen3MLP", Doubled)
    simulated = lamp.simulate(random_model("qwen3"), "fp64")
    found, _ = result(simulated, FEW)
    expected, _ = result(part_by_part(monkeypatch, simulated, "fp64"), FEW)
    np.testing.assert_array_equal(found, expected)
    monkeypatch.undo()
    assert not np.array_equal(found, result(lamp.simulate(random_model("qwen3"), "fp64"), FEW)[0])
