"""Families of transformers on machines: random models against transformers' own float64."""

import inspect

import numpy as np
import pytest
import torch
import transformers

import fpemu
import lamp
from lamp import LAMP
from tests.lamp.integrations import random_families
from tests.lamp.integrations.random_families import FAMILIES, TOKENS, float64_logits, random_model

TEXTS = torch.tensor(np.random.default_rng(1).integers(3, 61, (2, TOKENS)))
CAUSAL = [name for name, family in FAMILIES.items() if family.causal]


@pytest.fixture(scope="module", params=FAMILIES)
def any_family(request):
    name = request.param
    return FAMILIES[name], random_model(name), random_families.simulated(name)


@pytest.fixture(scope="module", params=CAUSAL)
def causal(request):
    simulated = random_families.simulated(request.param)
    return simulated.with_hardware("hopper", LAMP("strict", tau=0.3))


def given(family, texts=TEXTS):
    """The texts, read by the decoder, too, if there are two."""
    two = family.auto == "AutoModelForSeq2SeqLM"
    return {"input_ids": texts, **({"decoder_input_ids": texts[:, 4:13]} if two else {})}


def test_the_fp64_machine_is_transformers_in_float64(any_family):
    family, model, simulated = any_family
    expected = float64_logits(model, family.own, **given(family))
    found = simulated.model(**given(family)).logits.numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=family.close * scale)
    # The same numbers with float32's errors are far away from that.
    if family.close < 1e-9:
        rounded = simulated.with_hardware("fp32").model(**given(family)).logits.numpy()
        assert np.abs(rounded - expected).max() > 1e3 * family.close * scale


def test_sizes_are_those_of_the_weights(any_family):
    _, _, simulated = any_family
    shape, names = simulated.shape, simulated.structure.products.items()
    linear = [
        simulated.model.get_submodule(name)
        for name, product in names
        if (product.step, product.layer) == ("qkv", 0)
    ]
    outputs = sum(module.weight.numel() // shape.width for module in linear)
    assert outputs == (shape.heads + 2 * shape.key_heads) * shape.dimension


def test_models_with_a_head_have_all_steps(any_family):
    _, _, simulated = any_family
    steps = simulated.structure.steps
    assert {"embedding", "lm_head"} <= steps[-1]
    inside = set(lamp.machines.LAYER_FIELDS) & set(lamp.machines.STEPS)
    assert steps[:-1] == (inside - {"recomputed"},) * simulated.shape.layers


def test_what_torch_computes_of_positions_is_named(any_family):
    # Slopes are powers, and biases their products with positions; Falcon divides by the root of d,
    # and T5 has logarithms of distances.
    expected = {
        "bloom": {"pow", "mul"},
        "falcon": {"pow", "to_copy", "mul", "div"},
        "t5": {"log", "mul", "div"},
    }
    family, _, simulated = any_family
    has_slopes = simulated.family != "falcon" or family.options.get("alibi", False)
    named = expected.get(simulated.family, set()) if has_slopes else set()
    assert set(simulated.structure.positional) == named
    assert len(simulated.notes()) == bool(named)


def test_padding_of_a_batch_changes_nothing(any_family):
    family, _, simulated = any_family
    machine = simulated.with_hardware("hopper", LAMP("strict", tau=0.3))
    alone = [machine.model(**given(family, TEXTS[:1, :15])).logits[0].numpy()]
    seen = torch.ones_like(TEXTS)
    padded, positions = TEXTS.clone(), {}
    if family.causal:  # in front of the text
        seen[0, :5] = 0
        padded[0, 5:] = TEXTS[0, :15]
        rows = slice(5, TOKENS)
        if "position_ids" in inspect.signature(type(machine.model).forward).parameters:
            positions = {"position_ids": (seen.cumsum(1) - 1).clamp(min=0)}
    else:
        seen[0, 15:] = 0
        rows = slice(0, 15)
    found = machine.model(
        **{**given(family, TEXTS), "input_ids": padded}, attention_mask=seen, **positions
    ).logits[0]
    if family.auto == "AutoModelForSeq2SeqLM":
        rows = slice(0, len(alone[0]))
    np.testing.assert_array_equal(found.numpy()[rows], alone[0])


def test_generation_with_a_cache_is_generation_without(causal):
    text = TEXTS[:1, :5]
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    kept = causal.model.generate(text, use_cache=True, **options)
    anew = causal.model.generate(text, use_cache=False, **options)
    assert torch.equal(kept, anew)
    assert kept.shape == (1, 8)
    logits = causal.model(kept).logits[0, 4:-1]
    assert torch.equal(logits.argmax(-1), kept[0, 5:])


def test_an_encoder_and_decoder_generate():
    simulated = lamp.simulate(random_model("t5"), "hopper", LAMP("strict", tau=0.3))
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    kept = simulated.model.generate(TEXTS, use_cache=True, **options)
    anew = simulated.model.generate(TEXTS, use_cache=False, **options)
    assert torch.equal(kept, anew)
    logits = simulated.model(input_ids=TEXTS, decoder_input_ids=kept).logits[:, :-1]
    assert torch.equal(logits.argmax(-1), kept[:, 1:])
    with pytest.raises(ValueError, match="reads two texts"):
        simulated.forward([5, 6])


def test_bloom_adds_to_the_residual_stream_within_its_attention():
    simulated = lamp.simulate(random_model("bloom"), lamp.Hardware("sums", residual="e8m4"))
    seen = []
    norm = simulated.model.transformer.h[0].post_attention_layernorm
    norm.register_forward_pre_hook(lambda module, args: seen.append(args[0].numpy()))
    simulated.model(TEXTS)
    np.testing.assert_array_equal(seen[0], fpemu.round(seen[0], "e8m4"))


def test_rates_have_an_entry_per_layer(causal):
    result = causal.forward(TEXTS[0].numpy())
    assert len(result.recomputed["scores"]) == causal.shape.layers
    assert 0 < result.recomputation_rate < 1


def test_models_that_compute_attention_themselves_are_refused():
    config = transformers.MptConfig(vocab_size=61, d_model=32, n_layers=2, n_heads=4)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="does not call transformers' AttentionInterface"):
        lamp.simulate(model)


@pytest.mark.parametrize(
    ("name", "rule", "message"),
    [
        ("gemma2", LAMP("norm", budget=0.1), "not added to the residual stream right in front"),
        ("gpt_neox", LAMP("norm", budget=0.1), "not added to the residual stream right in front"),
        ("phi3", LAMP("activation", budget=0.1), "not read by one that is known"),
        ("mixtral", LAMP("activation", budget=0.1), "are experts"),
        ("mixtral", LAMP("norm", budget=0.1), "are experts"),
        ("no head", LAMP("kl", budget=0.1, on="logits"), "has no head"),
    ],
)
def test_rules_that_a_structure_has_no_place_for_are_refused(name, rule, message):
    model = random_model("qwen2").model if name == "no head" else random_model(name)
    with pytest.raises(ValueError, match=message):
        lamp.simulate(model, "ps4", rule)


def test_a_model_without_a_head_gives_no_logits():
    simulated = lamp.simulate(random_model("qwen2").model, "bf16")
    assert simulated.model(TEXTS).last_hidden_state.shape == (2, TOKENS, 32)
    for act in (simulated.logits, simulated.depth_map, lambda text: simulated.trace(text, 0)):
        with pytest.raises(ValueError, match="Qwen2Model has no head that gives logits"):
            act(TEXTS[0].numpy())


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_encoders_do_not_continue_texts(name):
    simulated = lamp.simulate(random_model(name), "bf16")
    with pytest.raises(ValueError, match=f"{type(simulated.model).__name__} on bf16 does not cont"):
        simulated.generate([5, 6], 2)


FOLLOWED = {
    "certificates": lambda model: lamp.certify(model, [5, 6]),
    "certificates of a machine": lambda model: lamp.certify(model, [5, 6], "bf16"),
    "certificates by a reference": lambda model: lamp.certify(model, [5, 6], kind="reference"),
    "estimates of a run's errors": lambda model: lamp.models.first_order(model, [5, 6]),
    "references by mpmath": lambda model: model.depth_map([5, 6], digits=30),
}


@pytest.mark.parametrize("what", FOLLOWED)
def test_what_follows_the_steps_of_native_models_is_refused(monkeypatch, what):
    simulated = lamp.simulate(random_model("qwen3"), "bf16")
    monkeypatch.setattr(simulated.model, "forward", None)  # before anything is computed
    named = what.split(" of a machine")[0].split(" by a")[0]
    message = (
        rf"{named} follow the steps of a native model, but Qwen3ForCausalLM on bf16 runs through "
        r"transformers\. lamp\.from_pretrained loads a GPT-2 or a Llama natively; of other models, "
        r"lamp\.evaluate and depth_map without digits compare a machine with float64"
    )
    with pytest.raises(ValueError, match=message):
        FOLLOWED[what](simulated)


def test_tiles_refuse_windows_and_sinks():
    machine = lamp.Hardware("tiles", attention=lamp.Tiled())
    with pytest.raises(ValueError, match="attention by tiles is causal"):
        lamp.simulate(random_model("mistral"), machine).model(TEXTS)
    with pytest.raises(ValueError, match="attention by tiles has no sinks"):
        lamp.simulate(random_model("gpt_oss"), machine).model(TEXTS[:, :5])


def test_arithmetic_that_is_not_known_is_refused():
    class Odd(transformers.GPT2LMHeadModel):
        def forward(self, input_ids, attention_mask=None, **kwargs):
            found = super().forward(input_ids, attention_mask=attention_mask, **kwargs)
            found.logits = torch.erfinv(found.logits)
            return found

    config = transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2)
    with pytest.raises(NotImplementedError, match="torch's own arithmetic"):
        lamp.simulate(Odd(config)).model(TEXTS)


def test_attention_refuses_what_it_does_not_know():
    class Odd(transformers.models.qwen2.modeling_qwen2.Qwen2Attention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, weird_bias=1.0, **kwargs)

    model = random_model("qwen2")
    for layer in model.model.layers:
        layer.self_attn.__class__ = Odd
    with pytest.raises(ValueError, match="asked for weird_bias, which is not known"):
        lamp.simulate(model).model(TEXTS)


def test_attention_that_goes_past_the_interface_is_noticed():
    simulated = lamp.simulate(random_model("qwen2"))
    attention = simulated.model.model.layers[1].self_attn
    attention.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(RuntimeError, match="called attention 0 times, expected 1"):
        simulated.model(TEXTS)


def test_parts_do_not_run_by_themselves():
    simulated = lamp.simulate(random_model("qwen2"))
    with pytest.raises(RuntimeError, match="runs by itself"):
        simulated.model.model.layers[0](torch.zeros(1, 2, 32))


def test_models_that_were_changed_by_hand_are_refused():
    model = random_model("qwen2")
    with pytest.raises(ValueError, match="is on a machine already"):
        lamp.simulate(lamp.simulate(model).model)
    model.model.norm.forward = lambda x: x
    with pytest.raises(ValueError, match=r"model\.norm has a forward function put in place"):
        lamp.simulate(model)


def test_products_in_front_of_attention_belong_to_it():
    class Odd(transformers.models.qwen2.modeling_qwen2.Qwen2DecoderLayer):
        def forward(self, hidden_states, **kwargs):
            return super().forward(hidden_states + self.mlp(hidden_states), **kwargs)

    model = random_model("qwen2")
    for layer in model.model.layers:
        layer.__class__ = Odd
    with pytest.raises(ValueError, match="in front of attention but is no part of"):
        lamp.simulate(model)


def test_numbers_written_into_new_memory_stay_numbers_of_the_model():
    class Odd(transformers.GPT2LMHeadModel):
        def forward(self, input_ids, attention_mask=None, **kwargs):
            found = super().forward(input_ids, attention_mask=attention_mask, **kwargs)
            copied = torch.zeros(found.logits.shape)
            copied[:, 1:] = found.logits[:, 1:]
            found.logits = torch.erfinv(copied)
            return found

    config = transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2)
    with pytest.raises(NotImplementedError, match="torch's own arithmetic"):
        lamp.simulate(Odd(config)).model(TEXTS)


def test_what_needs_native_weights_says_so():
    simulated = lamp.simulate(random_model("qwen2"), "ps7")
    with pytest.raises(ValueError, match="runs through transformers"):
        lamp.certify(simulated, TEXTS[0].numpy())
    with pytest.raises(ValueError, match="runs through transformers"):
        simulated.depth_map(TEXTS[0].numpy(), digits=20)


def test_quantized_weights_and_other_objects_are_refused():
    with pytest.raises(TypeError, match="model must be a model of transformers, not str"):
        lamp.simulate("gpt2")
    model = random_model("qwen2")
    model.lm_head.weight = torch.nn.Parameter(
        model.lm_head.weight.to(torch.float8_e4m3fn), requires_grad=False
    )
    with pytest.raises(ValueError, match=r"lm_head.weight holds numbers of type .*float8_e4m3fn"):
        lamp.simulate(model)


@pytest.mark.parametrize(("family", "computed"), [("qwen3", [5, 5, 1]), ("gemma3", [5, 5, 8])])
def test_what_texts_share_is_read_once_until_a_window_lets_go_of_it(family, computed):
    """The window of Gemma 3 has six tokens."""
    model = lamp.simulate(random_model(family), "hopper")
    reading = lamp.models.Reading(model, 8)
    for text, count in zip(
        ([1, 2, 3, 4, 5], [1, 2, 3, 6, 7, 8, 9, 10], [1, 2, 3, 6, 7, 8, 9, 11]),
        computed,
        strict=True,
    ):
        before = reading.computed
        np.testing.assert_array_equal(reading.logits(text, 1), model.logits(text)[-1:])
        assert reading.computed - before == count
