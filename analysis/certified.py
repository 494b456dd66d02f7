"""Certified tokens: what is proved of tokens, and what estimates say, beside the truth.

``python -m analysis.certified`` prints the tables of docs/mathematics.md: for random decoders of a
few layers and for the embedded model, on several machines, the share of tokens that is proved, how
far the bounds are from the true errors layer by layer, and what first-order propagation and
stochastic runs miss.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import lamp
from lamp.evaluation import samples
from lamp.models import first_order
from lamp.models.gpt2 import GPT2, GPT2Config
from lamp.models.llama import Llama, LlamaConfig
from lamp.models.rotary import Rotary

MACHINES = ("fp64", "fp32", "ps10", "ps7", "bf16", "hopper")
RULES = (
    lamp.LAMP(on="softmax", rule="strict", tau=0.01),
    lamp.LAMP(on="norm", rule="norm", tau=0.01),
    lamp.LAMP(on="activation", rule="activation", tau=0.01),
    lamp.LAMP(on="logits", rule="strict", tau=0.001),
)
PASSAGE = (
    "But, soft! what light through yonder window breaks? It is the east, and Juliet is the sun. "
    "Arise, fair sun, and kill the envious moon, who is already sick and pale with grief, that "
    "thou her maid art far more fair than she: be not her maid, since she is envious; her vestal "
    "livery is but sick and green and none but fools do wear it; cast it off. It is my lady, O, "
    "it is my love! O, that she knew she were!"
)


def random_gpt2(layers: int, spread: float) -> GPT2:
    """A GPT-2 of width 32 with weights of a standard deviation, and of embeddings 1."""
    config = GPT2Config(
        vocab_size=200, n_positions=64, n_embd=32, n_layer=layers, n_head=4, n_inner=128,
        activation_function="gelu_new", layer_norm_epsilon=1e-5,
    )  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (200, 32), "wpe.weight": (64, 32)}
    for at in (f"h.{i}." for i in range(layers)):
        for name, ends in (
            ("attn.c_attn", (32, 96)),
            ("attn.c_proj", (32, 32)),
            ("mlp.c_fc", (32, 128)),
            ("mlp.c_proj", (128, 32)),
        ):
            shapes |= {f"{at}{name}.weight": ends, f"{at}{name}.bias": ends[1:]}
    norms = ["ln_f", *(f"h.{i}.ln_{j}" for i in range(layers) for j in (1, 2))]
    shapes |= {f"{name}.{part}": (32,) for name in norms for part in ("weight", "bias")}
    return GPT2(config, {f"transformer.{k}": x for k, x in _random(shapes, spread).items()})


def random_llama(layers: int, spread: float) -> Llama:
    """The same for a Llama with grouped queries."""
    config = LlamaConfig(
        vocab_size=200, hidden_size=32, intermediate_size=96, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
        hidden_act="silu", rms_norm_eps=1e-5, tie_word_embeddings=True, rotary=Rotary(8),
    )  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (200, 32), "norm.weight": (32,)}
    for at in (f"layers.{i}." for i in range(layers)):
        for name, ends in (
            ("self_attn.q_proj", (32, 32)),
            ("self_attn.k_proj", (16, 32)),
            ("self_attn.v_proj", (16, 32)),
            ("self_attn.o_proj", (32, 32)),
            ("mlp.gate_proj", (96, 32)),
            ("mlp.up_proj", (96, 32)),
            ("mlp.down_proj", (32, 96)),
            ("input_layernorm", (32,)),
            ("post_attention_layernorm", (32,)),
        ):
            shapes[f"{at}{name}.weight"] = ends
    return Llama(config, {f"model.{k}": x for k, x in _random(shapes, spread).items()})


def _random(shapes: dict[str, tuple[int, ...]], spread: float) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    found = {}
    for name, shape in shapes.items():
        embedding = "wte" in name or "embed" in name
        values = generator.normal(0, 1.0 if embedding else spread, shape)
        gain = len(shape) == 1 and not name.endswith("bias")
        found[name] = (1.0 + values if gain else values).astype(np.float32)
    return found


def shares(
    name: str,
    model: Any,
    tokens: Any,
    machines: Any = MACHINES,
    kinds: Any = ("running", "measured"),
) -> None:
    """The shares of tokens proved on each machine, without and with look-ahead."""
    truth = model.with_hardware("fp64").logits(tokens).argmax(-1)
    for machine in machines:
        for rules in (None, RULES) if machine not in ("fp64", "fp32") else (None,):
            columns = []
            for kind in kinds:
                start = time.perf_counter()
                found = lamp.certify(model, tokens, machine, rules, kind=kind)
                columns.append(f"{found.share:6.1%} {np.median(found.bound):8.1e}")
                seconds = time.perf_counter() - start
            flips = np.mean(found.predicted != truth)
            wrong = int(np.sum(found.proved & (found.predicted != truth)))
            print(
                f"{name:16s} {machine:7s} {'with' if rules else 'without':8s}"
                f" {' | '.join(columns)} | margin {np.median(found.margin):.1e}"
                f" flips {flips:.1%} proved and flipped {wrong} {seconds:.1f} s",
                flush=True,
            )


def growth(name: str, model: Any, tokens: Any, machines: Any = ("fp64", "fp32", "ps7")) -> None:
    """Bounds over true errors of the residual stream, layer by layer, medians over tokens."""
    for machine in machines:
        found = lamp.certify(model, tokens, machine, kind="measured").stream
        errors = model.with_hardware(machine).depth_map(tokens).errors
        parts = []
        for bound, error in zip(np.median(found, 1), np.median(errors, 1), strict=True):
            parts.append(f"{bound:.0e}/{error:.0e}")
        print(f"{name:16s} {machine:7s} {'  '.join(parts)}", flush=True)


def estimates(name: str, model: Any, tokens: Any, machines: Any = MACHINES[1:5]) -> None:
    """What first-order propagation and stochastic runs say and miss."""
    expected = model.with_hardware("fp64").logits(tokens)
    rows = np.arange(len(tokens))
    for machine in machines:
        found = first_order(model, tokens, machine, kind="measured")
        truth = expected[rows, found.predicted] - expected[rows, found.rival]
        ratio = np.abs(found.margin - truth) / found.estimate
        flipped = found.predicted != expected.argmax(-1)
        trusted = found.margin > 3 * found.estimate
        runs = samples(model, tokens, machine)
        print(
            f"{name:16s} {machine:7s} first order: error over estimate, median"
            f" {np.median(ratio):.2f} largest {ratio.max():.1f}; trusted {trusted.mean():.1%},"
            f" wrong among them {int((trusted & flipped).sum())} | samples: stable"
            f" {runs.stable.mean():.1%}, wrong among them {int(runs.missed.sum())}, alarms"
            f" {int(runs.alarms.sum())}, overrated digits {int(runs.overrated.sum())}; flips"
            f" {int(flipped.sum())}",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--only", choices=("random", "embedded", "estimates"))
    options = parser.parse_args()
    generator = np.random.default_rng(1)
    if options.only in (None, "random"):
        for layers, spread in ((2, 0.05), (4, 0.05), (2, 0.2), (4, 0.2)):
            for maker in (random_gpt2, random_llama):
                model: Any = maker(layers, spread)
                tokens = generator.integers(0, 200, options.tokens)
                name = f"{type(model).__name__} {layers} x {spread}"
                shares(name, model, tokens)
                growth(name, model, tokens, ("fp32",))
    model = lamp.GPT2.from_pretrained("embedded")
    tokens = model.encode(PASSAGE)[: options.tokens]
    if options.only in (None, "embedded"):
        shares("embedded", model, tokens, ("fp64", "fp32", "ps7"))
        shares("embedded", model, tokens, MACHINES[1:], ("reference",))
        growth("embedded", model, tokens)
    if options.only in (None, "estimates"):
        estimates("embedded", model, tokens)
        for maker in (random_gpt2, random_llama):
            model = maker(2, 0.2)
            estimates(type(model).__name__, model, generator.integers(0, 200, options.tokens))


if __name__ == "__main__":
    main()
