"""Models of transformers on machines: the bits of the native models, for GPT-2 and Llama."""

import numpy as np
import pytest
import torch
import transformers

import lamp
from fpemu import Rounding
from lamp import LAMP
from lamp.machines import presets
from tests.lamp.random_llamas import random_checkpoint, random_llama_checkpoint

MACHINES = [name.format(mu=5) for name in presets.names()]
TOKENS = np.random.default_rng(0).integers(0, 61, 20)
SR = Rounding("sr", seed=3)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 12,
    "rope_theta": 1000.0,
}
MODELS = {
    "gpt2": (random_checkpoint, {}),
    "llama": (random_llama_checkpoint, {"head_dim": 16}),
    "llama with biases": (
        random_llama_checkpoint,
        {
            "head_dim": 24,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": LLAMA3,
        },
    ),
}
RULES = [
    LAMP(tau=1.2),
    LAMP("strict", tau=0.1),
    LAMP("relaxed", tau=0.1, length=1024),
    LAMP("total_variation", budget=0.05, weights="products"),
    LAMP("total_variation", budget=0.05, scope="row", weights="errors"),
    LAMP("kl", budget=0.1, weights="norms", leading_columns=2),
    LAMP("componentwise", tau=1.0, weights="abs"),
    LAMP("random", budget=0.1),
    LAMP("value_aware", tau=0.1),
    LAMP("total_variation", tau=0.05, control="padded"),
    LAMP("norm", budget=0.05),
    LAMP("activation", budget=0.05),
    LAMP("total_variation", budget=0.05, on="logits"),
    [
        LAMP("norm", tau=0.01),
        LAMP("activation", tau=0.3),
        LAMP("kl", tau=0.01),
        LAMP("largest", budget=0.1, on="logits"),
    ],
]
PARTS_OF_MATRICES = {
    "tensor scaling": lamp.Hardware(
        "tensor", qkv=lamp.Product("float32", "float8_e4m3fn", "float32", "rne", "tensor", 0.5)
    ),
    "stochastic": lamp.Hardware(
        "sr",
        embedding=lamp.Sum("bfloat16", SR),
        norm=lamp.Function("bfloat16", SR),
        qkv=lamp.Product("float32", "bfloat16", "bfloat16", SR),
        scores=lamp.Product("e8m7", rounding=SR),
        softmax=lamp.Function("bfloat16", SR),
        attention_output=lamp.Product("float32", "bfloat16", "bfloat16", SR),
        activation=lamp.Function("bfloat16", SR),
        residual=lamp.Sum("bfloat16", SR),
    ),
    "a format for each step": lamp.Hardware(
        "all",
        weights="e8m12",
        embedding="e8m11",
        norm="e8m10",
        qkv=lamp.Product("float32", output="e8m9"),
        scores="e8m8",
        softmax="e8m13",
        values=lamp.Product("float32", output="e8m14"),
        attention_output=lamp.Product("float32", output="e8m15"),
        mlp_up=lamp.Product("float32", output="e8m16"),
        activation="e8m6",
        mlp_down=lamp.Product("float32", output="e8m17"),
        residual="e8m18",
        lm_head=lamp.Product("float32", output="e8m5"),
    ),
    "tiles": lamp.Hardware(
        "tiles", scores="e8m4", attention=lamp.Tiled(rows=4, columns=8, parts=2)
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """A checkpoint read natively, and by transformers."""
    make, options = MODELS[request.param]
    path = make(tmp_path_factory.mktemp("model"), **options)
    return lamp.from_pretrained(path), lamp.simulate(load(path))


def load(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path)


def assert_same(native, simulated, tokens=TOKENS):
    expected, found = native.forward(tokens), simulated.forward(tokens)
    np.testing.assert_array_equal(found.logits, expected.logits)
    assert found.logits.dtype == expected.logits.dtype
    assert found.recomputed == expected.recomputed
    assert found.multiply_adds == expected.multiply_adds


def both(pair, machine, rules=None):
    return [model.with_hardware(machine, rules) for model in pair]


@pytest.mark.parametrize("machine", MACHINES)
def test_bits_are_those_of_the_native_model(pair, machine):
    assert_same(*both(pair, machine))


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_what_rules_recompute_is_the_same(pair, rules):
    native, simulated = both(pair, "ps4", rules)
    assert_same(native, simulated)
    assert simulated.forward(TOKENS).recomputation_rate > 0


@pytest.mark.parametrize("name", PARTS_OF_MATRICES)
def test_scales_random_bits_and_tiles_are_the_same(pair, name):
    rules = LAMP("relaxed", tau=0.2) if name == "tiles" else None
    assert_same(*both(pair, PARTS_OF_MATRICES[name], rules))


LAYERED = {
    "a format for each step of the last layer": (
        lamp.hardware("hopper-fp8").with_layers(
            {-1: PARTS_OF_MATRICES["a format for each step"], 0: {"weights": "e8m3"}}
        ),
        [LAMP("norm", budget=0.05), LAMP("activation", budget=0.05)],
    ),
    "random bits and tiles": (
        lamp.hardware("scores-ps4").with_layers(
            {0: PARTS_OF_MATRICES["stochastic"], 1: PARTS_OF_MATRICES["tiles"]}
        ),
        LAMP("relaxed", tau=0.2),
    ),
    "float64": (lamp.hardware("bf16@1=fp64"), LAMP("kl", budget=0.1, on="logits")),
    "rules": (
        lamp.hardware("ps4"),
        [
            LAMP("kl", budget=0.1, layers="0"),
            LAMP("strict", tau=0.1),
            LAMP("norm", budget=0.05, layers="-1"),
            LAMP("activation", budget=0.05, layers="0"),
        ],
    ),
}


@pytest.mark.parametrize("name", LAYERED)
def test_layers_that_differ_are_the_same(pair, name):
    assert_same(*both(pair, *LAYERED[name]))


def test_a_matrix_that_layers_share_is_held_as_each_layer_does(tmp_path):
    model, apart = load(random_checkpoint(tmp_path)), load(tmp_path)
    first, second = model.transformer.h[:2]
    second.mlp.c_fc.weight = first.mlp.c_fc.weight
    with torch.no_grad():
        apart.transformer.h[1].mlp.c_fc.weight.copy_(first.mlp.c_fc.weight)
    machine = lamp.hardware("fp32").with_layers({1: {"weights": "e8m4"}}, "m")
    expected, found = (lamp.simulate(each, machine).logits(TOKENS) for each in (apart, model))
    np.testing.assert_array_equal(found, expected)


def test_a_vector_that_layers_share_has_one_format(tmp_path):
    model = load(random_checkpoint(tmp_path))
    first, second = model.transformer.h[:2]
    second.ln_1.weight = first.ln_1.weight
    machine = lamp.hardware("fp32").with_layers({1: {"scores": "e8m4"}}, "m")
    assert lamp.simulate(model, machine).forward(TOKENS).logits.any()
    machine = lamp.hardware("fp32").with_layers({1: {"weights": "e8m4"}}, "m")
    message = r"h.0.ln_1.weight and .*h.1.ln_1.weight are one tensor, but m holds it in two"
    with pytest.raises(ValueError, match=message):
        lamp.simulate(model, machine)


def test_texts_of_a_batch_do_not_know_of_each_other(pair):
    texts = np.stack([TOKENS, TOKENS[::-1]])
    for machine, rules in (
        ("hopper-fp8", LAMP("total_variation", budget=0.1, on="logits")),
        (PARTS_OF_MATRICES["stochastic"], [LAMP("random", budget=0.1), LAMP("norm", budget=0.1)]),
    ):
        native, simulated = both(pair, machine, rules)
        together = simulated.model(torch.tensor(texts)).logits
        np.testing.assert_array_equal(together.numpy(), native.logits(texts))


def test_padding_in_front_of_a_text_changes_nothing(pair):
    # Matrix units sum in blocks, which padding would shift.
    padded = torch.tensor(np.stack([np.r_[np.zeros(3, int), TOKENS[:12]], TOKENS[:15]]))
    seen = torch.ones_like(padded)
    seen[0, :3] = 0
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    rules = LAMP("strict", tau=0.1)
    for machine in ("hopper", "cdna3", "ps5"):
        native, simulated = both(pair, machine, rules)
        found = simulated.model(padded, attention_mask=seen, position_ids=positions).logits
        np.testing.assert_array_equal(found[0, 3:].numpy(), native.logits(TOKENS[:12]))
        np.testing.assert_array_equal(found[1].numpy(), native.logits(TOKENS[:15]))


@pytest.mark.parametrize("front", [0, 3])
def test_padding_of_a_batch_changes_nothing_by_tiles(pair, front):
    rules = LAMP("relaxed", tau=0.2)
    native, simulated = both(pair, PARTS_OF_MATRICES["tiles"], rules)
    padded = torch.tensor(np.stack([np.roll(np.pad(TOKENS[:12], (0, 8)), front), TOKENS]))
    seen = torch.ones_like(padded)
    seen[0, :front] = seen[0, 12 + front :] = 0
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    found = simulated.model(padded, attention_mask=seen, position_ids=positions).logits.numpy()
    np.testing.assert_array_equal(found[0, front : 12 + front], native.logits(TOKENS[:12]))
    np.testing.assert_array_equal(found[1], native.logits(TOKENS))
    # As many scores are counted as in the texts.
    counted = simulated._run.counts["scores"][0].components
    parts = (native.forward(text).recomputed["scores"][0] for text in (TOKENS[:12], TOKENS))
    assert counted == sum(part.components for part in parts)


@pytest.mark.parametrize(
    ("machine", "rules"), [("hopper-fp8", LAMP("strict", tau=0.1)), ("ps4", LAMP(tau=1.2))], ids=str
)
def test_texts_are_continued_alike(pair, machine, rules):
    native, simulated = both(pair, machine, rules)
    expected = native.generate(TOKENS[:7], 5)
    np.testing.assert_array_equal(simulated.generate(TOKENS[:7], 5), expected)
    own = simulated.model.generate(
        torch.tensor(TOKENS[None, :7]), max_new_tokens=5, do_sample=False, eos_token_id=None
    )
    np.testing.assert_array_equal(own[0].numpy(), expected)


def test_texts_are_drawn_alike(pair):
    native, simulated = both(pair, "hopper-fp8", LAMP("strict", tau=0.1))
    how = {"temperature": 0.8, "top_k": 20, "seed": 3}
    expected = native.generate(TOKENS[:7], 5, **how)
    np.testing.assert_array_equal(simulated.generate(TOKENS[:7], 5, **how), expected)
    assert not np.array_equal(expected, native.generate(TOKENS[:7], 5))
    torch.manual_seed(3)
    text = TOKENS[:7]
    for _ in range(5):  # as transformers draws
        logits = torch.from_numpy(native.logits(text)[-1])
        text = np.append(text, torch.multinomial(torch.softmax(logits, -1)[None], 1).item())
    options = {"max_new_tokens": 5, "do_sample": True, "top_k": 0, "eos_token_id": None}
    for use_cache in (True, False):
        torch.manual_seed(3)
        own = simulated.model.generate(
            torch.tensor(TOKENS[None, :7]), use_cache=use_cache, **options
        )
        np.testing.assert_array_equal(own[0].numpy(), text)


def test_texts_of_a_batch_are_continued_as_alone(pair):
    native, simulated = both(pair, "hopper", LAMP("relaxed", tau=0.1))
    padded = torch.tensor(np.stack([np.r_[np.zeros(3, int), TOKENS[:5]], TOKENS[:8]]))
    seen = torch.ones_like(padded)
    seen[0, :3] = 0
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = simulated.model.generate(padded, attention_mask=seen, **options).numpy()
    np.testing.assert_array_equal(found[0, 3:], native.generate(TOKENS[:5], 4))
    np.testing.assert_array_equal(found[1], native.generate(TOKENS[:8], 4))


def test_a_cache_is_refused_where_earlier_tokens_depend_on_later_ones(pair):
    _, simulated = both(pair, "ps4", LAMP(tau=1.2))
    first = simulated.model(torch.tensor(TOKENS[None, :7]), use_cache=True)
    kept = getattr(first, "cache", None) or first.past_key_values
    name = "cache" if hasattr(first, "cache") else "past_key_values"
    with pytest.raises(ValueError, match="pass use_cache=False"):
        simulated.model(torch.tensor(TOKENS[None, 7:8]), use_cache=True, **{name: kept})


def test_the_depth_of_errors_is_that_of_the_native_model(pair):
    native, simulated = both(pair, "bf16")
    np.testing.assert_array_equal(
        simulated.depth_map(TOKENS).errors, native.depth_map(TOKENS).errors
    )


def test_the_order_of_channels_is_found_alike(pair):
    wanted = lamp.Hardware("ascending", scores=lamp.Product("e8m4", order="ascending"))
    machines = [lamp.calibrated(wanted, model, TOKENS) for model in pair]
    assert machines[0] == machines[1]
    assert_same(*both(pair, machines[0]))


def test_metrics_are_those_of_the_native_model(pair):
    found = [
        lamp.evaluate(model.with_hardware("fp64"), model, TOKENS)
        for model in both(pair, "ps4", LAMP("strict", tau=0.1))
    ]
    assert found[0] == found[1]
    assert found[0].kl > 0


def test_the_loaded_model_stays_as_it_is(tmp_path):
    model = load(random_llama_checkpoint(tmp_path))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    text = torch.tensor(TOKENS[None])
    expected = model(text).logits
    simulated = lamp.simulate(model, "bf16")
    simulated.forward(TOKENS)
    assert model.config._attn_implementation != simulated.config._attn_implementation
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(model(text).logits, expected)


def test_weights_that_a_machine_holds_as_they_are_are_shared(tmp_path):
    model = load(random_checkpoint(tmp_path))
    simulated = lamp.simulate(model, "scores-ps4")
    places = [p.data_ptr() for p in simulated.model.parameters()]
    assert places == [p.data_ptr() for p in model.parameters()]


def test_the_embedded_model_gives_the_same_bits():
    native = lamp.from_pretrained("embedded")
    simulated = lamp.simulate(load(native._source))
    tokens = native.encode("Now is the winter of our discontent made glorious summer")
    for machine, rules in (("hopper-fp8", None), ("scores-ps4", LAMP(tau=1.2))):
        assert_same(*both((native, simulated), machine, rules), tokens)


def test_torch_keeps_to_one_thread_during_a_pass(tmp_path):
    simulated = lamp.simulate(load(random_llama_checkpoint(tmp_path)), "bf16")
    layer, seen = simulated.model.model.layers[0], []
    layer.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        simulated.forward(TOKENS)
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)
