"""Mistakes in calls: the message names the argument and what was expected."""

import pytest

import lamp
from lamp import bounds, compositions


@pytest.fixture(scope="module")
def model():
    return lamp.from_pretrained("embedded")


def test_a_machine_in_place_of_a_model_is_named(model):
    with pytest.raises(TypeError, match=r"model must be a model, such as .* gives, not 'bf16'"):
        lamp.evaluate(model, "bf16", [1, 2])
    with pytest.raises(TypeError, match="reference must be a model or its logits, not 'fp64'"):
        lamp.evaluate("fp64", model, [1, 2])


def test_a_text_in_place_of_tokens_is_named(model):
    with pytest.raises(TypeError, match=r"not the text 'hello': encode\(\) gives them"):
        model.logits("hello")


def test_a_number_is_no_path_of_a_model():
    with pytest.raises(TypeError, match="a model must be given by a path or a name, not int 3"):
        lamp.from_pretrained(3)


def test_a_number_is_no_study(tmp_path):
    with pytest.raises(TypeError, match="study must be a Study or the path of a file, not 3"):
        lamp.sweep(3, store=tmp_path / "store.sqlite")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("step", ["weights", "scores", "softmax", "residual"])
def test_the_step_of_an_unknown_format_is_named(step):
    with pytest.raises(ValueError, match=f"^{step}: unknown format 'foo'"):
        lamp.Hardware("mine", **{step: "foo"})
    with pytest.raises(TypeError, match=f"^{step}: "):
        lamp.Hardware("mine", **{step: 3})


def test_arguments_of_a_bound_are_named():
    with pytest.raises(TypeError, match=r"arguments must be ProductErrors, .* gives, not 3"):
        bounds.bound(compositions.Softmax(), 3)


def test_a_rule_has_its_short_name_everywhere():
    assert lamp.LAMP("tv", tau=0.1) == lamp.LAMP("total_variation", tau=0.1)
    assert lamp.LAMP("tv", tau=0.1).rule == "total_variation"
    chosen = lamp.select([0.7, 0.2, 0.1], rule="tv", budget=0.34)
    assert chosen.tolist() == [True, False, False]


def test_a_rule_without_an_amount_says_that_there_is_none():
    with pytest.raises(ValueError, match="'normwise' takes either tau or a budget, not none"):
        lamp.LAMP()
    with pytest.raises(ValueError, match=r"not tau 1\.2 and budget 0\.1"):
        lamp.LAMP(tau=1.2, budget=0.1)
