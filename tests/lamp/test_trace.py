"""Traces and depth maps: every step from the one before it, and what look-ahead recomputes."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest

from fpemu import Rounding, Sequential
from fpemu.reference import round_exact
from lamp import LAMP, Hardware, Product, Sum
from lamp.rotary import Rotary
from tests.lamp.tiny_models import FAMILIES, TOKENS

UNIT_32, UNIT_64 = 2.0**-24, 2.0**-53


# --- plain numpy ----------------------------------------------------------------------------------


def norm_of(block, name, model):
    """A norm of a model, and its Jacobian at a row, as its definition says."""
    parameters = getattr(block, name) if block is not None else model._weights.norm
    weight = parameters.weight.astype(np.float64)

    def split(x):
        centred = x - x.mean(-1, keepdims=True) if parameters.centred else x
        root = np.sqrt((centred**2).mean(-1, keepdims=True) + model.shape.epsilon)
        return centred / root, root

    def value(x):
        shift = 0.0 if parameters.bias is None else parameters.bias.astype(np.float64)
        return split(x)[0] * weight + shift

    def jacobian(row):
        x, root = split(row)
        count = len(row)
        inner = np.eye(count) - np.outer(x, x) / count
        if parameters.centred:
            inner -= 1 / count
        return weight[:, np.newaxis] * inner / root

    return value, jacobian


def linear(x, matrix):
    bias = 0.0 if matrix.bias is None else matrix.bias.astype(np.float64)
    return x @ matrix.weight.astype(np.float64) + bias


def gelu_new(y):
    return 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))


def gelu_new_slope(y):
    t = np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))
    inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * y**2)
    return 0.5 * (1 + t) + 0.5 * y * (1 - t**2) * inner


def sigmoid(y):
    return 0.5 * (1 + np.tanh(y / 2))


def silu(y):
    return y * sigmoid(y)


def silu_slope(y):
    return sigmoid(y) * (1 + y * (1 - sigmoid(y)))


ACTIVATIONS = {"gelu_new": (gelu_new, gelu_new_slope), "silu": (silu, silu_slope)}


def rotated(heads, rotary):
    """Rotary positions by complex numbers."""
    if rotary is None:
        return heads
    half = rotary.dimension // 2
    with mpmath.workdps(30):
        frequencies = np.array([float(f) for f in rotary.frequencies()])
    numbers = heads[..., :half] + 1j * heads[..., half:]
    numbers *= np.exp(1j * np.arange(heads.shape[1])[:, np.newaxis] * frequencies)
    return np.concatenate([numbers.real, numbers.imag], -1)


def softmax(scores):
    masked = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    e = np.exp(masked - masked.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def following_steps(steps, model, layer):
    """Each step of a layer from the ones before it, by plain numpy."""
    block, shape = model._weights.blocks[layer], model.shape
    qkv = linear(steps["norm_1"], block.qkv)
    counts = np.cumsum([shape.heads, shape.key_heads]) * shape.dimension
    parts = [
        part.reshape(len(qkv), -1, shape.dimension).transpose(1, 0, 2)
        for part in np.split(qkv, counts, axis=1)
    ]
    shared = shape.heads // shape.key_heads
    keys, values = (np.repeat(steps[name], shared, axis=0) for name in ("key", "value"))
    causal = np.tri(len(qkv))
    products = steps["query"] @ keys.transpose(0, 2, 1) / np.sqrt(shape.dimension)
    up = linear(steps["norm_2"], block.mlp_up)
    f, _ = ACTIVATIONS[shape.activation]
    gated = 1.0 if block.gate is None else up
    return {
        "norm_1": norm_of(block, "norm_1", model)[0](steps["stream"]),
        "query": rotated(parts[0], shape.rotary),
        "key": rotated(parts[1], shape.rotary),
        "value": parts[2],
        "low_scores": products * causal,
        "scores": steps["low_scores"],
        "probabilities": softmax(steps["scores"]),
        "heads": np.concatenate(list(steps["probabilities"] @ values), axis=1),
        "attention_output": steps["stream"] + linear(steps["heads"], block.attention_output),
        "norm_2": norm_of(block, "norm_2", model)[0](steps["attention_output"]),
        "mlp_up": up if block.gate is None else linear(steps["norm_2"], block.gate),
        "activation": f(steps["mlp_up"]) * gated,
        "mlp_down": steps["attention_output"] + linear(steps["activation"], block.mlp_down),
    }


# --- traces ---------------------------------------------------------------------------------------


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
    value, _ = norm_of(None, "norm", model)
    logits = linear(value(second["mlp_down"].astype(np.float64)), model._weights.head)
    np.testing.assert_allclose(
        model.logits(TOKENS), logits, rtol=0, atol=0.02 * np.abs(logits).max()
    )


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
        "probabilities": trace.steps["probabilities"] - softmax(exact),
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
    monkeypatch.setattr("lamp.attention._GROUP_BYTES", 1)  # heads one by one where nobody looks
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


@pytest.mark.parametrize("layer", [-1, 2, 99])
def test_a_layer_that_is_not_there_is_refused(layer):
    model = FAMILIES["llama"].model("fp32")
    with pytest.raises(ValueError, match=rf"layer {layer} is not in 0\.\.1"):
        model.trace(TOKENS, layer)


def test_tokens_that_are_not_there_are_refused():
    model = FAMILIES["llama"].model("fp32")
    for act in (lambda tokens: model.trace(tokens, 0), model.depth_map):
        with pytest.raises(ValueError, match=r"token 7 at position 1 is not in 0\.\.6"):
            act([0, 7])
        with pytest.raises(TypeError, match="integers"):
            act([0.5])


# --- look-ahead -----------------------------------------------------------------------------------

RECOMPUTED = Product("float32", "bfloat16", "tf32", rounding="rto")
SATURATING = Rounding("rne", "saturate")
# Accumulators that have no room for some sums, or a stream that has none.
NARROW = {
    "e3m4, infinite beyond 15.5": Sequential("float8_e3m4"),
    "e4m3, infinite beyond 240": Sequential("float8_e4m3"),
    "e4m3fn, NaN beyond 448": Sequential("float8_e4m3fn"),
    "float16, infinite beyond 65504": Sequential("float16"),
    "e3m2, saturating at 28": Sequential("float6_e3m2fn"),
    "e4m3, saturating at 240": Sequential("float8_e4m3", SATURATING),
    "stream in e3m4": None,
}
STEPS = ("scores", "attention_output", "mlp_up", "mlp_down")
# What to multiply to that end.
PLACES = {
    "gpt2": {
        "scores": ("transformer.h.{}.attn.c_attn",),
        "attention_output": ("transformer.h.{}.attn.c_proj",),
        "mlp_up": ("transformer.h.{}.mlp.c_fc",),
        "mlp_down": ("transformer.h.{}.mlp.c_proj",),
    },
    "llama": {
        "scores": ("model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj"),
        "attention_output": ("model.layers.{}.self_attn.o_proj",),
        "mlp_up": ("model.layers.{}.mlp.gate_proj",),
        "mlp_down": ("model.layers.{}.mlp.down_proj",),
    },
}
SETTINGS = {
    "thresholds": {"softmax": {"rule": "total_variation"}, "norm": {}, "activation": {}},
    "weights": {
        "softmax": {"rule": "kl", "weights": "abs"},
        "norm": {"weights": "abs"},
        "activation": {"weights": "abs"},
    },
    "budgets": {
        "softmax": {"rule": "total_variation", "budget": 0.3},
        "norm": {"budget": 0.2, "scope": "row"},
        "activation": {"budget": 0.15},
    },
}


def machine_of(name):
    if NARROW[name] is None:
        low, residual = Product("float32"), Sum("float8_e3m4")
    else:
        low, residual = Product(NARROW[name], output="float32"), Sum("float32")
    steps = dict.fromkeys(STEPS, low)
    return Hardware(name, **steps, residual=residual, recomputed=RECOMPUTED)


def range_of(name):
    """The largest number that there is room for."""
    machine = machine_of(name)
    step = machine.residual.output if NARROW[name] is None else machine.scores.accumulator.format
    return step.max_finite


def overflowing_tensors(family, largest):
    """Random weights with which one sum in eight or so is beyond the largest number."""
    tiny = FAMILIES[family]
    tensors = tiny.tensors()
    for layer in range(2):
        for step in STEPS:
            steps = tiny.model("fp64", tensors=tensors).trace(TOKENS, layer).steps
            sums = {
                "scores": steps["scores"] * np.sqrt(tiny.model("fp64").shape.dimension),
                "attention_output": steps["attention_output"] - steps["stream"],
                "mlp_up": steps["mlp_up"],
                "mlp_down": steps["mlp_down"] - steps["attention_output"],
            }[step]
            factor = largest / (1.5 * np.sqrt((sums[sums != 0] ** 2).mean()))
            _enlarge(tensors, PLACES[family][step], layer, factor)
    return tensors


def _enlarge(tensors, places, layer, factor):
    joined = places[0].endswith("c_attn")  # queries, keys and values side by side
    power = 0.5 if joined or len(places) == 2 else 1.0  # a score has two factors
    for place in places:
        for name in (f"{place.format(layer)}.weight", f"{place.format(layer)}.bias"):
            if name in tensors:
                columns = 2 * tensors[name].shape[-1] // 3 if joined else None
                tensors[name][..., :columns] *= np.float32(factor**power)


def sensitivities(steps, model, layer):
    """What the rules look at: by step, the shares of arguments in an error of what follows."""
    block = model._weights.blocks[layer]
    following = model._weights.blocks[1] if layer == 0 else None
    before = {name: steps[f"{name}_before"] for name in STEPS}
    z = softmax(before["scores"]).astype(np.float32).astype(np.float64)
    norms = {
        "attention_output": norm_of(block, "norm_2", model)[1],
        "mlp_down": norm_of(following, "norm_1", model)[1],
    }
    _, slope = ACTIVATIONS[model.shape.activation]
    lengths = np.sqrt((block.mlp_down.weight.astype(np.float64) ** 2).sum(axis=1))
    return {
        "scores": z * (1 - z),
        **{
            name: np.sqrt([(jacobian(row) ** 2).sum(axis=0) for row in before[name]])
            for name, jacobian in norms.items()
        },
        "mlp_up": np.abs(slope(before["mlp_up"]) * steps.get("gated", 1.0)) * lengths,
    }


def chosen(shares, settings, exists):
    """Which shares a rule takes, and which are so near its threshold that rounding decides."""
    if settings.tau is not None:
        thresholds = np.full(shares.shape, settings.tau)
    elif settings.scope == "row":
        count = int(settings.budget * shares.shape[1])
        thresholds = np.sort(shares, axis=1)[:, [-count - 1]]
    else:
        count = int(settings.budget * exists.sum())
        thresholds = np.sort(shares[exists])[-count - 1]
    near = np.abs(shares - thresholds) <= 1e-5 * thresholds
    return (shares > thresholds) & exists, near


LOOK_AHEAD = [(name, "thresholds") for name in NARROW]
LOOK_AHEAD += [("e3m4, infinite beyond 15.5", name) for name in ("weights", "budgets")]


def settings_of(kind, model):
    """Rules for all places; their thresholds take a third of what is left of the components."""
    steps = model.trace(TOKENS, 0).steps
    plain = {f"{name}_before": steps[name].astype(np.float64) for name in STEPS}
    shares = sensitivities(plain, model, 0)
    result = []
    for place, step in (("softmax", "scores"), ("norm", "mlp_down"), ("activation", "mlp_up")):
        given = {"rule": place, **SETTINGS[kind][place]}
        if "budget" not in given:
            own = shares[step] * weight_of(LAMP(**given, tau=0.0), plain[f"{step}_before"])
            # Probabilities of scores of many hundreds are zeros and ones.
            usual = own[own > 1e-6]
            given["tau"] = float(np.quantile(usual, 0.67)) if usual.size else 0.01
        result.append(LAMP(**given))
    return result


def weight_of(settings, before):
    power = 2 if settings.rule == "kl" else 1
    return np.abs(before) ** power if settings.weights == "abs" else 1.0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "kind"), LOOK_AHEAD)
def test_what_look_ahead_takes_is_of_the_high_precision_and_the_rest_of_the_low(name, kind, family):
    tiny, machine = FAMILIES[family], machine_of(name)
    tensors = overflowing_tensors(family, range_of(name))
    settings = settings_of(kind, tiny.model("fp64", tensors=tensors))
    model = tiny.model(machine, settings, tensors)
    result = model.forward(TOKENS)
    traces = [model.trace(TOKENS, layer).steps for layer in range(2)]
    logits, layers = tiny.oracle(tensors, tiny.config, machine, TOKENS, traces)
    assert np.isfinite(result.logits).all()
    np.testing.assert_array_equal(result.logits, logits)
    counts = {step: np.zeros(3, int) for step in STEPS}
    for layer, (trace, steps) in enumerate(zip(traces, layers, strict=True)):
        for step in trace.keys() - {"mask"}:
            if not step.endswith("_mask"):
                np.testing.assert_array_equal(trace[step], steps[step], err_msg=step)
        shares = sensitivities(steps, model, layer)
        for step in STEPS:
            mask = trace["mask" if step == "scores" else f"{step}_mask"]
            exists = np.broadcast_to(np.tri(*mask.shape[-2:], dtype=bool), mask.shape)
            exists = exists if step == "scores" else np.ones(mask.shape, bool)
            place = {"scores": 0, "mlp_up": 2}.get(step, 1)
            own = shares[step] * weight_of(settings[place], steps[f"{step}_before"])
            taken, near = chosen(own, settings[place], exists)
            beyond = steps[f"{step}_beyond"]
            np.testing.assert_array_equal((mask == (taken | beyond)) | near, True)
            assert near.mean() < 0.1
            assert result.recomputed[step][layer].selected == mask.sum()
            assert result.recomputed[step][layer].components == exists.sum()
            counts[step] += beyond.sum(), (taken & ~beyond).sum(), (exists & ~mask).sum()
    # There is some of everything: what overflowed, what the rule took besides, what it left.
    for step, (beyond, taken, left) in counts.items():
        no_room = NARROW[name] is not None or step not in ("scores", "mlp_up")
        assert (beyond > 0) == no_room, step
        assert left > 0, step
        assert taken > 0 or (step == "scores" and range_of(name) > 100), step


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NARROW)
def test_look_ahead_mends_what_overflows(name, family):
    tiny, machine = FAMILIES[family], machine_of(name)
    tensors = overflowing_tensors(family, range_of(name))
    # Thresholds that nothing is above: what has overflowed alone is recomputed.
    nothing = [
        LAMP("total_variation", tau=1.0),
        LAMP("norm", tau=1e30),
        LAMP("activation", tau=1e30),
    ]
    plain = tiny.model(machine, tensors=tensors).logits(TOKENS)
    mended = tiny.model(machine, nothing, tensors).forward(TOKENS)
    assert mended.recomputation_rate > 0
    assert np.isfinite(mended.logits).all()
    assert np.isfinite(plain).all() == ("saturating" in name)
    if "saturating" in name:  # nothing in the logits tells, but scores end at the largest number
        model = tiny.model(machine, nothing, tensors)
        steps = model.trace(TOKENS, 0).steps
        most = np.float32(range_of(name) / np.sqrt(model.shape.dimension))
        assert np.abs(steps["low_scores"]).max() == most < np.abs(steps["scores"]).max()


# --- depth maps -----------------------------------------------------------------------------------


def variants():
    """Tiny models that differ in what the exact one has to know of."""
    gpt2, llama = FAMILIES["gpt2"], FAMILIES["llama"]
    plain = replace(
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
        "llama, another": replace(
            llama, config=plain, tensors=lambda: llama.tensors(plain), oracle=None
        ),
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
    mended = model.with_hardware("ps4", everything)
    plain, less = (each.depth_map(TOKENS, digits=30).errors[1:] for each in (model, mended))
    assert (less < plain).all()


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


@pytest.mark.parametrize("digits", [0, 16, -3, 2.5, "many"])
def test_too_few_digits_are_refused(digits):
    with pytest.raises(ValueError, match=f"at least 17, more than float64 has, not {digits!r}"):
        FAMILIES["llama"].model("fp32").depth_map(TOKENS, digits=digits)
