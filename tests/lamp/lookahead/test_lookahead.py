"""Look-ahead around the products of a model: what is recomputed, and what overflowed."""

from dataclasses import replace

import numpy as np
import pytest

import fpemu
import lamp
from lamp import LAMP, select
from lamp._kernels import activations, rows
from lamp.bounds.compositions import LayerNorm
from lamp.lookahead.recomputation import LookAhead
from lamp.lookahead.rules import WEIGHTS
from lamp.machines.steps import Function
from lamp.models.attention import softmax
from lamp.models.gpt2 import GPT2, GPT2Config

CONFIG = GPT2Config(50, 40, 24, 2, 3, 48, "gelu_new", 1e-5)
TOKENS = np.random.default_rng(9).integers(0, 50, 30)
LOW, HIGH = fpemu.Sequential("e8m4"), fpemu.Sequential("float32")


def tensors(scale=0.4):
    generator = np.random.default_rng(1)
    width, inner = CONFIG.n_embd, CONFIG.n_inner
    shapes = {"wte.weight": (50, width), "wpe.weight": (40, width)}
    for layer in range(CONFIG.n_layer):
        for name, *shape in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            shapes[f"h.{layer}.{name}.weight"] = tuple(shape)
            shapes[f"h.{layer}.{name}.bias"] = (shape[1],)
        for name in ("ln_1", "ln_2"):
            shapes[f"h.{layer}.{name}.weight"] = shapes[f"h.{layer}.{name}.bias"] = (width,)
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (width,)
    return {
        name: generator.normal(0, scale, shape).astype(np.float32) for name, shape in shapes.items()
    }


MODEL = GPT2(CONFIG, tensors())


def on(name, settings=None, accumulator=LOW):
    """The model with one low step, and the same settings."""
    return MODEL.with_hardware(lamp.Hardware("low " + name, **{name: accumulator}), settings)


@pytest.mark.parametrize(
    "settings",
    [
        LAMP("total_variation", tau=0.01, on="logits"),
        LAMP("total_variation", budget=0.1, on="logits"),
        LAMP("kl", budget=0.1, scope="row", weights="abs", on="logits"),
        LAMP("largest", budget=0.05, scope="row", on="logits"),
        LAMP("normwise", tau=1.2, on="logits"),
        LAMP("normwise_optimal", tau=1.2, on="logits"),
    ],
    ids=str,
)
def test_logits_are_recomputed_where_their_probabilities_say(settings):
    low, high = on("lm_head").logits(TOKENS), MODEL.logits(TOKENS)
    z = softmax(low, np.full(len(low), 50), Function())
    mask = select(z, low, rule=settings)
    assert 0 < mask.mean() < 0.9
    assert (low != high).mean() > 0.5
    result = on("lm_head", settings).forward(TOKENS)
    np.testing.assert_array_equal(result.logits, np.where(mask, high, low))
    (found,) = result.recomputed["lm_head"]
    assert (found.selected, found.components, found.terms) == (mask.sum(), mask.size, 24)


def test_logits_chosen_at_random_are_as_many():
    settings = LAMP("random", budget=0.1, scope="row", seed=3, on="logits")
    low, high = on("lm_head").logits(TOKENS), MODEL.logits(TOKENS)
    found = on("lm_head", settings).logits(TOKENS)
    assert ((found == low) | (found == high)).all()
    assert (found != low).sum(axis=1).max() <= 5
    assert (found != low).any(axis=1).mean() > 0.9
    other = replace(settings, seed=4)
    assert (on("lm_head", other).logits(TOKENS) != found).any()


def test_all_of_a_place_is_the_high_precision():
    """Each place alone: with a budget of one the low step leaves no trace."""
    places = {
        "scores": LAMP("total_variation", budget=1),
        "attention_output": LAMP("norm", budget=1),
        "mlp_up": LAMP("activation", budget=1),
        "mlp_down": LAMP("norm", budget=1),
        "lm_head": LAMP("kl", budget=1, on="logits"),
    }
    expected = MODEL.logits(TOKENS)
    for step, settings in places.items():
        assert (on(step).logits(TOKENS) != expected).any()
        np.testing.assert_array_equal(on(step, settings).logits(TOKENS), expected)
    machine = lamp.Hardware("all low", **dict.fromkeys(places, LOW))
    every = [places[step] for step in ("scores", "mlp_up", "mlp_down", "lm_head")]
    result = MODEL.with_hardware(machine, every).forward(TOKENS)
    np.testing.assert_array_equal(result.logits, expected)
    assert set(result.recomputed) == set(places)
    assert result.recomputation_rate == 1.0


@pytest.mark.parametrize("layers", ["0", "-1"])
def test_all_of_a_place_in_a_layer_is_the_high_precision_there(layers):
    steps = {
        "softmax": ("scores",),
        "norm": ("attention_output", "mlp_down"),
        "activation": ("mlp_up",),
    }
    layer = int(layers) % 2
    for place, low in steps.items():
        machine = lamp.Hardware(f"low {place}", **dict.fromkeys(low, LOW))
        expected = machine.with_layers({layer: dict.fromkeys(low, HIGH)})
        rule = LAMP("random", budget=1, on=place, layers=layers)
        found = MODEL.with_hardware(machine, rule).forward(TOKENS)
        np.testing.assert_array_equal(found.logits, MODEL.with_hardware(expected).logits(TOKENS))
        whole = MODEL.with_hardware(machine, replace(rule, layers="")).forward(TOKENS)
        for step in low:  # layers without a rule have components, too
            counts = [(part.selected, part.components) for part in found.recomputed[step]]
            both = [part.components for part in whole.recomputed[step]]
            expected_counts = [(own * (i == layer), own) for i, own in enumerate(both)]
            assert counts == expected_counts


def test_layers_have_rules_of_their_own_and_the_rest_has_one():
    first, rest = LAMP("kl", budget=0.05, layers=[0, -1]), LAMP("strict", tau=0.1)
    ahead = LookAhead.of([rest, first, LAMP("kl", budget=0.1, on="logits")])
    plain = replace(first, layers="")
    assert [ahead.of_layer(layer, 4).softmax for layer in range(5)] == [
        plain, rest, rest, plain, rest
    ]  # fmt: skip
    assert ahead.of_layer(0, 4).logits == ahead.logits
    assert ahead.of_layer(1, 4).norm is None
    alone = LookAhead.of(first)
    assert [alone.of_layer(layer, 3).softmax for layer in range(3)] == [plain, None, plain]
    assert not ahead.is_causal
    assert LookAhead.of(rest).is_causal


def test_layers_of_rules_are_written_in_one_way():
    rule = LAMP("kl", budget=0.01, layers=(-1, 2, 1, 1, 0))
    assert str(rule) == "softmax:kl:1%:layers=0-2,-1"
    assert LAMP.parse(str(rule)) == rule == LAMP("kl", budget=0.01, layers="-1,0-2")
    others = rule, replace(rule, layers="0-2"), replace(rule, layers="")
    settings = {lamp.evaluation.Setting("ps4", [each]).digest for each in others}
    assert len(settings) == 3
    with pytest.raises(ValueError, match="logits are in no layer"):
        LAMP("kl", budget=0.01, on="logits", layers="0")
    with pytest.raises(ValueError, match="'x' is no list of layers"):
        LAMP.parse("softmax:kl:1%:layers=x")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("0-1", "1"), "two rules for softmax in layer 1: softmax:kl:1%:layers=0-1 and"),
        (("1", "-1"), "two rules for softmax in layer 1"),
        (("2",), "softmax:kl:1%:layers=2 is for layer 2, but GPT2 has 2 layers, 0 to 1"),
        (("", ""), "two rules for softmax: softmax:kl:1% and softmax:kl:1%"),
    ],
)
def test_layers_of_rules_that_a_model_has_not_or_twice_are_refused(layers, message):
    rules = [LAMP("kl", budget=0.01, layers=each) for each in layers]
    with pytest.raises(ValueError, match=message):
        MODEL.with_hardware("ps4", rules)


def test_a_rule_for_rows_does_not_go_with_tiles_in_its_own_layers_alone():
    machine = lamp.Hardware("low", scores=LOW).with_layers({0: {"attention": lamp.Tiled()}})
    rule = LAMP("kl", budget=0.01, layers="1")
    assert MODEL.with_hardware(machine, rule).forward(TOKENS).recomputed["scores"][1].selected
    with pytest.raises(ValueError, match="attention by tiles takes the rule relaxed"):
        MODEL.with_hardware(machine, replace(rule, layers="0"))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("layer", [0, 1])
def test_activations_are_recomputed_where_their_slopes_say(layer, weights):
    settings = LAMP("activation", budget=0.2, weights=weights)
    steps = on("mlp_up", settings).trace(TOKENS, layer).steps
    block, h = MODEL._weights.blocks[layer], steps["norm_2"]
    sums, running = fpemu.matmul(h, block.mlp_up.weight, LOW, running=True)
    low = fpemu.add(sums, block.mlp_up.bias, "e8m4")
    high = fpemu.matmul(h, block.mlp_up.weight, HIGH)
    high = fpemu.add(high, block.mlp_up.bias, "float32")
    slopes = rows.mapped(activations.activation("gelu_new").slope, low.astype(float))
    consumer = np.linalg.norm(block.mlp_down.weight.astype(float), axis=1)
    given = {
        "one": np.ones_like(low),
        "abs": np.abs(low),
        "norms": np.linalg.norm(h, axis=1)[:, None] * np.linalg.norm(block.mlp_up.weight, axis=0),
        "products": np.abs(h) @ np.abs(block.mlp_up.weight),
        "running_1": running.first,
        "running_2": running.second,
        "errors": np.abs(high - low),
    }[weights]
    scores = np.abs(slopes) * consumer * given
    expected = select(low, rule="activation", budget=0.2, sensitivity=scores)
    mask = steps["mlp_up_mask"]
    # Scores that differ in their last bits may change places.
    assert mask.sum() == expected.sum() == int(0.2 * mask.size)
    assert (mask != expected).sum() <= 2
    np.testing.assert_array_equal(steps["mlp_up"], np.where(mask, high, low))


@pytest.mark.parametrize("step", ["attention_output", "mlp_down"])
def test_arguments_of_norms_are_recomputed_where_the_next_norm_says(step):
    settings = LAMP("norm", tau=0.15)
    steps = on(step, settings).trace(TOKENS, 0).steps
    block = MODEL._weights.blocks[0]
    name, before = ("heads", "stream") if step == "attention_output" else ("activation", "")
    stream = steps[before] if before else steps["attention_output"]
    following = block.norm_2 if step == "attention_output" else MODEL._weights.blocks[1].norm_1
    matrix = getattr(block, step)

    def computed(accumulator, format):
        sums = fpemu.matmul(steps[name], matrix.weight, accumulator)
        return fpemu.add(stream, fpemu.add(sums, matrix.bias, format), "float32")

    low, high = computed(LOW, "e8m4"), computed(HIGH, "float32")
    sensitivity = LayerNorm(following.weight, epsilon=1e-5).sensitivity(low, 2)
    mask = select(low, rule="norm", tau=0.15, sensitivity=sensitivity)
    assert 0.02 < mask.mean() < 0.98
    np.testing.assert_array_equal(steps[f"{step}_mask"], mask)
    np.testing.assert_array_equal(steps[step], np.where(mask, high, low))


OVERFLOWING = {
    "scores": ("float8_e4m3", 1.5, LAMP("total_variation", tau=0.5)),
    "attention_output": ("float8_e4m3fn", 3.0, LAMP("norm", tau=1e6)),
    "mlp_up": ("float8_e3m4", 1.0, LAMP("activation", tau=1e6)),
    "mlp_down": ("float8_e4m3", 3.0, LAMP("norm", tau=1e6)),
    "lm_head": ("float8_e3m4", 2.0, LAMP("total_variation", tau=0.5, on="logits")),
}


@pytest.mark.parametrize("step", OVERFLOWING)
def test_what_overflows_is_recomputed_whatever_the_rule(step):
    """Sums beyond a small format's range are infinite or NaN, and so is all behind them."""
    format, scale, settings = OVERFLOWING[step]
    model = GPT2(CONFIG, tensors(scale))
    machine = lamp.Hardware("small range", **{step: format})
    with np.errstate(invalid="ignore"):
        broken = model.with_hardware(machine).logits(TOKENS)
    assert not np.isfinite(broken).all()
    result = model.with_hardware(machine, settings).forward(TOKENS)
    assert np.isfinite(result.logits).all()
    assert 0 < result.recomputation_rate < 1


def several(*amounts):
    """Rules of all places with the same budgets."""
    places = ("softmax:tv", "norm:norm", "activation:activation", "logits:tv")
    return [LAMP.parse(f"{place}:{','.join(amounts)}") for place in places]


def test_equal_products_that_recompute_are_one():
    low = dict.fromkeys(("scores", "attention_output", "mlp_down", "lm_head"), LOW)
    low["mlp_up"] = fpemu.Sequential("e8m5")
    one = lamp.Hardware("one", **low)
    three = replace(one, recomputed=[HIGH, HIGH, HIGH])
    alone = MODEL.with_hardware(one, several("16%")).forward(TOKENS)
    shared = MODEL.with_hardware(three, several("10%", "0%", "6%")).forward(TOKENS)
    np.testing.assert_array_equal(alone.logits, shared.logits)
    assert alone.recomputed.keys() == shared.recomputed.keys()
    for step, layers in shared.recomputed.items():
        for own, part in zip(layers, alone.recomputed[step], strict=True):
            assert (own.selected, own.components) == (part.selected, part.components)
            assert (part.levels, part.widths) == ((), ())
            assert own.widths == (14 if step == "mlp_up" else 13, 32, 32, 32)
            first, second, third = own.levels
            assert (second, first + third) == (0, own.selected)
            assert third == int(0.06 * own.components)
    # The middle one matters, if it is another.
    other = replace(one, recomputed=["e8m6", HIGH, HIGH])
    changed = MODEL.with_hardware(other, several("10%", "0%", "6%")).forward(TOKENS)
    assert (changed.logits != shared.logits).mean() > 0.5


def test_rules_have_an_amount_for_each_product_that_recomputes():
    three = lamp.Hardware("three", scores=LOW, recomputed=["e8m10", "float32"])
    message = "three recomputes by 2 products, so that a rule takes as many amounts, not 1"
    with pytest.raises(ValueError, match=message):
        MODEL.with_hardware(three, LAMP("kl", budget=0.1))
    with pytest.raises(ValueError, match=message):
        lamp.evaluation.Setting(three, several("1%"))
    with pytest.raises(ValueError, match=r"low scores recomputes by one product, .* not 3: norm"):
        on("scores", several("1%", "1%", "1%")[1:])


def test_two_rules_for_a_place_and_strangers_are_refused():
    with pytest.raises(ValueError, match="two rules for logits"):
        LookAhead.of([LAMP("kl", tau=0.1, on="logits"), LAMP("largest", tau=0.1, on="logits")])
    with pytest.raises(TypeError, match="must be a LAMP, several or None, not str"):
        LookAhead.of("softmax:tv:1%")
    with pytest.raises(ValueError, match="for softmax, not 'logits'"):
        LAMP("value_aware", tau=0.1, on="logits")


def test_generation_with_look_ahead_on_logits_keeps_its_cache():
    settings = LAMP("total_variation", tau=0.01, on="logits")
    model = on("lm_head", settings)
    assert model.look_ahead.is_causal
    text = model.generate(TOKENS[:5], 10)
    for end in range(5, 15):
        assert text[end] == model.logits(text[:end])[-1].argmax()
