"""Models by what their checkpoints say they are."""

import json

import numpy as np
import pytest

import fpemu
import lamp
import lamp.integrations
from lamp.lookahead import error_weights
from lamp.models import loading as models
from lamp.models import transformer
from tests.lamp import tiny_models

torch = pytest.importorskip("torch", reason="random checkpoints are made with PyTorch")
from tests.lamp.random_llamas import random_checkpoint, random_llama_checkpoint  # noqa: E402

FAMILIES = {
    "gpt2": (lamp.GPT2, random_checkpoint),
    "llama": (lamp.Llama, random_llama_checkpoint),
}
TOKENS = [1, 2, 60, 7]


def changed(path, **fields):
    """A checkpoint whose configuration says something else."""
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_the_class_is_what_the_checkpoint_says(tmp_path, family):
    kind, make = FAMILIES[family]
    path = make(tmp_path)
    settings = lamp.LAMP(tau=1.2)
    model = lamp.from_pretrained(path, hardware="scores-ps4", lamp=settings)
    assert type(model) is kind
    assert (model.hardware.name, model.lamp) == ("scores-ps4", settings)
    own = kind.from_pretrained(path, hardware="scores-ps4", lamp=settings)
    np.testing.assert_array_equal(model.logits(TOKENS), own.logits(TOKENS))
    plain = lamp.from_pretrained(str(path))
    assert (plain.hardware.name, plain.lamp) == ("fp32", None)


def test_every_family_is_there():
    assert {name: kind for name, (kind, _) in FAMILIES.items()} == models.FAMILIES
    assert type(lamp.from_pretrained()) is lamp.GPT2  # the embedded one


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reader_knows_all_but_the_weights(tmp_path, family):
    kind, make = FAMILIES[family]
    path = make(tmp_path)
    model, reader = lamp.from_pretrained(path), models.reader(path)
    assert type(reader) is kind
    assert (reader.config, reader.shape) == (model.config, model.shape)
    (path / "model.safetensors").unlink()
    assert models.reader(path).shape == model.shape
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        lamp.from_pretrained(path)


@pytest.mark.parametrize("kind", ["mistral", "bert", None, 7])
def test_a_model_of_an_unknown_kind_has_no_native_reader(tmp_path, kind):
    path = changed(random_checkpoint(tmp_path), model_type=kind)
    with pytest.raises(ValueError, match=f"type '{kind}', expected gpt2 or llama") as caught:
        models.reader(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("load", [lamp.from_pretrained, lamp.integrations.reader])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mistral", "model type 'mistral', its architecture GPT2LMHeadModel"),
        ("bert", "model type 'bert', its architecture GPT2LMHeadModel"),
        (None, "transformers cannot read its configuration"),
        (7, "transformers cannot read its configuration"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(tmp_path, kind, words, load):
    path = changed(random_checkpoint(tmp_path), model_type=kind)
    with pytest.raises(ValueError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_model_of_another_family_is_refused(tmp_path):
    path = random_llama_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="type 'llama', expected 'gpt2'"):
        lamp.GPT2.from_pretrained(path)
    with pytest.raises(ValueError, match="type 'gpt2', expected 'llama'"):
        lamp.Llama.from_pretrained("embedded")


@pytest.mark.parametrize("load", [lamp.from_pretrained, models.reader])
def test_what_is_no_checkpoint_is_refused(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r"no model '/no/such/place'"):
        load("/no/such/place")
    with pytest.raises(FileNotFoundError, match=r"it holds no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="is not a model configuration"):
        load(tmp_path)


STRETCHED = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 20,
}


@pytest.mark.parametrize(
    ("rope", "older"),
    [
        ({"rope_type": "default"}, None),
        ({"rope_type": "linear", "factor": 2.5}, {"type": "linear", "factor": 2.5}),
        ({"rope_type": "llama3", **STRETCHED}, {"rope_type": "llama3", **STRETCHED}),
    ],
    ids=["default", "linear", "llama3"],
)
def test_configurations_of_older_transformers_mean_the_same(tmp_path, rope, older):
    """Which had rope_theta and rope_scaling, and wrote down neither a head dimension nor biases."""
    path = random_llama_checkpoint(tmp_path, rope_parameters={"rope_theta": 100.0, **rope})
    model = lamp.from_pretrained(path)
    file = path / "config.json"
    config = json.loads(file.read_text())
    for name in ("rope_parameters", "head_dim", "attention_bias", "mlp_bias"):
        del config[name]
    file.write_text(json.dumps({**config, "rope_theta": 100.0, "rope_scaling": older}))
    found = lamp.from_pretrained(path)
    assert found.config == model.config
    assert found.config.rotary.theta == 100.0
    assert found.config.rotary.kind == rope["rope_type"]
    np.testing.assert_array_equal(found.logits(TOKENS), model.logits(TOKENS))


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 100.0, "factor": 2.0}},
    ],
)
def test_rotary_positions_that_are_not_implemented_are_refused(tmp_path, fields):
    path = changed(random_llama_checkpoint(tmp_path), **{"rope_parameters": None, **fields})
    with pytest.raises(ValueError, match="are not implemented: expected one of default, linear"):
        lamp.from_pretrained(path)


@pytest.mark.parametrize(("place", "step"), [("activation", "mlp_up"), ("norm", "mlp_down")])
def test_running_sums_have_the_random_bits_of_their_layer(monkeypatch, place, step):
    """They are those of the product that look-ahead looks at, not of another draw."""
    product = lamp.Product(fpemu.Pairwise("bfloat16", fpemu.Rounding("sr", seed=3)))
    machine = lamp.Hardware("drawn", **{step: product})
    rule = lamp.evaluation.Setting.parse(f"fp32+{place}:{place}:50%:weights=running_1").lamp
    seen = []

    def noted(name, factors, operands, given):
        seen.append(given)
        return error_weights(name, factors, operands, given)

    monkeypatch.setattr(transformer, "error_weights", noted)
    tiny_models.FAMILIES["gpt2"].model(machine, rule).logits(tiny_models.TOKENS)
    layers = [getattr(machine.derived(layer), step) for layer in range(2)]
    assert layers[0] != layers[1]
    assert [each for each in seen if each.is_stochastic] == layers
