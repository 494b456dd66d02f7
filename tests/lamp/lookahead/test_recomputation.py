"""What look-ahead recomputes, against the oracle, where some numbers find no room."""

from functools import cache

import numpy as np
import pytest

from fpemu import Format, Rounding, Sequential, reference
from lamp import LAMP, Hardware, Product, Sum
from tests.lamp.tiny_models import FAMILIES, TOKENS
from tests.oracle import plain

LAYERS = 2
FINITE = Format("finite", 8, 5, 3, infinities=False, high_nans=0)
# Accumulators that have no room for some sums, or a stream that has none.
NARROW = {
    "e3m4, infinite beyond 15.5": Sequential("float8_e3m4"),
    "e4m3, infinite beyond 240": Sequential("float8_e4m3"),
    "e4m3fn, NaN beyond 448": Sequential("float8_e4m3fn"),
    "float16, infinite beyond 65504": Sequential("float16"),
    "finite, saturating at 31": Sequential(FINITE),
    "e4m3, saturating at 240": Sequential("float8_e4m3", Rounding("rne", "saturate")),
    "stream in e3m4": None,
}
# The products of a layer that can be recomputed, behind them that of the head; their places.
STEPS = {
    "scores": "softmax",
    "attention_output": "norm",
    "mlp_up": "activation",
    "mlp_down": "norm",
    "lm_head": "logits",
}
# The weights of each, of those of queries and keys the columns.
WEIGHTS = {
    "gpt2": {
        "scores": {"transformer.h.{}.attn.c_attn": slice(36)},
        "attention_output": {"transformer.h.{}.attn.c_proj": slice(None)},
        "mlp_up": {"transformer.h.{}.mlp.c_fc": slice(None)},
        "mlp_down": {"transformer.h.{}.mlp.c_proj": slice(None)},
        "lm_head": {"transformer.ln_f": slice(None)},  # the head is the embedding
    },
    "llama": {
        "scores": dict.fromkeys(
            ("model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj"), slice(None)
        ),
        "attention_output": {"model.layers.{}.self_attn.o_proj": slice(None)},
        "mlp_up": dict.fromkeys(
            ("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"), slice(None)
        ),
        "mlp_down": {"model.layers.{}.mlp.down_proj": slice(None)},
        "lm_head": {"lm_head": slice(None)},
    },
}
RULES = {
    "thresholds": {
        "softmax": {"rule": "total_variation"},
        "norm": {"rule": "norm"},
        "activation": {"rule": "activation"},
        "logits": {"rule": "total_variation"},
    },
    "weights": {
        "softmax": {"rule": "kl", "weights": "abs"},
        "norm": {"rule": "norm", "weights": "abs"},
        "activation": {"rule": "activation", "weights": "abs"},
        "logits": {"rule": "kl", "weights": "abs"},
    },
    "budgets": {
        "softmax": {"rule": "total_variation", "budget": 0.3},
        "norm": {"rule": "norm", "budget": 0.2, "scope": "row"},
        "activation": {"rule": "activation", "budget": 0.15},
        "logits": {"rule": "total_variation", "budget": 0.3, "scope": "row"},
    },
    "two precisions": {
        "softmax": {"rule": "total_variation", "budget": (0.2, 0.1)},
        "norm": {"rule": "norm", "budget": (0.2, 0.1), "scope": "row"},
        "activation": {"rule": "activation"},
        "logits": {"rule": "kl", "weights": "abs"},
    },
}


def machine_of(name, kind="thresholds"):
    high = Product("float32", "bfloat16", "tf32", rounding="rto")
    if kind == "two precisions":
        high = Product("e8m9", "e8m4", "e8m6"), high
    if NARROW[name] is None:
        return Hardware(name, residual=Sum("float8_e3m4"), recomputed=high)
    low = dict.fromkeys(STEPS, Product(NARROW[name], output="float32"))
    return Hardware(name, **low, recomputed=high)


def range_of(name):
    """The largest number that there is room for."""
    machine = machine_of(name)
    step = machine.residual.output if NARROW[name] is None else machine.scores.accumulator.format
    return step.max_finite


def observed(model):
    """The steps of all layers, and of what comes behind them."""
    layers = [{} for _ in range(LAYERS + 1)]

    def observe(name, layer, numbers):
        layers[layer][name] = numbers.copy()

    layers[LAYERS]["lm_head"] = model._forward(np.array(TOKENS), None, observe).logits
    return layers


@cache
def overflowing_tensors(family, largest):
    """Random weights, only to be read: one sum in four is beyond the largest number."""
    tiny = FAMILIES[family]
    tensors = tiny.tensors()
    root = np.sqrt(tiny.model("fp64").shape.dimension)
    for layer in range(LAYERS + 1):
        for step in ("lm_head",) if layer == LAYERS else [*STEPS][:-1]:
            steps = observed(tiny.model("fp64", tensors=tensors))[layer]
            before = {"attention_output": "stream", "mlp_down": "attention_output"}.get(step)
            sums = steps[step] if before is None else steps[step] - steps[before]
            size = np.quantile(np.abs(sums[sums != 0]), 3 / 4) * (root if step == "scores" else 1)
            _enlarge(tensors, family, step, layer, largest / size)
    return tensors


def _enlarge(tensors, family, step, layer, factor):
    each = np.float32(np.sqrt(factor) if step == "scores" else factor)  # a score has two factors
    for place, columns in WEIGHTS[family][step].items():
        for name in (f"{place.format(layer)}.weight", f"{place.format(layer)}.bias"):
            if name in tensors:
                tensors[name][..., columns] *= each


def shares_of(step, steps, model, layer, machine):
    """What a rule looks at: the share of each component in an error of what follows."""
    before, weights = steps[f"{step}_before"], model._weights
    if step in ("scores", "lm_head"):
        z = plain.softmax(plain.causal(before) if step == "scores" else before)
        format = machine.softmax.output if step == "scores" else machine.levels[-1].output
        z = np.vectorize(lambda x: reference.round_exact(x, format))(z)
        return z * (1 - z)
    block, epsilon = weights.blocks[layer], model.shape.epsilon
    if step == "mlp_up":
        slope = plain.SLOPES[model.shape.activation](before)
        lengths = np.linalg.norm(plain.wide(block.mlp_down.weight), axis=1)
        return np.abs(slope * steps.get("gated", 1.0)) * lengths
    following = block.norm_2 if step == "attention_output" else weights.norm
    if step == "mlp_down" and layer + 1 < LAYERS:
        following = weights.blocks[layer + 1].norm_1
    return plain.norm_sensitivity(before, following, epsilon)


def weighted(shares, settings, before):
    power = 2 if settings.rule == "kl" else 1
    return shares * np.abs(before) ** power if settings.weights == "abs" else shares


def chosen(shares, settings, exists):
    """By which product a rule has each share recomputed, and which shares are so near a threshold
    that rounding decides."""
    levels, near = np.zeros(shares.shape, int), np.zeros(shares.shape, bool)
    given = settings.budget if settings.tau is None else settings.tau
    amounts = list(given) if isinstance(given, tuple) else [given]
    for number in range(len(amounts)):
        if settings.tau is not None:
            thresholds = amounts[number]
        elif settings.scope == "row":
            counts = (sum(amounts[number:]) * exists.sum(axis=-1) + 1e-9).astype(int)
            ordered = -np.sort(-np.where(exists, shares, -1.0), axis=-1)
            thresholds = np.take_along_axis(ordered, counts[..., np.newaxis], -1)
        else:
            count = int(sum(amounts[number:]) * exists.sum() + 1e-9)
            thresholds = -np.sort(-shares[exists])[count]
        levels += (shares > thresholds) & exists
        near |= np.abs(shares - thresholds) <= 1e-5 * thresholds
    return levels, near


def settings_of(kind, model, machine):
    """Rules for all places; thresholds are such that a third of the components are above them."""
    layers = observed(model)
    found = {}
    for step, place in STEPS.items():
        layer = LAYERS if step == "lm_head" else 0
        given = {"on": place, **RULES[kind][place]}
        if "budget" not in given:
            steps = {**layers[layer], f"{step}_before": layers[layer][step]}
            shares = shares_of(step, steps, model, layer, machine)
            shares = weighted(shares, LAMP(**given, tau=0.0), layers[layer][step])
            # Probabilities of scores of many hundreds are zeros and ones.
            usual = shares[shares > 1e-6]
            quantiles = (0.5, 0.75) if kind == "two precisions" else (0.67,)
            taus = np.quantile(usual, quantiles).tolist() if usual.size else [0.01, 0.1]
            given["tau"] = tuple(taus[: len(quantiles)])
        found[place] = LAMP(**given)
    return found


# What overflows in one of the families, in turn; a stream that does, and every rule, in both.
CASES = [(name, "thresholds", [*FAMILIES][i % 2]) for i, name in enumerate([*NARROW][:-1])]
CASES += [("stream in e3m4", "thresholds", family) for family in FAMILIES]
CASES += [
    ("e3m4, infinite beyond 15.5", kind, family)
    for kind in ("weights", "budgets", "two precisions")
    for family in FAMILIES
]


@pytest.mark.parametrize(("name", "kind", "family"), CASES)
def test_some_components_are_of_the_high_precision_and_the_others_of_the_low(name, kind, family):
    """Those that overflowed and those that the rules take: bit for bit, with the same masks."""
    tiny, machine = FAMILIES[family], machine_of(name, kind)
    tensors = overflowing_tensors(family, range_of(name))
    settings = settings_of(kind, tiny.model("fp64", tensors=tensors), machine)
    model = tiny.model(machine, settings.values(), tensors)
    found, recomputed = observed(model), model.forward(TOKENS).recomputed
    layers = tiny.oracle(tensors, tiny.config, machine, TOKENS, found)
    assert np.isfinite(found[-1]["lm_head"]).all()
    counts = {step: np.zeros(3, int) for step in STEPS}
    for layer, (own, steps) in enumerate(zip(found, layers, strict=True)):
        for step in own.keys() & steps.keys():
            np.testing.assert_array_equal(own[step], steps[step], err_msg=step)
        for step, place in STEPS.items():
            if step not in steps:
                continue
            mask = own["mask" if step == "scores" else f"{step}_mask"]
            exists = np.ones(mask.shape, bool)
            if step == "scores":
                exists = np.tril(exists)
            shares = shares_of(step, steps, model, layer, machine)
            shares = weighted(shares, settings[place], steps[f"{step}_before"])
            taken, near = chosen(shares, settings[place], exists)
            beyond = steps[f"{step}_overflow"]
            expected = np.where(beyond, len(machine.levels), taken)
            np.testing.assert_array_equal((mask == expected) | near, True, err_msg=step)
            assert near.mean() < 0.2  # the first that is left is near itself
            counted, gated = recomputed[step][layer % LAYERS], 0
            if step == "mlp_up" and "gated" in steps:
                gated = steps["gated_overflow"].sum()
                assert (gated > 0) == (NARROW[name] is not None)
            selected = np.count_nonzero(mask) + gated
            assert (counted.selected, counted.components) == (selected, exists.sum())
            if kind == "two precisions":
                of_each = (mask == 1).sum(), (mask == 2).sum() + gated
                assert counted.levels == of_each
                assert counted.widths == (8, 18, 32)
            counts[step] += (
                beyond.sum(),
                np.count_nonzero(taken * ~beyond),
                (exists & (mask == 0)).sum(),
            )
    # There is some of everything: what overflowed, what the rule took besides, what is left.
    for step, (beyond, taken, left) in counts.items():
        assert (beyond > 0) == (NARROW[name] is not None or STEPS[step] == "norm"), step
        assert taken > 0 or (STEPS[step] in ("softmax", "logits") and range_of(name) > 100), step
        assert left > 0, step


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NARROW)
def test_look_ahead_mends_what_overflows(name, family):
    tiny, machine = FAMILIES[family], machine_of(name)
    tensors = overflowing_tensors(family, range_of(name))
    # Thresholds that nothing is above: what has overflowed alone is recomputed.
    rules = {place: rule["rule"] for place, rule in RULES["thresholds"].items()}
    nothing = [LAMP(rule, tau=1e30, on=place) for place, rule in rules.items()]
    plain_logits = tiny.model(machine, tensors=tensors).logits(TOKENS)
    model = tiny.model(machine, nothing, tensors)
    mended = model.forward(TOKENS)
    assert 0 < mended.recomputation_rate < 1
    assert np.isfinite(mended.logits).all()
    assert np.isfinite(plain_logits).all() == ("saturating" in name)
    if "saturating" in name:  # nothing in the logits tells, but scores end where their sums do
        steps, root = observed(model)[0], np.sqrt(model.shape.dimension)
        end = np.float32(range_of(name) / root)
        assert np.abs(steps["low_scores"]).max() == end < np.abs(steps["scores"]).max()
