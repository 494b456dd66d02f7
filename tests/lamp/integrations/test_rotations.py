"""Queries and keys rotated in one piece: the bits of transformers' own operations on a machine."""

import numpy as np
import pytest
import torch
from transformers.models.qwen3 import modeling_qwen3

import lamp
from fpemu import Rounding
from lamp.integrations.transformers import rotations
from lamp.integrations.transformers.kinds import RotaryKind
from tests.lamp.integrations.random_families import random_model

TEXTS = torch.tensor(np.random.default_rng(1).integers(3, 61, (2, 9)))
MACHINES = {
    "bfloat16": lamp.Hardware("m", qkv=lamp.Product("float32", output="bfloat16")),
    "float64": lamp.hardware("fp64"),
    "random bits": lamp.Hardware(
        "m", qkv=lamp.Product("float32", output="bfloat16", rounding=Rounding("sr", seed=3))
    ),
}
# Gemma 3 has windows and global layers, GPT-NeoX and Phi-3 rotate a part of each head.
KNOWN = {
    "mistral": {},
    "qwen3": {},
    "gemma3": {},
    "gpt_neox": {"rotary_pct": 0.5},
    "phi3": {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    "falcon": {},
}
# They rotate pairs side by side, and by tables of half the width.
UNKNOWN = ("gptj", "gpt_oss")


@pytest.fixture
def counted(monkeypatch):
    """How often queries and keys were rotated in one piece."""
    shapes, own = [], rotations._rotated

    def rotated(given, axis, run):
        shapes.append(given[2].shape)
        return own(given, axis, run)

    monkeypatch.setattr(rotations, "_rotated", rotated)
    return shapes


def operation_by_operation(monkeypatch, simulated, machine):
    with monkeypatch.context() as patched:
        patched.setattr(rotations, "in_one_piece", lambda forward, run: forward)
        return simulated.with_hardware(machine)


@pytest.mark.parametrize("name", [*KNOWN, *UNKNOWN])
def test_the_bits_are_those_of_operation_by_operation(name, monkeypatch, counted):
    simulated = lamp.simulate(random_model(name, **KNOWN.get(name, {})))
    for machine in MACHINES.values():
        expected = operation_by_operation(monkeypatch, simulated, machine).model(TEXTS).logits
        assert not counted
        found = simulated.with_hardware(machine).model(TEXTS).logits
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
        assert len(counted) == (0 if name in UNKNOWN else simulated.shape.layers)
        if name in ("gpt_neox", "phi3"):
            assert counted[0][-1] == simulated.shape.dimension // 2
        counted.clear()


def test_tables_in_float32_are_taken_as_they_are(monkeypatch, counted):
    own = RotaryKind.tables

    def narrow(*given):
        return tuple(table.astype(np.float32) for table in own(*given))

    simulated = lamp.simulate(random_model("qwen3"), "fp32")
    wide = simulated.model(TEXTS).logits
    monkeypatch.setattr(RotaryKind, "tables", narrow)
    found = simulated.with_hardware("fp32").model(TEXTS).logits
    assert len(counted) == 2 * simulated.shape.layers
    expected = operation_by_operation(monkeypatch, simulated, "fp32").model(TEXTS).logits
    assert torch.equal(found, expected)
    assert not torch.equal(found, wide)


def in_pairs(q, k, cos, sin, unsqueeze_dim=1):
    """Component 2 i is rotated with component 2 i + 1."""

    def rotated(x):
        crossed = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return x * cos.unsqueeze(unsqueeze_dim) + crossed * sin.unsqueeze(unsqueeze_dim)

    return rotated(q), rotated(k)


def scaled(q, k, cos, sin, unsqueeze_dim=1):
    rotated, keys = OWN(q, k, cos, sin, unsqueeze_dim)
    return rotated * (1 + 2**-40), keys


def swapped(q, k, cos, sin, unsqueeze_dim=1):
    return OWN(q, k, cos, -sin, unsqueeze_dim)


OWN = modeling_qwen3.apply_rotary_pos_emb


@pytest.mark.parametrize("other", [in_pairs, scaled, swapped])
def test_another_function_runs_as_it_is(other, monkeypatch, counted):
    plain = lamp.simulate(random_model("qwen3"), "fp64").model(TEXTS).logits
    assert counted
    counted.clear()
    monkeypatch.setattr(modeling_qwen3, "apply_rotary_pos_emb", other)
    simulated = lamp.simulate(random_model("qwen3"), "fp64")
    simulated.model(TEXTS[:, :1])  # at position 0, where all of them give the same
    found = simulated.model(TEXTS).logits
    assert not counted
    expected = operation_by_operation(monkeypatch, simulated, "fp64").model(TEXTS).logits
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


def test_other_models_rotate_as_before():
    model = random_model("qwen3")
    before = model(TEXTS).logits
    lamp.simulate(model, "bf16").model(TEXTS)
    assert modeling_qwen3.apply_rotary_pos_emb is OWN
    assert torch.equal(model(TEXTS).logits, before)


def test_kept_keys_stay_where_they_are():
    simulated = lamp.simulate(random_model("qwen3"), "bf16")
    cache = simulated._new_cache(12)
    simulated._forward(np.arange(3, 8), cache)
    places = [layer.keys.data_ptr() for layer in cache.past.layers]
    first = [layer.keys.clone() for layer in cache.past.layers]
    found = simulated._forward(np.arange(8, 11), cache).logits
    assert [layer.keys.data_ptr() for layer in cache.past.layers] == places
    for layer, keys in zip(cache.past.layers, first, strict=True):
        assert layer.keys.shape[2] == layer.values.shape[2] == 8
        assert torch.equal(layer.keys[:, :, :5], keys)
    np.testing.assert_array_equal(found, simulated.logits(np.arange(3, 11))[5:])
