"""Weights of transformers' models: one copy of them, whatever the machines."""

import tracemalloc

import numpy as np
import pytest
import torch
import transformers

import fpemu
import lamp
from lamp.integrations.transformers import load
from lamp.integrations.transformers.weights import Shared
from lamp.models import packed
from tests.lamp.integrations.random_families import TOKENS, random_model

TEXT = np.random.default_rng(2).integers(3, 61, TOKENS)
MANY = np.random.default_rng(3).integers(0, 64, 64)


def wide_model():
    """A model that is mostly weights of linear layers."""
    config = transformers.Qwen2Config(
        vocab_size=64,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return transformers.Qwen2ForCausalLM(config)


def places(model, kinds=(torch.nn.Linear, torch.nn.Embedding)):
    return [m.weight.data_ptr() for m in model.modules() if isinstance(m, kinds)]


def test_large_weights_are_those_of_the_loaded_model_on_every_machine():
    model = random_model("mixtral")
    experts = [p.data_ptr() for p in model.parameters() if p.ndim == 3]
    bf16 = lamp.simulate(model, "bf16")
    for simulated in (bf16, bf16.with_hardware("fp64"), bf16.with_hardware("hopper-fp8")):
        simulated.forward(TEXT)
        assert places(simulated.model) == places(model)
        assert [p.data_ptr() for p in simulated.model.parameters() if p.ndim == 3] == experts


@pytest.mark.parametrize("machine", ["fp64", "bf16"])
def test_a_pass_of_many_tokens_keeps_no_copy_of_them(machine):
    simulated = lamp.simulate(wide_model(), machine)
    size = 4 * sum(p.numel() for p in simulated.model.parameters())
    simulated.forward(MANY)  # compiles, and fills caches of its own
    tracemalloc.start()
    try:
        simulated.with_hardware(machine).forward(MANY)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < size / 10
    assert peak < size / 2  # that of the largest matrices, for a while


@pytest.mark.parametrize(("machine", "share"), [("bf16", 0.6), ("fp8-e4m3", 0.35)])
def test_what_is_kept_for_few_tokens_has_the_width_of_its_format(machine, share, monkeypatch):
    model = wide_model()
    size = 4 * sum(p.numel() for p in model.parameters())
    expected = lamp.simulate(model, machine).logits(TEXT[:4])
    monkeypatch.setattr(packed, "_LEAST", 0)
    lamp.simulate(model, machine).logits(TEXT[:4])  # compiles
    simulated = lamp.simulate(model, machine)
    tracemalloc.start()
    try:
        found = simulated.logits(TEXT[:4])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(simulated.logits(TEXT[:4]), expected)
    assert share / 3 < kept / size < share


@pytest.mark.parametrize("machine", ["fp32", "fp64", "bf16", "blackwell-nvfp4"])
def test_weights_in_bfloat16_are_those_numbers(machine):
    narrow = random_model("qwen2").to(torch.bfloat16)
    wide = random_model("qwen2").to(torch.bfloat16).float()
    found, expected = (lamp.simulate(each, machine) for each in (narrow, wide))
    np.testing.assert_array_equal(found.logits(TEXT), expected.logits(TEXT))
    np.testing.assert_array_equal(found.generate(TEXT[:5], 3), expected.generate(TEXT[:5], 3))


@pytest.mark.parametrize("machine", ["bf16", "fp64"])
def test_weights_in_float64_are_rounded_once(machine):
    exact = random_model("qwen2").double()
    for parameter in exact.parameters():
        parameter.data += 2.0**-40
    found = lamp.simulate(exact, machine).logits(TEXT)
    rounded = lamp.simulate(exact.float(), machine).logits(TEXT)
    assert (found == rounded).all() == (machine == "bf16")


@pytest.mark.parametrize(
    ("stored", "held"),
    [("bfloat16", torch.float32), ("float16", torch.float32), ("float64", torch.float64)],
)
def test_checkpoints_are_loaded_in_a_type_that_holds_their_numbers(tmp_path, stored, held):
    type_ = getattr(torch, stored)
    random_model("qwen2").to(type_).save_pretrained(tmp_path)
    simulated = load(tmp_path, "fp64", None)
    assert simulated.model.lm_head.weight.dtype == held
    model = random_model("qwen2").to(held)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(type_).to(held)
    expected = lamp.simulate(model, "fp64").logits(TEXT)
    np.testing.assert_array_equal(simulated.logits(TEXT), expected)


def test_weights_that_are_yet_to_be_rounded_are_read_by_their_modules_alone():
    class Odd(transformers.Qwen2ForCausalLM):
        def forward(self, input_ids, attention_mask=None, **kwargs):
            found = super().forward(input_ids, attention_mask=attention_mask, **kwargs)
            found.logits = found.logits + self.lm_head.weight[None, None, :, 0]
            return found

    model = random_model("qwen2")
    model.__class__ = Odd
    with pytest.raises(NotImplementedError, match="reads weights of a linear layer"):
        lamp.simulate(model, "bf16").forward(TEXT)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(value):
    model = random_model("qwen2")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = value
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight holds"):
        lamp.simulate(model)


@pytest.mark.parametrize("width", [1, 3, 8, 16])
def test_columns_are_those_of_layers_side_by_side(width):
    weights = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (8, 3, 5)]
    joined = np.concatenate([fpemu.round(weight.numpy(), "bfloat16") for weight in weights]).T
    shared = Shared(weights, None, fpemu.formats.bfloat16, np.dtype(np.float32))
    for first in range(0, 16, width):
        part = slice(first, min(first + width, 16))
        np.testing.assert_array_equal(shared.columns(part), joined[:, part])
    np.testing.assert_array_equal(shared.weight, joined)
