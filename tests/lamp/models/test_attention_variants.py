"""Attention with masks, scales, soft-capping, biases and sinks against plain versions."""

import numpy as np
import pytest

import lamp
from lamp import LAMP
from lamp.models.attention import Variant, attention

HEADS, ROWS, KEYS, D, WIDTH = 4, 9, 40, 16, 8
RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


QUERY, KEY, VALUE = numbers(HEADS, ROWS, D), numbers(2, KEYS, D), numbers(2, KEYS, WIDTH)
MASKS = {
    "all": np.ones((ROWS, KEYS), bool),
    "window": np.tri(ROWS, KEYS, 27, dtype=bool) & ~np.tri(ROWS, KEYS, 0, dtype=bool),
    "leading": np.arange(KEYS) < RNG.integers(1, KEYS, ROWS)[:, np.newaxis],
    "holes": RNG.random((ROWS, KEYS)) < 0.5,
}
MASKS["holes"][:, 3] = True  # every row sees a key
VARIANTS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "cap": {"cap": 0.7},
    "bias": {"bias": numbers(HEADS, ROWS, KEYS)},
    "sinks": {"sinks": numbers(HEADS)},
    "everything": {
        "scale": 0.3,
        "cap": 0.7,
        "bias": numbers(HEADS, ROWS, KEYS),
        "sinks": numbers(HEADS),
    },
}


def wide(variant):
    return {k: np.asarray(v, np.float64) if np.ndim(v) else v for k, v in variant.items()}


def plain(mask, scale=None, cap=None, bias=None, sinks=None):
    """The definition in float64."""
    q, k, v = (x.astype(np.float64) for x in (QUERY, KEY.repeat(2, 0), VALUE.repeat(2, 0)))
    y = q @ k.transpose(0, 2, 1) * (1 / np.sqrt(D) if scale is None else scale)
    y = y if cap is None else cap * np.tanh(y / cap)
    y = y if bias is None else y + bias
    e = np.exp(np.where(mask, y, -np.inf))
    total = e.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(np.asarray(sinks, np.float64))[:, np.newaxis, np.newaxis]
    return e / total @ v


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mask", MASKS)
def test_the_definition_in_float64(mask, variant):
    given = [x.astype(np.float64) for x in (QUERY, KEY, VALUE)]
    shape = Variant(MASKS[mask], **wide(VARIANTS[variant]))
    found = attention(*given, hardware=lamp.hardware("fp64"), variant=shape)
    np.testing.assert_allclose(found.output, plain(MASKS[mask], **VARIANTS[variant]), atol=1e-13)
    assert found.output.shape == (HEADS, ROWS, WIDTH)


def part(variant, row, keys):
    """A variant for one row and some keys."""
    bias = variant.get("bias")
    cut = {} if bias is None else {"bias": bias[:, row : row + 1, keys]}
    return {**variant, **cut}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("machine", ["hopper", "cdna3", "ps4"])
@pytest.mark.parametrize(
    "rule",
    [
        None,
        LAMP("strict", tau=0.03),
        LAMP("value_aware", tau=0.06),
        LAMP("kl", tau=0.004, weights="abs"),
    ],
    ids=str,
)
def test_a_row_is_as_if_it_were_alone_with_the_range_of_its_keys(machine, rule, variant):
    mask = MASKS["window"]
    options = {"hardware": lamp.hardware(machine), "lamp": rule}
    found = attention(QUERY, KEY, VALUE, variant=Variant(mask, **VARIANTS[variant]), **options)
    selected = 0
    for row in range(ROWS):
        keys = np.flatnonzero(mask[row])
        alone = attention(
            QUERY[:, row : row + 1],
            np.ascontiguousarray(KEY[:, keys]),
            np.ascontiguousarray(VALUE[:, keys]),
            variant=Variant(None, **part(VARIANTS[variant], row, keys)),
            **options,
        )
        np.testing.assert_array_equal(found.output[:, row], alone.output[:, 0])
        selected += alone.recomputation.selected
    assert found.recomputation.selected == selected
    assert found.recomputation.components == HEADS * mask.sum()
    assert rule is None or variant != "plain" or 0 < selected < HEADS * mask.sum()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("unseen", [0.0, np.finfo(np.float32).min, -np.inf])
def test_the_bias_of_an_unseen_key_means_nothing(mask, unseen):
    given = np.where(MASKS[mask], VARIANTS["bias"]["bias"], np.float32(unseen))
    found = [
        attention(
            QUERY,
            KEY,
            VALUE,
            hardware=lamp.hardware("scores-ps4"),
            lamp=LAMP("strict", tau=0.03),
            variant=Variant(MASKS[mask], bias=bias),
        )
        for bias in (VARIANTS["bias"]["bias"], given)
    ]
    np.testing.assert_array_equal(found[0].output, found[1].output)
    assert found[0].recomputation == found[1].recomputation


def test_recomputed_scores_are_capped_and_biased_in_high_precision():
    variant = Variant(MASKS["holes"], **VARIANTS["everything"])
    low, high = (
        attention(QUERY, KEY, VALUE, hardware=lamp.hardware(name), variant=variant)
        for name in ("scores-ps4", "fp32")
    )
    rule = LAMP("total_variation", budget=1.0)
    all_ = attention(
        QUERY, KEY, VALUE, hardware=lamp.hardware("scores-ps4"), lamp=rule, variant=variant
    )
    np.testing.assert_array_equal(all_.output, high.output)
    assert (low.output != high.output).any()


def test_soft_capping_makes_errors_of_large_scores_small():
    # Both scores have the same z (1 - z).  The first is larger, but its errors are capped away.
    key = np.array([[[40.0, 0.0], [1.0, 0.0]]], np.float32)
    query = np.array([[[1.0, 0.0]]], np.float32)
    for cap, expected in ((None, [True, False]), (2.0, [False, True])):
        seen = {}
        attention(
            query,
            key,
            key,
            hardware=lamp.hardware("scores-ps4"),
            lamp=LAMP("total_variation", budget=0.5, weights="products"),
            variant=Variant(np.ones((1, 2), bool), scale=0.3, cap=cap),
            observe=lambda name, x, seen=seen: seen.update({name: x.copy()}),
        )
        assert seen["mask"][0, 0].tolist() == expected


def test_observers_see_zeros_at_keys_that_a_row_does_not_see():
    seen = {}
    attention(
        QUERY,
        KEY,
        VALUE,
        hardware=lamp.hardware("scores-ps4"),
        lamp=LAMP("kl", tau=0.03, weights="running_2"),
        variant=Variant(MASKS["holes"]),
        observe=lambda name, x: seen.update({name: x.copy()}),
    )
    np.testing.assert_array_equal(seen.pop("seen"), MASKS["holes"])
    assert list(seen) == [
        "low_scores", "high_scores", "error_weights", "mask", "scores", "probabilities",
    ]  # fmt: skip
    for numbers in seen.values():
        assert numbers.shape == (HEADS, ROWS, KEYS)
        assert not numbers[:, ~MASKS["holes"]].any()
    np.testing.assert_allclose(seen["probabilities"].sum(-1), 1.0, rtol=1e-6)


def test_tiles_take_causal_masks_alone():
    machine = lamp.Hardware("tiles", attention=lamp.Tiled())
    with pytest.raises(ValueError, match="attention by tiles is causal"):
        attention(QUERY, KEY, VALUE, hardware=machine, variant=Variant(MASKS["window"]))
