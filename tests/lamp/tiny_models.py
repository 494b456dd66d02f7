"""Models so tiny that the oracle in rationals has time for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lamp.models.gpt2 import GPT2, GPT2Config
from lamp.models.llama import Llama, LlamaConfig
from lamp.models.rotary import Rotary
from tests.oracle import decoder

TOKENS = [3, 1, 6, 3, 0]

GPT2_CONFIG = GPT2Config(
    vocab_size=7,
    n_positions=6,
    n_embd=18,
    n_layer=2,
    n_head=2,
    n_inner=36,
    activation_function="gelu_new",
    layer_norm_epsilon=1e-5,
)
# Widths that blocks of 16 and 32 do not divide; one of three frequencies as it is, one stretched
# partly, one wholly.
LLAMA_CONFIG = LlamaConfig(
    vocab_size=7,
    hidden_size=18,
    intermediate_size=35,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=6,
    hidden_act="silu",
    rms_norm_eps=1e-3,
    rotary=Rotary(6, 30.0, "llama3", (4.0, 1.0, 2.0, 28.0)),
    attention_bias=True,
)


def gpt2_tensors(config: GPT2Config = GPT2_CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, with peaked attention."""
    width, inner = config.n_embd, config.n_inner
    shapes = {"wte.weight": (config.vocab_size, width), "wpe.weight": (config.n_positions, width)}
    norms = ["ln_f"]
    for layer in range(config.n_layer):
        at = f"h.{layer}."
        norms += [at + "ln_1", at + "ln_2"]
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            shapes[f"{at}{name}.weight"] = inputs, outputs
            shapes[f"{at}{name}.bias"] = (outputs,)
    for name in norms:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
    return _random({f"transformer.{name}": shape for name, shape in shapes.items()}, seed)


def llama_tensors(config: LlamaConfig = LLAMA_CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    """The same for a Llama."""
    width, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    tokens = config.vocab_size, width
    shapes = {"model.embed_tokens.weight": tokens, "model.norm.weight": (width,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = tokens
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}{name}.weight"] = (width,)
        for name, inputs, outputs, biased in (
            ("self_attn.q_proj", width, queries, config.attention_bias),
            ("self_attn.k_proj", width, keys, config.attention_bias),
            ("self_attn.v_proj", width, keys, config.attention_bias),
            ("self_attn.o_proj", queries, width, config.attention_bias),
            ("mlp.gate_proj", width, inner, config.mlp_bias),
            ("mlp.up_proj", width, inner, config.mlp_bias),
            ("mlp.down_proj", inner, width, config.mlp_bias),
        ):
            shapes[f"{at}{name}.weight"] = outputs, inputs
            if biased:
                shapes[f"{at}{name}.bias"] = (outputs,)
    return _random(shapes, seed)


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()
    }


@dataclass(frozen=True)
class Tiny:
    """A family: its class, a configuration, random weights, the oracle."""

    kind: Any
    config: Any
    tensors: Callable[..., dict[str, np.ndarray]]
    oracle: Callable[..., Any]

    def model(self, machine, lamp=None, tensors=None):
        """The model on a machine."""
        held = self.tensors(self.config) if tensors is None else tensors
        return self.kind(self.config, held, hardware=machine, lamp=lamp)


FAMILIES = {
    "gpt2": Tiny(GPT2, GPT2_CONFIG, gpt2_tensors, decoder.gpt2),
    "llama": Tiny(Llama, LLAMA_CONFIG, llama_tensors, decoder.llama),
}
SHALLOW = {
    "gpt2": replace(FAMILIES["gpt2"], config=replace(GPT2_CONFIG, n_layer=1)),
    "llama": replace(FAMILIES["llama"], config=replace(LLAMA_CONFIG, num_hidden_layers=1)),
}
"""The same families with one layer, for what a second one would only repeat."""
