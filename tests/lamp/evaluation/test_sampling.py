"""Runs on stochastic machines beside the truth."""

from dataclasses import replace

import numpy as np
import pytest

from fpemu import Rounding
from lamp import hardware
from lamp.evaluation import Samples, samples, stochastic
from lamp.machines import STEPS
from tests.lamp.tiny_models import FAMILIES, TOKENS


def roundings(part):
    if isinstance(part, tuple):
        for each in part:
            yield from roundings(each)
        return
    for value in vars(part).values():
        if isinstance(value, Rounding):
            yield value
        elif hasattr(value, "parts"):
            yield from roundings(value)


TWO = replace(hardware("ps7"), name="two", recomputed=("e8m10", "float32"))


@pytest.mark.parametrize(
    "name",
    ["fp32", "ps7", "bf16", "published-ps4", "hopper-fp8-promoted", TWO],
    ids=lambda spec: getattr(spec, "name", spec),
)
def test_every_rounding_of_a_stochastic_machine_is_stochastic_with_a_seed_of_its_own(name):
    given, machine = hardware(name), stochastic(name, 3)
    seeds = []
    for step in STEPS:
        found = list(roundings(getattr(machine, step)))
        before = list(roundings(getattr(given, step)))
        assert [each.overflow for each in found] == [each.overflow for each in before]
        assert {each.mode for each in found} == {"sr"}
        seeds += [each.seed for each in found]
    assert len(set(seeds)) == len(seeds) >= len(STEPS)
    assert machine == stochastic(name, 3) != stochastic(name, 4)
    assert (machine.weights, machine.carrier) == (given.weights, given.carrier)


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_what_their_definitions_say(family):
    model = FAMILIES[family].model("fp32")
    found = samples(model, TOKENS, "ps4", count=4, seed=7)
    runs = np.array(
        [model.with_hardware(stochastic("ps4", 7 + i)).logits(TOKENS) for i in range(4)]
    )
    machine, truth = (model.with_hardware(name).logits(TOKENS) for name in ("ps4", "fp64"))
    order = np.argsort(-machine, axis=1)[:, :2]
    margin = lambda x: np.subtract(*np.take_along_axis(x.astype(float), order, 1).T)  # noqa: E731
    margins = np.array([margin(run) for run in runs])
    digits = np.log10(abs(margins.mean(0)) / margins.std(0, ddof=1))
    np.testing.assert_allclose(found.digits, np.maximum(digits, 0), atol=1e-9)
    right = np.log10(abs(margin(truth)) / abs(margin(machine) - margin(truth)))
    np.testing.assert_allclose(found.right, np.maximum(right, 0), atol=1e-9)
    same = (runs.argmax(-1) == machine.argmax(-1)).all(0)
    np.testing.assert_array_equal(found.stable, same)
    np.testing.assert_array_equal(found.flipped, machine.argmax(-1) != truth.argmax(-1))


def test_more_bits_leave_more_digits():
    model = FAMILIES["gpt2"].model("fp32")
    coarse, fine = (samples(model, TOKENS, name, count=4).digits for name in ("ps7", "fp32"))
    assert (fine > coarse + 2).all()


def test_what_samples_miss():
    found = Samples(
        digits=np.array([3.0, 3.0, 0.5, 0.0]),
        right=np.array([1.0, 2.5, 0.0, 2.0]),
        stable=np.array([True, True, False, False]),
        flipped=np.array([True, False, True, False]),
    )
    assert found.missed.tolist() == [True, False, False, False]
    assert found.alarms.tolist() == [False, False, False, True]
    assert found.overrated.tolist() == [True, False, False, False]


def test_one_run_is_no_sample():
    with pytest.raises(ValueError, match="count must be an integer of at least 2, not 1"):
        samples(FAMILIES["gpt2"].model("fp32"), TOKENS, "fp32", count=1)
