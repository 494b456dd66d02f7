"""Traces through transformers: those of the native models, and transformers' own numbers."""

import numpy as np
import pytest
import torch
import transformers

import lamp
from lamp import LAMP
from tests.lamp.integrations import random_families
from tests.lamp.integrations.random_families import FAMILIES, in_float64, random_model
from tests.lamp.random_llamas import random_checkpoint, random_llama_checkpoint

TOKENS = np.random.default_rng(0).integers(0, 61, 20)
EVERYWHERE = [
    LAMP("kl", budget=0.1, weights="products"),
    LAMP("norm", budget=0.1),
    LAMP("activation", budget=0.1),
    LAMP("kl", budget=0.1, on="logits"),
]
RUNS = {
    "bf16": ("bf16", None),
    "hopper-fp8": ("hopper-fp8", None),
    "rules": ("ps4", EVERYWHERE),
    "tiles": (
        lamp.Hardware("tiles", scores="e8m4", attention=lamp.Tiled(rows=4, columns=8, parts=2)),
        LAMP("relaxed", tau=0.2),
    ),
}
MODELS = {
    "gpt2": (random_checkpoint, {}),
    "llama": (random_llama_checkpoint, {"head_dim": 16}),
    "embedded": (lambda folder: lamp.checkpoints.EMBEDDED, {}),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """A checkpoint read natively, and by transformers."""
    make, options = MODELS[request.param]
    path = make(tmp_path_factory.mktemp("model"), **options)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(path)
    return lamp.from_pretrained(path), lamp.simulate(loaded)


@pytest.mark.parametrize("run", RUNS)
def test_every_step_is_that_of_the_native_model(pair, run):
    native, simulated = (model.with_hardware(*RUNS[run]) for model in pair)
    for layer in (0, native.shape.layers - 1, native.shape.layers):
        expected, found = (model.trace(TOKENS, layer) for model in (native, simulated))
        assert found.layer == layer
        # Both have all steps, in the same order.
        assert list(found.steps) == list(expected.steps)
        for name, numbers in expected.steps.items():
            assert found.steps[name].dtype == numbers.dtype
            np.testing.assert_array_equal(found.steps[name], numbers, err_msg=name)
        assert list(found.errors) == list(expected.errors)
        for name, numbers in expected.errors.items():
            assert np.abs(numbers).max() > 1e-9  # float64's own errors are far smaller
            np.testing.assert_allclose(found.errors[name], numbers, 0, 1e-12, err_msg=name)
    if run == "rules":
        assert {"attention_output_mask", "mlp_up_mask", "error_weights"} < {
            *native.trace(TOKENS, 0).steps
        }
        assert list(found.steps) == ["stream", "final_norm", "lm_head_mask", "logits"]


# --- other families -------------------------------------------------------------------------------

ATTENTION = ["query", "key", "value", "low_scores", "mask", "scores", "probabilities", "heads"]
FEED_FORWARD = ["norm_2", "mlp_up", "activation"]
INTO_LAYER = ["stream", "norm_1"]
EXPERTS = ["router", "experts", "shares", "expert_up", "expert_activation", "expert_down"]
STEPS = {
    "qwen3": [
        *INTO_LAYER,
        *("query_norm", "key_norm"),
        *ATTENTION,
        "attention_output",
        *FEED_FORWARD,
        "mlp_down",
    ],
    "gemma3": [
        *INTO_LAYER,
        *("query_norm", "key_norm"),
        *ATTENTION,
        *("attention_output_norm", "attention_output"),
        *FEED_FORWARD,
        *("mlp_down_norm", "mlp_down"),
    ],
    # Norms behind the products alone.
    "olmo2": [
        *("stream", "query_norm", "key_norm"),
        *ATTENTION,
        *("attention_output_norm", "attention_output"),
        *("mlp_up", "activation", "mlp_down_norm", "mlp_down"),
    ],
    "mixtral": [*INTO_LAYER, *ATTENTION, "attention_output", "norm_2", *EXPERTS, "mlp_down"],
    "gpt_oss": [*INTO_LAYER, *ATTENTION, "attention_output", "norm_2", *EXPERTS, "mlp_down"],
    # Attention and feed-forward layer side by side: no stream between them, one norm or two.
    "gpt_neox": [*INTO_LAYER, *ATTENTION, *FEED_FORWARD, "mlp_down"],
    "gptj": [*INTO_LAYER, *ATTENTION, "mlp_up", "activation", "mlp_down"],
    "falcon, new": [*INTO_LAYER, "norm_2", *ATTENTION, "mlp_up", "activation", "mlp_down"],
    # Norms behind the sums; what is behind the last one is the next layer's stream.
    "bert": [
        "stream",
        *ATTENTION,
        "attention_output",
        *FEED_FORWARD,
        *("mlp_down", "mlp_down_norm"),
    ],
}
SHAPES = {
    "query": (4, 20, 16),
    "key": (2, 20, 16),
    "value": (2, 20, 16),
    "query_norm": (4, 20, 16),
    "key_norm": (2, 20, 16),
    **dict.fromkeys(("low_scores", "mask", "scores", "probabilities"), (4, 20, 20)),
    "heads": (20, 64),
    "mlp_up": (20, 44),
    "activation": (20, 44),
}


@pytest.mark.parametrize("family", STEPS)
def test_other_families_have_the_steps_that_they_compute(family):
    simulated = random_families.simulated(family).with_hardware("bf16")
    steps = simulated.trace(TOKENS, 1).steps
    assert list(steps) == STEPS[family]
    behind = simulated.trace(TOKENS, simulated.shape.layers).steps
    assert list(behind) == ["stream", "final_norm", "logits"]
    if family in ("qwen3", "gemma3"):
        assert {name: x.shape for name, x in steps.items()} == {
            name: SHAPES.get(name, (20, 32)) for name in steps
        }
    last = simulated.trace(TOKENS, simulated.shape.layers - 1).steps
    out = "mlp_down_norm" if family == "bert" else "mlp_down"
    np.testing.assert_array_equal(last[out], behind["stream"])
    np.testing.assert_array_equal(behind["logits"], simulated.logits(TOKENS))


# What modules of transformers read and give, and what a trace calls it.
READ = {
    "input_layernorm": "stream",
    "self_attn.o_proj": "heads",
    "mlp.act_fn": "mlp_up",
    "mlp.down_proj": "activation",
}
GAVE = {
    "input_layernorm": "norm_1",
    "self_attn.q_norm": "query_norm",
    "self_attn.k_norm": "key_norm",
}
MODULES = {
    "qwen3": (
        READ | {"post_attention_layernorm": "attention_output"},
        GAVE | {"post_attention_layernorm": "norm_2"},
    ),
    "gemma3": (
        READ | {"pre_feedforward_layernorm": "attention_output"},
        GAVE
        | {
            "post_attention_layernorm": "attention_output_norm",
            "pre_feedforward_layernorm": "norm_2",
            "post_feedforward_layernorm": "mlp_down_norm",
        },
    ),
}


def heads_first(name, numbers, heads):
    """Numbers of a text; norms of heads with the heads in front, wherever the model has them."""
    if name not in ("query_norm", "key_norm"):
        return numbers[0]
    return numbers[0] if numbers.shape[1] == heads else numbers[0].swapaxes(0, 1)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", MODULES)
def test_steps_are_the_numbers_of_transformers_in_float64(family, layer):
    model = random_model(family)
    trace = random_families.simulated(family).trace(TOKENS, layer)
    heads = {"query_norm": 4, "key_norm": 2}
    found = {}
    with in_float64(model, FAMILIES[family].own) as wide:
        at = wide.model.layers[layer]
        for name, step in MODULES[family][0].items():

            def read(module, args, step=step):
                found[step] = args[0].numpy().copy()

            at.get_submodule(name).register_forward_pre_hook(read)
        for name, step in MODULES[family][1].items():

            def gave(module, args, result, step=step):
                found[step] = result.numpy().copy()

            at.get_submodule(name).register_forward_hook(gave)
        text = torch.from_numpy(TOKENS)[None]
        result = wide(text, output_hidden_states=True, output_attentions=True)
    for name, numbers in found.items():
        expected = heads_first(name, numbers, heads.get(name))
        close = 1e-12 * np.abs(expected).max()
        np.testing.assert_allclose(trace.steps[name], expected, 0, close, err_msg=name)
    probabilities = result.attentions[layer][0].numpy()
    np.testing.assert_allclose(trace.steps["probabilities"], probabilities, 0, 1e-12)
    states = [each[0].numpy() for each in result.hidden_states]
    np.testing.assert_allclose(trace.steps["stream"], states[layer], 0, 1e-11)
    if layer + 1 < len(wide.model.layers):  # the last one is given behind the final norm
        np.testing.assert_allclose(trace.steps["mlp_down"], states[layer + 1], 0, 1e-11)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_steps_of_experts_are_those_of_their_weights(family):
    model = random_model(family)
    steps = random_families.simulated(family).trace(TOKENS, 1).steps
    experts = model.model.layers[1].mlp.experts
    up, down = (x.detach().double().numpy() for x in (experts.gate_up_proj, experts.down_proj))
    chosen = np.argsort(-steps["router"], axis=1)[:, :2]
    np.testing.assert_array_equal(steps["experts"], chosen)
    powers = np.exp(steps["router"])
    shares = np.take_along_axis(powers, chosen, axis=1)
    of = shares if family == "mixtral" else powers  # the sum over the chosen experts, or all
    found = {"shares": shares / of.sum(axis=1, keepdims=True)}
    found["expert_up"] = np.einsum("tkmn,tn->tkm", up[chosen], steps["norm_2"])
    gate, factor = np.split(found["expert_up"], 2, axis=-1)
    found["expert_activation"] = gate / (1.0 + np.exp(-gate)) * factor
    found["expert_down"] = np.einsum("tkmn,tkn->tkm", down[chosen], found["expert_activation"])
    weighted = (found["shares"][..., np.newaxis] * found["expert_down"]).sum(axis=1)
    found["mlp_down"] = steps["attention_output"] + weighted
    for name, numbers in found.items():
        assert steps[name].shape == numbers.shape
        close = 1e-12 * np.abs(numbers).max()
        np.testing.assert_allclose(steps[name], numbers, 0, close, err_msg=name)


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "bert", "bloom"])
def test_errors_of_scores_are_those_of_the_model(family):
    # Soft-capping and a window, sinks, no causality, a bias: exact on fp64, and small on bf16.
    simulated = random_families.simulated(family).with_hardware("bf16")
    exact = simulated.with_hardware("fp64").trace(TOKENS, 0)
    for name, errors in exact.errors.items():
        assert np.abs(errors).max() < 1e-12, name
    trace = simulated.trace(TOKENS, 0)
    for name, errors in trace.errors.items():
        size = np.abs(trace.steps[name]).max()
        assert 1e-4 * size < np.abs(errors).max() < 2e-2 * size, name
        assert not errors[trace.steps["probabilities"] == 0].any()


def test_a_model_that_reads_two_texts_has_no_trace():
    with pytest.raises(ValueError, match="reads two texts"):
        lamp.simulate(random_model("t5")).trace(TOKENS, 0)
