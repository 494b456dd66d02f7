"""A model whose products run on an accumulator of the user's own."""

import numpy as np

import fpemu
import lamp
from lamp import bounds
from tests.fpemu.test_own_accumulators import Bounded, Compiled
from tests.oracle.bits import assert_same_bits


def test_a_model_computes_what_it_does_on_the_same_sums_of_ours():
    model = lamp.from_pretrained("embedded")
    tokens = model.encode("Where precision matters.")
    own = lamp.Hardware("own", scores=Compiled(), qkv=Compiled(), values=Bounded())
    ours = lamp.Hardware("ours", scores="bfloat16", qkv="bfloat16", values="bfloat16")
    expected = model.with_hardware(ours).logits(tokens)
    assert_same_bits(model.with_hardware(own).logits(tokens), expected)
    assert own.is_causal
    assert not lamp.Hardware("own", values=Compiled()).is_causal


def test_products_are_bounded_by_what_it_states():
    a, b = np.random.default_rng(0).normal(size=(2, 5, 5))
    found = bounds.products(a, b, Bounded())
    expected = bounds.products(a, b, fpemu.Sequential("bfloat16"))
    assert_same_bits(found.computed, expected.computed)
    assert_same_bits(found.errors, expected.errors)
