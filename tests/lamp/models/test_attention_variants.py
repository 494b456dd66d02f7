"""Attention with masks, scales, soft-capping, biases and sinks against plain versions."""

from dataclasses import replace

import numpy as np
import pytest

import fpemu
import lamp
from fpemu import Sequential
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


SR = fpemu.Rounding("sr", seed=1)
PRODUCTS = {  # with random bits, which go by places, and with scales
    "sr operands": lamp.Product("e8m7", operands="e8m2", rounding=SR),
    "sr sums": lamp.Product(Sequential("e8m3", SR)),
    "blocks": lamp.hardware("blackwell-nvfp4").qkv,
    "rows": lamp.Product("float32", operands="float8_e4m3fn", scaling="row"),
    "tensor": lamp.Product("float32", operands="float8_e4m3fn", scaling="tensor"),
}
SHARED = {
    **{name: lamp.hardware(name) for name in ("fp32", "ps4", "bf16", "hopper-fp8", "mxfp8")},
    **{name: lamp.Hardware("test", scores=product) for name, product in PRODUCTS.items()},
    "sr values": lamp.Hardware("test", values=PRODUCTS["sr operands"]),
    "tensor values": lamp.Hardware("test", values=PRODUCTS["tensor"]),
}


@pytest.mark.parametrize("variant", ["plain", "everything"])
@pytest.mark.parametrize("mask", [None, "window", "holes"])
@pytest.mark.parametrize("machine", SHARED)
def test_heads_that_share_keys_are_as_if_each_had_its_own(machine, mask, variant):
    hardware = SHARED[machine]
    shape = Variant(None if mask is None else MASKS[mask], **VARIANTS[variant])
    seen = {}
    outputs = []
    for shared in (True, False):
        key, value = (x if shared else x.repeat(2, 0) for x in (KEY, VALUE))
        for rows in (ROWS, 1):
            cut = shape
            if rows == 1:
                given = {"mask": shape.mask, "bias": shape.bias}
                last = {k: None if v is None else v[..., -1:, :] for k, v in given.items()}
                cut = replace(shape, **last)
            options = {"hardware": hardware, "variant": cut}
            found = attention(QUERY[:, -rows:], key, value, **options)
            outputs.append(found.output)
            shown = seen.setdefault((shared, rows), {})
            again = attention(QUERY[:, -rows:], key, value, observe=shown.__setitem__, **options)
            np.testing.assert_array_equal(again.output, found.output)
    np.testing.assert_array_equal(outputs[0], outputs[2])
    np.testing.assert_array_equal(outputs[1], outputs[3])
    for rows in (ROWS, 1):
        for name, numbers_ in seen[False, rows].items():
            np.testing.assert_array_equal(seen[True, rows][name], numbers_, err_msg=name)
    # Each head attends by its own queries.
    assert not np.array_equal(outputs[0][0], outputs[0][1])


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
