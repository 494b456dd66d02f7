"""What a machine names and a model does not have, and the other way round, is said."""

import json
import warnings

import numpy as np
import pytest
import torch

import lamp
from lamp.cli.application import main
from lamp.evaluation import Setting, Text, compare
from lamp.machines import UnusedStepWarning, presets
from tests.lamp.integrations.random_families import random_model

QUIET = [*(name.format(mu=4) for name in presets.names()), "hopper-fp8@0=bf16", "ps4@-1,0=mxfp8"]


def without_feed_forward(*layers):
    """A random Qwen3 of two layers, some of which have attention alone."""
    model = random_model("qwen3")
    for number in layers:
        model.model.layers[number].mlp = torch.nn.Identity()
    return model


def in_layers(layers):
    return lamp.hardware("bf16").with_layers({layers: {"activation": "e8m4"}}, "m")


def test_a_step_that_the_model_does_not_have_is_said_at_the_call():
    machine = lamp.Hardware("m", lm_head="e8m4")
    said = "'m' names lm_head, but BertModel has no such step"
    with pytest.warns(UnusedStepWarning, match=said) as first:
        simulated = lamp.simulate(random_model("bert").bert, machine)
    with pytest.warns(UnusedStepWarning, match=said) as second:
        simulated.with_hardware(machine)
    assert simulated.notes() == [said]
    assert [(len(each), each[0].filename) for each in (first, second)] == [(1, __file__)] * 2


@pytest.mark.parametrize("layers", [(), (0, 1)])
def test_machines_that_compute_a_kind_of_step_in_one_way_name_none(layers):
    model = without_feed_forward(*layers) if layers else random_model("bert").bert
    simulated = lamp.simulate(model)
    for name in QUIET:
        assert simulated.structure.named_in_vain(lamp.hardware(name)) == {}


@pytest.mark.parametrize(
    ("lacking", "machine", "where"),
    [
        ((1,), in_layers("1"), "layer 1 of Qwen3ForCausalLM"),
        ((1,), in_layers("-1"), "layer 1 of Qwen3ForCausalLM"),
        ((1,), in_layers("0"), None),
        ((1,), in_layers("0-1"), "layer 1 of Qwen3ForCausalLM"),
        ((0, 1), in_layers("0-1"), "Qwen3ForCausalLM"),
        ((0, 1), lamp.Hardware("m", activation="e8m4"), "Qwen3ForCausalLM"),
        ((0,), lamp.Hardware("m", activation="e8m4"), None),  # one layer has it
        # All layers are named: what the rest would compute is in none.
        ((0, 1), lamp.Hardware("m", activation="e8m4").with_layers({(0, 1): "bf16"}, "m"), None),
    ],
)
def test_layers_that_do_not_have_a_step_are_said(lacking, machine, where):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedStepWarning)
        simulated = lamp.simulate(without_feed_forward(*lacking), machine)
    said = [f"'m' names activation, but {where} has no such step"] if where else []
    assert simulated.notes() == said
    assert np.isfinite(simulated.logits([1, 2, 3])).all()


def test_a_layer_that_the_model_does_not_have_is_refused():
    machine = lamp.hardware("fp32").with_layers({40: {"scores": "e8m4"}}, "m")
    for model in (lamp.from_pretrained("embedded"), lamp.simulate(random_model("qwen3"))):
        with pytest.raises(ValueError, match=r"'m' says what layer 40 computes, but .* has \d lay"):
            model.with_hardware(machine)


def test_native_models_have_nothing_to_say():
    native = lamp.from_pretrained("embedded", hardware=lamp.Hardware("m", activation="e8m4"))
    assert native.notes() == []


def test_results_say_what_the_model_does(tmp_path, capsys):
    model = random_model("bloom")
    text = Text.of(np.arange(6), simulated := lamp.simulate(model))
    found = compare(simulated, text, Setting.parse("bf16"))
    said = "torch computes numbers that depend on positions alone: pow, mul"
    assert found.notes() == [said]
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "tokens").write_text("1 2 3 4 5 6")
    given = [
        "run",
        "--model",
        tmp_path / "model",
        "--token-ids",
        tmp_path / "tokens",
        "--tokens",
        "6",
        "--json",
    ]
    with pytest.raises(SystemExit):
        main(list(map(str, given)))
    assert json.loads(capsys.readouterr().out)["notes"] == [said]
