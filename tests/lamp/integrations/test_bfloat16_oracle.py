"""Qwen3 and Gemma 3 on the bf16 machine, bit for bit as a plain version in numpy has them."""

import numpy as np
import pytest
import torch

import lamp
from tests.lamp.integrations.random_families import FAMILIES, random_model

TOKENS = np.random.default_rng(2).integers(3, 61, 9)


def bf16(x):
    """To nearest bfloat16, ties to even, of numbers that are neither tiny nor huge."""
    significand, exponent = np.frexp(np.asarray(x, np.float64))
    return np.ldexp(np.rint(np.ldexp(significand, 8)), exponent - 8)


def product(a, b):
    """Sums in float32, term after term; a float64 sum of two float32 numbers rounds the same."""
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
    for term in range(a.shape[-1]):
        exact = a[..., term, np.newaxis] * b[..., np.newaxis, term, :]
        total = (total + exact).astype(np.float32)
    return total.astype(np.float64)


def rms(x, weight, epsilon):
    mean = np.mean(x * x, axis=-1, keepdims=True)
    return bf16(x / np.sqrt(mean + epsilon) * weight)


def rotated(x, theta):
    d = x.shape[-1]
    angles = np.arange(x.shape[-2])[:, np.newaxis] * theta ** (-np.arange(0, d, 2) / d)
    c, s = np.cos(angles), np.sin(angles)
    left, right = np.split(x, 2, axis=-1)
    return bf16(np.concatenate([left * c - right * s, right * c + left * s], -1))


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


class Plain:
    """The steps of a decoder layer, from the weights of a checkpoint in bfloat16."""

    def __init__(self, model):
        self.config = model.config
        self.weights = {
            name: bf16(p.detach().double().numpy()) for name, p in model.named_parameters()
        }
        self.is_gemma = model.config.model_type.startswith("gemma3")

    def norm(self, x, name):
        weight = self.weights[f"model.{name}.weight"]
        return rms(x, 1 + weight if self.is_gemma else weight, self.config.rms_norm_eps)

    def linear(self, x, name):
        return bf16(product(x, self.weights[f"model.{name}.weight"].T))

    def attention(self, h, layer):
        config, at = self.config, f"layers.{layer}.self_attn"
        d, heads = config.head_dim, config.num_attention_heads
        window, theta = None, None
        if self.is_gemma:
            kind = config.layer_types[layer]
            window = config.sliding_window if kind == "sliding_attention" else None
            theta = config.rope_parameters[kind]["rope_theta"]
        else:
            theta = config.rope_parameters["rope_theta"]
        q, k, v = (
            self.linear(h, f"{at}.{name}_proj").reshape(len(h), -1, d).transpose(1, 0, 2)
            for name in "qkv"
        )
        q = rotated(self.norm(q, f"{at}.q_norm"), theta)
        k = rotated(self.norm(k, f"{at}.k_norm"), theta)
        shared = heads // len(k)
        rows = np.empty((len(h), heads, d))
        for head in range(heads):
            for i in range(len(h)):
                first = 0 if window is None else max(0, i + 1 - window)
                keys = slice(first, i + 1)
                sums = product(q[head, i : i + 1], k[head // shared, keys].T)
                if self.is_gemma:
                    y = bf16(sums * config.query_pre_attn_scalar**-0.5)
                else:
                    y = bf16(sums / np.sqrt(d))
                e = np.exp(y - y.max())
                rows[i, head] = bf16(product(bf16(e / e.sum()), v[head // shared, keys]))[0]
        return self.linear(rows.reshape(len(h), -1), f"{at}.o_proj")

    def feed_forward(self, h, layer):
        at = f"layers.{layer}.mlp"
        act = gelu_tanh if self.is_gemma else silu
        gate = bf16(act(self.linear(h, f"{at}.gate_proj")))
        return self.linear(bf16(gate * self.linear(h, f"{at}.up_proj")), f"{at}.down_proj")

    def logits(self, tokens):
        x = self.weights["model.embed_tokens.weight"][tokens]
        if self.is_gemma:
            x = bf16(x * np.float32(self.config.hidden_size**0.5))
        for layer in range(self.config.num_hidden_layers):
            at = f"layers.{layer}"
            h = self.attention(self.norm(x, f"{at}.input_layernorm"), layer)
            if self.is_gemma:
                x = bf16(x + self.norm(h, f"{at}.post_attention_layernorm"))
                h = self.feed_forward(self.norm(x, f"{at}.pre_feedforward_layernorm"), layer)
                x = bf16(x + self.norm(h, f"{at}.post_feedforward_layernorm"))
            else:
                x = bf16(x + h)
                x = bf16(
                    x + self.feed_forward(self.norm(x, f"{at}.post_attention_layernorm"), layer)
                )
        h = self.norm(x, "norm")
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return bf16(product(h, head.T))


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_bits_are_those_of_the_plain_version(name):
    model = random_model(name)
    expected = Plain(model).logits(TOKENS)
    found = lamp.simulate(model, "bf16").forward(TOKENS).logits
    np.testing.assert_array_equal(found, expected)
    # In torch's own bfloat16 hardly a logit is the same.
    with torch.no_grad():
        own = model.to(torch.bfloat16)(torch.tensor(TOKENS[np.newaxis])).logits[0].float().numpy()
    assert (own != expected).mean() > 0.3
    assert FAMILIES[name].causal
