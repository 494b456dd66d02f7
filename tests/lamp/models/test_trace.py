"""Traces and depth maps: every step from the ones before it, every error from its definition."""

from dataclasses import replace

import numpy as np
import pytest

from fpemu import Rounding
from fpemu.reference import round_exact
from lamp import LAMP, Hardware, Sum
from lamp.models.rotary import Rotary
from tests.lamp.tiny_models import FAMILIES, TOKENS
from tests.oracle import plain

UNIT_32, UNIT_64 = 2.0**-24, 2.0**-53


# --- traces ---------------------------------------------------------------------------------------


def following_steps(steps, model, layer):
    """Each step of a layer from the ones before it, by plain numpy."""
    block, shape = model._weights.blocks[layer], model.shape
    qkv = plain.linear(steps["norm_1"], block.qkv)
    ends = np.cumsum([shape.heads, shape.key_heads]) * shape.dimension
    query, key, value = (
        part.reshape(len(qkv), -1, shape.dimension).transpose(1, 0, 2)
        for part in np.split(qkv, ends, axis=1)
    )
    shared = shape.heads // shape.key_heads
    keys, values = (np.repeat(steps[name], shared, axis=0) for name in ("key", "value"))
    products = steps["query"] @ keys.transpose(0, 2, 1) / np.sqrt(shape.dimension)
    up = plain.linear(steps["norm_2"], block.mlp_up)
    f = plain.ACTIVATIONS[shape.activation]
    return {
        "norm_1": plain.norm(steps["stream"], block.norm_1, shape.epsilon),
        "query": plain.rotated(query, shape.rotary),
        "key": plain.rotated(key, shape.rotary),
        "value": value,
        "low_scores": products * np.tri(len(qkv)),
        "scores": steps["low_scores"],
        "probabilities": plain.softmax(plain.causal(steps["scores"])),
        "heads": np.concatenate(list(steps["probabilities"] @ values), axis=1),
        "attention_output": steps["stream"] + plain.linear(steps["heads"], block.attention_output),
        "norm_2": plain.norm(steps["attention_output"], block.norm_2, shape.epsilon),
        "mlp_up": up if block.gate is None else plain.linear(steps["norm_2"], block.gate),
        "activation": f(steps["mlp_up"]) * (1.0 if block.gate is None else up),
        "mlp_down": steps["attention_output"] + plain.linear(steps["activation"], block.mlp_down),
    }


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_step_follows_from_those_before_it(family, layer):
    model = FAMILIES[family].model("fp64")
    trace = model.trace(TOKENS, layer)
    expected = following_steps(trace.steps, model, layer)
    order = ["stream", *expected]
    order.insert(order.index("scores"), "mask")
    assert trace.layer == layer
    assert list(trace.steps) == order
    for name, numbers in expected.items():
        found = trace.steps[name]
        assert found.dtype == np.float64
        # A sum of at most 36 terms.
        np.testing.assert_allclose(
            found,
            numbers,
            rtol=0,
            atol=40 * UNIT_64 * max(1.0, np.abs(numbers).max()),
            err_msg=name,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_begins_where_the_one_before_it_ends(family):
    model = FAMILIES[family].model("bf16")
    first, second = (model.trace(TOKENS, layer).steps for layer in (0, 1))
    np.testing.assert_array_equal(first["mlp_down"], second["stream"])
    assert (first["stream"] != second["stream"]).any()
    # Behind the last one come the norm and the head.
    behind = model.trace(TOKENS, 2)
    assert (list(behind.steps), behind.errors) == (["stream", "final_norm", "logits"], {})
    np.testing.assert_array_equal(behind.steps["stream"], second["mlp_down"])
    np.testing.assert_array_equal(behind.steps["logits"], model.logits(TOKENS))
    weights, stream = model._weights, second["mlp_down"].astype(np.float64)
    norm = plain.norm(stream, weights.norm, model.shape.epsilon)
    for name, expected in (("final_norm", norm), ("logits", plain.linear(norm, weights.head))):
        found, close = behind.steps[name], 0.02 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=close)


def test_steps_have_the_shapes_of_the_model():
    model, tokens = FAMILIES["llama"].model("fp32"), len(TOKENS)
    shapes = {name: x.shape for name, x in model.trace(TOKENS, 1).steps.items()}
    width, inner, d = 18, 35, 6
    pairs = dict.fromkeys(("low_scores", "mask", "scores", "probabilities"), (4, tokens, tokens))
    rows = dict.fromkeys(
        ("stream", "norm_1", "attention_output", "norm_2", "mlp_down"), (tokens, width)
    )
    assert shapes == {
        **rows,
        **pairs,
        "query": (4, tokens, d),
        "key": (2, tokens, d),
        "value": (2, tokens, d),
        "heads": (tokens, 24),
        "mlp_up": (tokens, inner),
        "activation": (tokens, inner),
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("machine", ["bf16", "scores-ps2", "ps4"])
def test_errors_are_those_of_scores_and_probabilities(machine, family):
    model = FAMILIES[family].model(machine, LAMP("total_variation", tau=0.2))
    trace = model.trace(TOKENS, 1)
    shape = model.shape
    query = trace.steps["query"].astype(np.float64)
    key = np.repeat(trace.steps["key"].astype(np.float64), shape.heads // shape.key_heads, axis=0)
    exact = query @ key.transpose(0, 2, 1) / np.sqrt(shape.dimension)
    exists = np.tri(len(TOKENS), dtype=bool)
    expected = {
        "scores": np.where(exists, trace.steps["scores"] - exact, 0.0),
        "probabilities": trace.steps["probabilities"] - plain.softmax(plain.causal(exact)),
    }
    assert trace.errors.keys() == expected.keys()
    for name, errors in expected.items():
        np.testing.assert_allclose(trace.errors[name], errors, rtol=0, atol=1e-14)
        assert np.abs(errors[:, exists]).max() > 1e-6
        assert not trace.errors[name][:, ~exists].any()


OBSERVED = {
    "plain": ("fp32", None),
    "scores": ("scores-ps2", LAMP(tau=1.2)),
    "random": ("scores-ps2", LAMP("random", budget=0.3, seed=4)),
    "rows": ("ps4", LAMP("total_variation", tau=0.05)),
    "all": (
        "ps4",
        [LAMP("kl", tau=0.05), LAMP("norm", tau=0.5), LAMP("activation", budget=0.1)],
    ),
    "stochastic": (Hardware("s", residual=Sum("bfloat16", Rounding("sr", seed=3))), None),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", OBSERVED)
def test_observing_changes_nothing(monkeypatch, name, family):
    monkeypatch.setattr(
        "lamp.models.attention._GROUP_BYTES", 1
    )  # heads one by one where nobody looks
    machine, settings = OBSERVED[name]
    model = FAMILIES[family].model(machine, settings)
    before = model.forward(TOKENS)
    seen = []

    def observe(step, layer, numbers):
        seen.append(step)

    watched = model._forward(np.array(TOKENS), None, observe)
    assert len(seen) > 20
    after = model.forward(TOKENS)
    for found in (watched, after):
        np.testing.assert_array_equal(found.logits, before.logits)
        assert found.recomputed == before.recomputed


def test_a_trace_is_not_overwritten_by_what_follows():
    model = FAMILIES["gpt2"].model("fp32")
    first = model.trace(TOKENS, 0)
    kept = {name: x.copy() for name, x in first.steps.items()}
    model.trace(TOKENS[::-1], 0)
    for name, numbers in kept.items():
        np.testing.assert_array_equal(first.steps[name], numbers)


@pytest.mark.parametrize("layer", [-1, 3, 99, 0.5, "first"])
def test_a_layer_that_is_not_there_is_refused(layer):
    model = FAMILIES["llama"].model("fp32")
    with pytest.raises(ValueError, match=rf"layer {layer!r} is not in 0\.\.2"):
        model.trace(TOKENS, layer)


def test_a_layer_is_any_integer():
    model = FAMILIES["llama"].model("fp32")
    found, expected = (model.trace(TOKENS, layer).steps for layer in (np.int64(1), 1))
    np.testing.assert_array_equal(found["stream"], expected["stream"])


def test_tokens_that_are_not_there_are_refused():
    model = FAMILIES["llama"].model("fp32")
    for act in (lambda tokens: model.trace(tokens, 0), model.depth_map):
        with pytest.raises(ValueError, match=r"token 7 at position 1 is not in 0\.\.6"):
            act([0, 7])
        with pytest.raises(TypeError, match="integers"):
            act([0.5])


# --- depth maps -----------------------------------------------------------------------------------


def variants():
    """Tiny models that differ in what the exact one has to know of."""
    gpt2, llama = FAMILIES["gpt2"], FAMILIES["llama"]
    another = replace(
        llama.config,
        num_key_value_heads=1,
        rotary=Rotary(6, 50.0, "linear", (3.0,)),
        attention_bias=False,
        mlp_bias=True,
        hidden_act="gelu",
        rms_norm_eps=0.2,
        tie_word_embeddings=True,
    )
    return {
        **FAMILIES,
        "gpt2, unscaled": replace(
            gpt2, config=replace(gpt2.config, scale_attn_weights=False, activation_function="relu")
        ),
        "llama, another": replace(llama, config=another, oracle=None),
    }


@pytest.mark.parametrize("name", variants())
def test_float64_is_within_rounding_of_mpmath(name):
    model = variants()[name].model("fp64")
    depth = model.depth_map(TOKENS, digits=50)
    assert depth.errors.shape == depth.sizes.shape == (3, len(TOKENS))
    # Sums of two float32 numbers are float64 numbers, unless one is very small.
    assert not depth.errors[0].any()
    assert (depth.errors[1:] > 0).all()
    assert (depth.relative < 20 * UNIT_64).all()  # measured below 5
    sizes = [
        np.linalg.norm(model.trace(TOKENS, 0).steps[at], axis=1) for at in ("stream", "mlp_down")
    ]
    np.testing.assert_allclose(depth.sizes[:2], sizes, rtol=1e-13)
    np.testing.assert_array_equal(model.depth_map(TOKENS).errors, 0.0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("machine", ["bf16", "fp16", "hopper-fp8", "ps4"])
def test_float64_and_mpmath_measure_the_same_errors(machine, family):
    model = FAMILIES[family].model(machine)
    quick, exact = model.depth_map(TOKENS), model.depth_map(TOKENS, digits=40)
    assert (exact.errors[1:] > 1e-4 * exact.sizes[1:]).all()
    np.testing.assert_allclose(quick.errors, exact.errors, rtol=1e-10)
    np.testing.assert_allclose(quick.sizes, exact.sizes, rtol=1e-10)
    np.testing.assert_allclose(quick.relative, exact.errors / exact.sizes, rtol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_look_ahead_makes_errors_smaller(family):
    model = FAMILIES[family].model("ps4")
    everything = [LAMP("largest", budget=1.0), LAMP("norm", tau=0.0), LAMP("activation", tau=0.0)]
    repaired = model.with_hardware("ps4", everything)
    before, after = (each.depth_map(TOKENS, digits=30).errors[1:] for each in (model, repaired))
    assert (after < before).all()


@pytest.mark.parametrize("digits", [None, 30])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_errors_are_those_of_the_embedding_alone(family, digits):
    """Weights and their sum, each rounded into bfloat16."""
    tiny = FAMILIES[family]
    tensors = tiny.tensors()
    if family == "gpt2":
        tables = tensors["transformer.wte.weight"][TOKENS], tensors["transformer.wpe.weight"]
        parts = [tables[0], tables[1][: len(TOKENS)]]
    else:
        parts = [tensors["model.embed_tokens.weight"][TOKENS]]
    held = [np.vectorize(lambda x: round_exact(float(x), "bfloat16"))(part) for part in parts]
    exact = sum(part.astype(np.float64) for part in parts)
    found = np.vectorize(lambda x: round_exact(float(x), "bfloat16"))(sum(held))
    depth = tiny.model("bf16").depth_map(TOKENS, digits=digits)
    np.testing.assert_allclose(depth.errors[0], np.linalg.norm(found - exact, axis=1), rtol=1e-12)
    np.testing.assert_allclose(depth.sizes[0], np.linalg.norm(exact, axis=1), rtol=1e-12)
    assert (depth.errors[0] > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_of_float32_are_some_of_its_units(family):
    relative = FAMILIES[family].model("fp32").depth_map(TOKENS, digits=30).relative
    assert (relative[1:] > 0.1 * UNIT_32).all()
    assert (relative < 10 * UNIT_32).all()
    exactly = family == "llama"  # tokens without positions are what they are
    assert (relative[0] == 0).all() == exactly


def test_digits_are_any_integer():
    model = FAMILIES["llama"].model("bf16")
    found, expected = (model.depth_map(TOKENS, digits=digits) for digits in (np.int64(30), 30))
    np.testing.assert_array_equal(found.errors, expected.errors)


@pytest.mark.parametrize("digits", [0, 16, -3, 2.5, "many"])
def test_too_few_digits_are_refused(digits):
    with pytest.raises(ValueError, match=f"at least 17, more than float64 has, not {digits!r}"):
        FAMILIES["llama"].model("fp32").depth_map(TOKENS, digits=digits)
