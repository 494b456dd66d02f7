"""A model whose products run on an accumulator of the user's own."""

import numpy as np

import fpemu
import lamp
from lamp import bounds
from tests.fpemu.test_own_accumulators import Bounded, Compiled
from tests.lamp.tiny_models import FAMILIES, TOKENS
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


class Lying(Compiled):
    """One that states to be exact."""

    def error_bound(self, terms, *, initial=False):
        return 0.0

    def underflow_bound(self, terms, *, initial=False, largest=None):
        return 0.0


def test_what_it_states_proves_no_token():
    model = FAMILIES["gpt2"].model("fp64")

    def bound(accumulator):
        machine = lamp.Hardware("own", lm_head=accumulator)
        return lamp.certify(model, TOKENS, machine, kind="deterministic").bound

    assert_same_bits(bound(Lying()), bound(Bounded()))
