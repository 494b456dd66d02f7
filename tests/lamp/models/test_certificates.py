"""Certified tokens: bounds against exact evaluation, steps against perturbed arguments."""

import math
from dataclasses import replace
from functools import cache

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fpemu
from lamp import LAMP, Hardware, Product, Tiled, certify, hardware
from lamp.lookahead import LookAhead
from lamp.machines import STEPS
from lamp.models import certificates, first_order, linearization, reference
from lamp.models.certificates import KINDS, Run, _Errors, _Scores
from lamp.models.layers import Matrix, Norm
from lamp.models.linearization import carried
from lamp.models.rotary import Rotary
from lamp.models.transformer import State, run_block
from tests.lamp.tiny_models import FAMILIES, GPT2_CONFIG, LLAMA_CONFIG, TOKENS

SMALL = {
    "gpt2": replace(GPT2_CONFIG, n_embd=8, n_inner=16),
    "llama": replace(
        LLAMA_CONFIG,
        hidden_size=8,
        intermediate_size=15,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        rotary=Rotary(4, 30.0),
    ),
}
LOOK_AHEAD = [
    LAMP(on="softmax", rule="strict", tau=0.05),
    LAMP(on="norm", rule="norm", tau=0.05),
    LAMP(on="activation", rule="activation", tau=0.05),
    LAMP(on="logits", rule="strict", tau=0.05),
]


@cache
def small(family, seed, scale=1.0, kink=None):
    """A decoder of two layers and width 8; `kink` changes its tensors."""
    tiny, config = FAMILIES[family], SMALL[family]
    tensors = tiny.tensors(config, seed)
    tensors = {name: (x * np.float32(scale)).astype(np.float32) for name, x in tensors.items()}
    if kink is not None:
        tensors = {name: kink(name, x).astype(np.float32) for name, x in tensors.items()}
    return tiny.kind(config, tensors)


@cache
def exact(model, digits=40):
    """Streams and logits of the checkpoint's weights in mpmath."""
    double = model.with_hardware("fp64")
    weights, shape = double._weights, model.shape
    streams = reference.residual_streams(weights, shape, TOKENS, digits)
    with mpmath.workdps(digits):
        logits = [
            reference._linear(reference._norm(list(row), weights.norm, shape.epsilon), weights.head)
            for row in streams[-1]
        ]
    return streams, np.array(logits, dtype=object)


@cache
def in_float64(model):
    """The certificate of the machine whose every step is in float64."""
    return certify(model, TOKENS, "fp64")


@cache
def computed(model, machine, lamp=()):
    """Errors of the streams that a machine computes, and the tokens that it predicts."""
    run = model.with_hardware(machine, lamp or None)
    streams = run._residual_streams(np.array(TOKENS)).astype(object)
    with mpmath.workdps(40):
        errors = (streams - exact(model)[0]).astype(np.float64)
    return errors, np.argmax(run.logits(TOKENS), axis=1)


def check(found, model, machine, lamp=()):
    """Every bound of a certificate, against mpmath."""
    logits = exact(model)[1]
    errors, predicted = computed(model, machine, tuple(lamp))
    np.testing.assert_array_equal(found.predicted, predicted)
    assert (np.linalg.norm(errors, axis=-1) <= found.stream).all()
    with mpmath.workdps(40):
        for i, (best, rival) in enumerate(zip(found.predicted, found.rival, strict=True)):
            margin = logits[i, best] - logits[i, rival]
            assert abs(margin - mpmath.mpf(found.margin[i])) <= found.bound[i]
            right = logits[i].argmax() == best
            assert right or not found.proved[i]
    np.testing.assert_array_equal(found.proved, found.margin > found.bound)
    return errors


# --- whole decoders -------------------------------------------------------------------------------

MACHINES = ("fp64", "fp32", "ps10", "ps4", "bf16", "hopper", "hopper-fp8", "blackwell-nvfp4")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_bounds_hold_against_mpmath(family, machine, kind):
    model = small(family, seed=1)
    check(certify(model, TOKENS, machine, kind=kind), model, machine)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_bounds_hold_with_look_ahead(family, kind):
    model, machine = small(family, seed=2), "ps7"
    without = certify(model, TOKENS, machine, kind=kind)
    found = certify(model, TOKENS, machine, LOOK_AHEAD, kind=kind)
    check(found, model, machine, LOOK_AHEAD)
    better = found.stream[1] < without.stream[1]
    assert better.all() if kind != "reference" else better.mean() > 0.5  # errors, not bounds


def test_bounds_hold_with_several_precisions():
    model = small("gpt2", seed=2)
    machine = replace(hardware("ps7"), recomputed=("e8m9", "float32"))
    rules = [replace(rule, tau=None, budget=(0.2, 0.2)) for rule in LOOK_AHEAD]
    without = certify(model, TOKENS, machine)
    found = certify(model, TOKENS, machine, rules)
    check(found, model, machine, rules)
    assert (found.stream[1] < without.stream[1]).all()


def one_massive_channel(name, x):
    x = x.copy()
    if "wte" in name or "embed" in name:
        x[:, 0] = 40.0
    return x


def ones_alike(name, x):
    return np.full_like(x, 0.125)


def all_positive(name, x):
    return abs(x)


def heavy_scores(name, x):
    return x * 8 if "attn" in name else x


def no_gains(name, x):
    return np.where(np.arange(x.size) % 2, x, 0) if x.ndim == 1 else x


KINKS = (one_massive_channel, ones_alike, all_positive, heavy_scores, no_gains)


@pytest.mark.parametrize("kink", KINKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_bounds_hold_for_adversarial_weights(family, kink):
    model = small(family, seed=3, kink=kink)
    for machine in ("fp32", "ps7", "bf16"):
        found = certify(model, TOKENS, machine)
        check(found, model, machine)
        assert not (kink is ones_alike and found.proved.any())  # all logits are equal


@pytest.mark.parametrize("step", sorted(set(STEPS) - {"recomputed"}))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_error_of_every_step_is_in_the_bound(family, step):
    """All other steps are in float64, whose bounds are far below the errors of this one."""
    model, fine = small(family, seed=4, scale=0.5), hardware("fp64")
    machine = replace(fine, **{step: type(getattr(fine, step))("e8m3")})
    errors = check(certify(model, TOKENS, machine), model, machine)
    clean = in_float64(model)
    assert step == "lm_head" or np.linalg.norm(errors[-1]) > 100 * clean.stream[-1].max()


@pytest.mark.parametrize("family", FAMILIES)
def test_rounded_weights_are_in_the_bound(family):
    model = small(family, seed=5)
    machine = replace(hardware("fp64"), weights="e8m3")
    errors = check(certify(model, TOKENS, machine), model, machine)
    assert np.linalg.norm(errors[-1]) > 1e-3


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("family", FAMILIES)
def test_rounded_operands_are_in_the_bound(family, kind):
    """Sums are exact to float64, so that nothing else is as far off as the operands."""
    model = small(family, seed=4, scale=0.5)
    step = Product("float64", operands="e8m3")
    names = ("qkv", "scores", "values", "attention_output", "mlp_up", "mlp_down", "lm_head")
    for name in names:
        machine = replace(hardware("fp64"), **{name: step})
        check(certify(model, TOKENS, machine, kind=kind), model, machine)
        run = Run.of(model.with_hardware(machine), np.array(TOKENS), None, None, kind)
        a, b = np.random.default_rng(0).normal(size=(2, 6, 6))
        for left, right in ((a, np.round(b)), (np.round(a), b)):  # one operand is rounded, or both
            found = certificates._product(left, right, right, step, run.machine, run.kind)
            exact_sums = np.array([[math.fsum(x * y) for y in right.T] for x in left])
            assert (np.abs(found.values - exact_sums) <= found.errors).all()


@pytest.mark.parametrize("step", ["qkv", "scores", "values", "mlp_up", "mlp_down", "lm_head"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rounded_outputs_are_in_the_bound(family, step):
    """Sums are exact to float64, and only their results are rounded."""
    model = small(family, seed=4, scale=0.5)
    product = Product("float64", output="e8m3")
    machine = replace(hardware("fp64"), **{step: product})
    errors = check(certify(model, TOKENS, machine), model, machine)
    clean = in_float64(model).stream[-1].max()
    assert step == "lm_head" or np.linalg.norm(errors[-1]) > 100 * clean


def test_a_product_in_float64_is_no_better_than_its_bound():
    a, b = np.array([[2.0**53, 1.0, 1.0, -(2.0**53)]]), np.ones((4, 1))
    values, errors = certificates._in_float64(a, b)
    assert abs(values[0, 0] - 2.0) <= errors[0, 0] < 32.0
    a = np.array([[1.0, 2.0**-53, 2.0**-53, 2.0**-53]])
    values, errors = certificates._in_float64(a, b)
    exact_sum = mpmath.mpf(1) + 3 * mpmath.mpf(2) ** -53
    assert 0 < abs(mpmath.mpf(values[0, 0]) - exact_sum) <= errors[0, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_that_overflow_prove_nothing(family):
    model = small(family, seed=6, scale=4.0)
    found = certify(model, TOKENS, "fp16")
    check(found, model, "fp16")


@pytest.mark.parametrize("family", FAMILIES)
def test_small_weights_are_proved_at_many_bits_and_not_at_few(family):
    model = small(family, seed=7, scale=0.5)
    shares = [certify(model, TOKENS, name).share for name in ("fp64", "fp32", "ps2")]
    assert shares[0] == shares[1] == 1.0
    assert shares[2] < 1.0


def test_certified_tokens_never_flip():
    flips = proved = 0
    for seed in range(6):
        model = small("gpt2", seed)
        expected = exact(model)[1].argmax(axis=1)
        for machine in ("ps10", "ps7", "ps4", "bf16"):
            found = certify(model, TOKENS, machine, kind="measured")
            flips += int(np.sum(found.predicted[found.proved] != expected[found.proved]))
            proved += int(found.proved.sum())
    assert flips == 0
    assert proved > 20


def test_wrong_arguments_are_refused():
    model = small("gpt2", 0)
    with pytest.raises(ValueError, match="unknown kind of bound 'hopeful'"):
        certify(model, TOKENS, kind="hopeful")
    with pytest.raises(ValueError, match="lamp is given without hardware"):
        certify(model, TOKENS, lamp=LOOK_AHEAD[0])
    tiled = Hardware("tiled", attention=Tiled())
    with pytest.raises(ValueError, match="tiled has attention by tiles"):
        certify(model, TOKENS, tiled)
    with pytest.raises(ValueError, match="token 99 at position 0"):
        certify(model, [99])


# --- estimates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_what_layers_add_bounds_their_errors_on_exact_numbers(family):
    """The first layer reads the embedding, which is exact here."""
    model = small(family, seed=8)
    machine = replace(hardware("fp32"), embedding="float64", weights="float64")
    found = first_order(model, TOKENS, machine, samples=1)
    errors = model.with_hardware(machine).depth_map(TOKENS, digits=30).errors
    assert (errors[1] <= found.added[1]).all()
    certified = certify(model, TOKENS, machine)
    np.testing.assert_allclose(found.added[:2], certified.stream[:2], rtol=1e-6)
    assert (found.added[2] < certified.stream[2]).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_estimates_to_first_order_are_of_the_size_of_the_errors(family):
    model = small(family, seed=9)
    expected = exact(model)[1].astype(np.float64)
    ratios = []
    for name in ("fp32", "ps10"):
        found = first_order(model, TOKENS, name, kind="measured", samples=20)
        logits = model.with_hardware(name).logits(TOKENS).astype(np.float64)
        rows = np.arange(len(TOKENS))
        margins = [x[rows, found.predicted] - x[rows, found.rival] for x in (logits, expected)]
        np.testing.assert_array_equal(found.margin, margins[0])
        ratios += list(np.abs(margins[0] - margins[1]) / found.estimate)
    assert max(ratios) < 3
    assert np.median(ratios) > 0.02


def test_amplification_is_that_of_the_rest_of_the_model():
    """Behind the last layer there are the norm and the head alone."""
    model = small("gpt2", seed=9)
    found = first_order(model, TOKENS, "fp32", samples=60)
    double = model.with_hardware("fp64")
    x = double._residual_streams(np.array(TOKENS))[-1]
    weights = double._weights

    def margin(row):
        logits = normed(row, weights.norm, model.shape.epsilon) @ weights.head.weight
        return logits[rows, found.predicted] - logits[rows, found.rival]

    rows = np.arange(len(TOKENS))
    steps = [(margin(x + 1e-6 * e) - margin(x - 1e-6 * e)) / 2e-6 for e in np.eye(8)]
    expected = np.linalg.norm(steps, axis=0) / np.sqrt(8)
    np.testing.assert_allclose(found.amplification[-1], expected, rtol=0.35)


def test_estimates_need_samples():
    with pytest.raises(ValueError, match="samples must be a positive integer, not 0"):
        first_order(small("gpt2", 0), TOKENS, samples=0)


# --- single steps ---------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([1e-9, 1e-4, 1e-2, 0.3, 3.0])
QUICK = settings(max_examples=40, deadline=None)


def within(generator, errors):
    """A perturbation at the edge of bounds: signs times the box, shrunk into the ball."""
    d = errors.box * generator.choice([-1.0, 1.0], errors.box.shape)
    d *= generator.uniform(0.5, 1.0, errors.box.shape)
    length = np.linalg.norm(d / errors.scale, axis=-1, keepdims=True)
    return d * np.minimum(1.0, errors.ball / length)


def errors_like(x, generator, size):
    box = size * generator.uniform(0.1, 1.0, x.shape)
    return _Errors.of(box, 0.7 * np.linalg.norm(box, axis=-1, keepdims=True))


def inside(moved, errors):
    assert (np.abs(moved) <= errors.box).all()
    assert (np.linalg.norm(moved / errors.scale, axis=-1, keepdims=True) <= errors.ball).all()


def normed(x, norm, epsilon):
    centered = x - x.mean(-1, keepdims=True) if norm.centered else x
    y = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * norm.weight
    return y if norm.bias is None else y + norm.bias


@QUICK
@given(SEEDS, SIZES, st.booleans())
def test_norms_of_perturbed_rows_are_enclosed(seed, size, centered):
    g = np.random.default_rng(seed)
    x, weight = g.normal(size=(3, 8)), g.normal(size=8)
    norm = Norm(weight, g.normal(size=8) if centered else None, centered)
    errors = errors_like(x, g, size)
    result = normed(x, norm, 1e-5)
    found = certificates._normed(x, errors, norm, 1e-5, result)
    for _ in range(5):
        inside(normed(x + within(g, errors), norm, 1e-5) - result, found)
    along = _Errors.of(np.full(x.shape, size), size * np.ones((3, 1)))
    found = certificates._normed(x, along, norm, 1e-5, result)
    inside(
        normed(x - size * x / np.linalg.norm(x, axis=1, keepdims=True) * 0.99, norm, 1e-5) - result,
        found,
    )


@QUICK
@given(SEEDS, SIZES)
def test_products_of_perturbed_rows_are_enclosed_and_the_bounds_attained(seed, size):
    g = np.random.default_rng(seed)
    matrix, scale = g.normal(size=(6, 4)), g.uniform(0.5, 2.0, 6)
    box = size * g.uniform(0.1, 1.0, (1, 6))
    errors = _Errors.of(box, None, scale)
    factor, nothing = certificates._Factor.of(matrix, scale), np.zeros((1, 4))
    (found,) = certificates._through(_Errors(box, np.full((1, 1), np.inf), scale), factor, nothing)
    np.testing.assert_allclose(found.box, box @ np.abs(matrix), rtol=1e-9)
    (found,) = certificates._through(errors, factor, nothing)
    for _ in range(5):
        inside(within(g, errors) @ matrix, found)
    left, values, _ = np.linalg.svd(scale[:, None] * matrix)
    ball = _Errors(np.full((1, 6), np.inf), np.full((1, 1), size), scale)
    (found,) = certificates._through(ball, factor, nothing)
    moved = (size * left[:, 0] * scale) @ matrix
    assert np.linalg.norm(moved) <= found.ball[0, 0] * (1 + 1e-12) < 1.2 * size * values[0]


@QUICK
@given(SEEDS, SIZES, st.sampled_from(["gelu_new", "gelu", "silu", "relu"]), st.booleans())
def test_activations_of_perturbed_rows_are_enclosed(seed, size, name, gated):
    g = np.random.default_rng(seed)
    y, factor = g.normal(0, 2, (2, 8)), g.normal(size=(2, 8))
    errors, moved = errors_like(y, g, size), errors_like(y, g, size)
    f = certificates.Entrywise(name).value
    result = f(y) * factor if gated else f(y)
    given_factor = (factor, moved) if gated else None
    found = certificates._activated(y, errors, given_factor, name, result)
    for _ in range(5):
        value = f(y + within(g, errors))
        inside((value * (factor + within(g, moved)) if gated else value) - result, found)


@QUICK
@given(SEEDS, SIZES)
def test_rotated_perturbed_rows_are_enclosed(seed, size):
    g = np.random.default_rng(seed)
    rotary, x = Rotary(6, 30.0), g.normal(size=(5, 6))
    errors = errors_like(x, g, size)
    result = rotary.rotated(x[np.newaxis], 0)[0]
    found = certificates._rotated(result, x, errors, rotary)
    for _ in range(5):
        inside(rotary.rotated((x + within(g, errors))[np.newaxis], 0)[0] - result, found)
    off = g.normal(size=x.shape)  # of a machine that rotates inexactly
    inside(off, certificates._rotated(result + off, x, errors_like(x, g, 0.0), rotary))


def attended(q, k, v):
    scores = np.where(np.tri(len(q)), q @ k.T / np.sqrt(q.shape[1]), -np.inf)
    z = np.exp(scores - scores.max(-1, keepdims=True))
    z /= z.sum(-1, keepdims=True)
    return scores, z, z @ v


def attention_of(rows, errors, off):
    """Bounds for a head whose steps are off by this much, and what they leave."""
    model = small("gpt2", 0).with_hardware("fp64")
    scores, _, _ = attended(**rows)
    scores = scores + off["scores"]
    z = np.exp(scores - scores.max(-1, keepdims=True))
    z = z / z.sum(-1, keepdims=True) + np.tri(5) * off["probabilities"]
    output = z @ rows["v"] + off["output"]
    run = Run(model, model._weights, "measured")
    run.results[0, "scores"] = np.where(np.isfinite(scores), scores, 0.0)[np.newaxis]
    run.results[0, "probabilities"] = z[np.newaxis]
    of_scores = _Scores(run, 0, 0, (rows["q"], errors["q"]), (rows["k"], errors["k"]))
    return output, of_scores.attended(rows["v"], errors["v"], output, model.hardware.values)


@QUICK
@given(SEEDS, st.sampled_from([1e-9, 1e-4, 1e-2, 0.3]), st.sampled_from("qkv*"))
def test_attention_of_perturbed_rows_is_enclosed(seed, size, which):
    g = np.random.default_rng(seed)
    rows = {name: g.normal(0, 1.5, (5, 4)) for name in "qkv"}
    errors = {
        name: errors_like(x, g, size if which in (name, "*") else 0.0) for name, x in rows.items()
    }
    output, found = attention_of(rows, errors, dict.fromkeys(STEPS_OF_A_HEAD, 0.0))
    for _ in range(10):
        changed = {
            name: x + within(g, errors[name]) if errors[name].box.any() else x
            for name, x in rows.items()
        }
        inside(attended(**changed)[2] - output, found)


STEPS_OF_A_HEAD = ("scores", "probabilities", "output")


@QUICK
@given(SEEDS, st.sampled_from([1e-4, 0.3]), st.sampled_from(STEPS_OF_A_HEAD))
def test_what_the_steps_of_attention_are_off_by_is_enclosed(seed, size, which):
    g = np.random.default_rng(seed)
    rows = {name: g.normal(0, 1.5, (5, 4)) for name in "qkv"}
    shapes = {"output": (5, 4)}
    off = {
        name: size * g.normal(size=shapes.get(name, (5, 5))) if name == which else np.zeros(())
        for name in STEPS_OF_A_HEAD
    }
    exact_rows = {name: errors_like(x, g, 0.0) for name, x in rows.items()}
    output, found = attention_of(rows, exact_rows, off)
    inside(attended(**rows)[2] - output, found)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from([1e-7, 1e-4, 1e-2]), st.booleans())
def test_the_jacobian_of_a_feed_forward_layer_bounds_what_becomes_of_perturbations(
    seed, size, centered
):
    g = np.random.default_rng(seed)
    model = small("gpt2", seed % 5)
    double = model.with_hardware("fp64")
    block = double._weights.blocks[0]
    if not centered:
        block = replace(block, norm_2=replace(block.norm_2, bias=None, centered=False))
    f = certificates.Entrywise("gelu_new").value

    def layer(x):
        h = normed(x, block.norm_2, model.shape.epsilon)
        inner = f(h @ block.mlp_up.weight + block.mlp_up.bias)
        return x + inner @ block.mlp_down.weight

    x = g.normal(size=(3, 8))
    feed = linearization._FeedForward(x, block, model.shape)
    found = (feed.norms * size + feed.second_order(np.full((3, 1), size)))[:, 0]
    largest = np.zeros(3)
    for _ in range(3):
        d = g.normal(size=x.shape)
        d *= size / np.linalg.norm(d, axis=1, keepdims=True)
        for _ in range(2):  # towards the direction that grows most
            moved = np.linalg.norm(layer(x + d) - layer(x), axis=1)
            largest = np.maximum(largest, moved)
            gradient = np.array(
                [
                    [
                        np.sum(
                            (layer(x[i : i + 1] + 1e-6 * e) - layer(x[i : i + 1]))
                            * (layer(x[i : i + 1] + d[i]) - layer(x[i : i + 1]))
                        )
                        for e in np.eye(8)
                    ]
                    for i in range(3)
                ]
            )
            d = size * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    assert (largest <= found * (1 + 1e-9) + 1e-14).all()
    if size == 1e-7:
        assert (largest > 0.6 * found).all()


@pytest.mark.parametrize(("offset", "along"), [(20.0, True), (-0.7517916, False)])
def test_what_is_of_second_order_is_in_the_bound_of_a_feed_forward_layer(offset, along):
    """Where the Jacobian sees nothing: along a normalized row, and at the minimum of gelu."""
    g = np.random.default_rng(0)
    model = small("gpt2", 0)
    double = model.with_hardware("fp64")
    x = g.normal(size=(1, 8))
    u = x / np.sqrt((x**2).mean() + model.shape.epsilon)
    across = g.normal(size=8)
    across -= (across @ u[0]) / (u[0] @ u[0]) * u[0]
    up, down = np.zeros((8, 16)), np.zeros((16, 8))
    size = 1e-4 if along else 1.0  # too small for what the activation does of second order
    up[:, 0], down[0] = size * (u[0] if along else across), 100.0 / size
    bias = np.full(16, offset) - (u @ up)[0]
    block = replace(
        double._weights.blocks[0],
        norm_2=Norm(np.ones(8), None, False),
        mlp_up=Matrix(up, bias, fpemu.formats.float64),
        mlp_down=Matrix(down, None, fpemu.formats.float64),
    )
    f = certificates.Entrywise("gelu_new").value

    def layer(row):
        return row + f(normed(row, block.norm_2, model.shape.epsilon) @ up + bias) @ down

    d = 0.05 * across[np.newaxis] / np.linalg.norm(across)
    ball = np.full((1, 1), 0.05)
    feed = linearization._FeedForward(x, block, model.shape)
    found = feed.norms * ball + feed.second_order(ball)
    moved = np.linalg.norm(layer(x + d) - layer(x))
    assert 0.3 < moved <= found[0, 0]


@QUICK
@given(SEEDS, st.integers(1, 12), st.integers(1, 12), st.integers(-300, 300))
def test_the_bound_of_a_spectral_norm(seed, rows, columns, exponent):
    matrix = np.random.default_rng(seed).normal(size=(rows, columns))
    expected = np.linalg.norm(matrix, 2)
    found = linearization.norm_of(matrix * 2.0**exponent) / 2.0**exponent
    assert expected * (1 - 1e-14) <= found <= 1.1 * expected


# --- whole layers ---------------------------------------------------------------------------------


def layer_of(model, x):
    """A layer of a decoder in float64: the stream between its two halves, and behind it."""
    seen = {}

    def observe(name, layer, numbers):
        seen[name] = numbers.copy()

    double = model.with_hardware("fp64")
    state = State(double.shape, double.hardware, LookAhead(), observer=observe)
    state.enter(0)
    weights = double._weights
    return run_block(x, weights.blocks[0], weights.norm_after(0), state), seen["attention_output"]


def linearized(model, x, ball):
    """Bounds behind the layer of errors within balls."""
    block, nothing = model.with_hardware("fp64")._weights.blocks[0], np.zeros((len(x), 1))
    unknown = np.full((len(x), 1), np.inf)
    middle = layer_of(model, x)[1]
    return carried((x, middle), ball, (nothing, nothing), unknown, block, model.shape)[:, 0]


@pytest.mark.parametrize("size", [1e-6, 1e-2, 0.1, 0.2])
@pytest.mark.parametrize("family", FAMILIES)
def test_errors_within_balls_move_a_layer_less_than_its_linearization_says(family, size):
    model, g = small(family, seed=5, scale=2.0), np.random.default_rng(6)
    x = g.normal(size=(4, 8))
    base = layer_of(model, x)[0]
    ball = size * g.uniform(0.2, 1.0, (4, 1))
    found = linearized(model, x, ball)
    assert np.isfinite(found).any()
    for _ in range(20):
        d = g.normal(size=x.shape)
        d *= ball / np.linalg.norm(d, axis=1, keepdims=True)
        moved = np.linalg.norm(layer_of(model, x + d)[0] - base, axis=1)
        assert (moved <= found + 1e-12).all()


@pytest.mark.parametrize("size", [1e-6, 0.1])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_of_one_token_attains_what_the_linearization_says_of_it(family, size):
    """Along the singular vector of the block of the Jacobian, which is found by differences."""
    model, g = small(family, seed=5, scale=2.0), np.random.default_rng(7)
    x, step = g.normal(size=(4, 8)), 1e-5
    base = layer_of(model, x)[0]
    for source in range(4):
        moved = []
        for unit in np.eye(8):
            both = [x.copy(), x.copy()]
            both[0][source] += step * unit
            both[1][source] -= step * unit
            moved.append((layer_of(model, both[0])[0] - layer_of(model, both[1])[0]) / (2 * step))
        ball = np.zeros((4, 1))
        ball[source] = size
        found = linearized(model, x, ball)
        assert (found[:source] < 1e-12).all()
        for target in range(source, 4):
            left, largest, _ = np.linalg.svd(np.array(moved)[:, target])
            assert size * largest[0] <= found[target] * (1 + 1e-6)
            for sign in (1.0, -1.0):
                d = np.zeros_like(x)
                d[source] = sign * size * left[:, 0]
                length = np.linalg.norm((layer_of(model, x + d)[0] - base)[target])
                assert length <= found[target] + 1e-12
            if size < 1e-3:
                assert found[target] <= 1.2 * size * largest[0] + 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_what_halves_of_a_layer_add_is_carried_on(family):
    model, g = small(family, seed=7), np.random.default_rng(8)
    x = g.normal(size=(4, 8))
    _, middle = layer_of(model, x)
    block, nothing = model.with_hardware("fp64")._weights.blocks[0], np.zeros((4, 1))
    d = g.normal(size=(4, 8)) * 1e-4
    own = np.linalg.norm(d, axis=1, keepdims=True)
    feed = linearization._FeedForward(middle, block, model.shape)
    moved = d[:, np.newaxis] @ feed.matrices
    moved = np.linalg.norm(moved[:, 0], axis=1, keepdims=True)
    unknown = np.full((4, 1), np.inf)
    found = carried((x, middle), nothing, (own, 3.0 * own), unknown, block, model.shape)
    assert (moved + 3.0 * own <= found * (1 + 1e-6)).all()
    assert (found <= (feed.norms * own + 3.0 * own) * 1.01).all()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_spectral_norms_are_bounded_within_what_the_squarings_allow(shape):
    g = np.random.default_rng(9)
    matrices = g.normal(size=(20, *shape)) * 10.0 ** g.integers(-200, 200, (20, 1, 1))
    matrices[0] = 0.0
    exact = np.linalg.svd(matrices, compute_uv=False)[:, 0]
    for squarings in (1, 3, 4):
        found = linearization.norms_of(matrices, squarings)
        assert (exact <= found).all()
        assert (found <= exact * min(shape) ** (0.5 / 2**squarings) * (1 + 1e-9)).all()


def test_a_run_in_float64_refutes_what_a_machine_gets_wrong():
    model = small("gpt2", seed=3, scale=3.0)
    right = model.with_hardware("fp64").logits(TOKENS).argmax(-1)
    coarse = hardware("ps1")
    tiled = replace(coarse, attention=Tiled(rows=2, columns=2, parts=1))
    flips = 0
    for machine in (coarse, tiled):
        found = certify(model, TOKENS, machine, kind="reference")
        flipped = found.predicted != right
        flips += flipped.sum()
        np.testing.assert_array_equal(found.proved, ~flipped)
        np.testing.assert_array_equal(found.margin < -found.bound, flipped)
    assert flips
