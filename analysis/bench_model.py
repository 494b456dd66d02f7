"""A forward pass on simulated machines, against transformers in float32 on the same cores.

    python analysis/bench_model.py [--tokens 1024] [--layers 12] [--units hopper ...]

The shape is that of GPT-2 small, the weights random: none of the steps asks what they are.  Every
run is timed in turns with the others; machines with matrix units, on fewer tokens.  The share of
time in each step is that of a pass of its own, and peak memory that of a process of its own (Linux
tells), which loads the model from a file and runs it once.  The design asks for at most twice the
time of the plain float32 pass with scores in PS(4) and look-ahead, and for 1.5 GB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import best_seconds, environment, print_environment, print_table
from safetensors.numpy import save_file

import lamp
from lamp import LAMP
from lamp.models import transformer
from lamp.models.gpt2 import GPT2Config

LOOK_AHEAD = {
    "threshold": LAMP("total_variation", tau=2e-3, weights="abs"),
    "threshold, norms": LAMP("total_variation", tau=2e-3, weights="norms"),
    "normwise": LAMP("normwise", tau=1.2),
}
EVERYWHERE = [
    LAMP("total_variation", budget=0.03),
    LAMP("norm", budget=0.03),
    LAMP("activation", budget=0.03),
]
FUNCTIONS = {  # of lamp.models.transformer, and the step that their time is put down to
    "linear": "linear",
    "checked_linear": "linear",
    "attention": "attention",
    "norm": "norm",
    "activation": "activation",
    "add": "add",
}
STEPS = tuple(dict.fromkeys(FUNCTIONS.values()))
TIME_TARGET, MEMORY_TARGET = 2.0, 1.5


def small_config(layers: int, tokens: int) -> GPT2Config:
    """GPT-2 small."""
    return GPT2Config(50257, max(tokens, 1024), 768, layers, 12, 3072, "gelu_new", 1e-5)


def random_tensors(config: GPT2Config) -> dict[str, Any]:
    """Weights under transformers' names."""
    generator = np.random.default_rng(0)
    width, inner = config.n_embd, config.n_inner

    def normal(*shape: int) -> Any:
        return (0.02 * generator.standard_normal(shape, np.float32)).astype(np.float32)

    tensors = {"wte.weight": normal(config.vocab_size, width)}
    tensors["wpe.weight"] = normal(config.n_positions, width)
    norms = ["ln_f"]
    for layer in range(config.n_layer):
        norms += [f"h.{layer}.ln_1", f"h.{layer}.ln_2"]
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            tensors[f"h.{layer}.{name}.weight"] = normal(inputs, outputs)
            tensors[f"h.{layer}.{name}.bias"] = normal(outputs)
    for name in norms:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + normal(width), normal(width)
    return {f"transformer.{name}": tensor for name, tensor in tensors.items()}


def save_checkpoint(folder: Path, config: GPT2Config) -> None:
    """A checkpoint as transformers writes it."""
    import transformers

    sizes = {name: getattr(config, name) for name in ("vocab_size", "n_positions", "n_embd")}
    sizes |= {"n_layer": config.n_layer, "n_head": config.n_head, "n_inner": config.n_inner}
    transformers.GPT2Config(**sizes).save_pretrained(folder)
    save_file(random_tensors(config), folder / "model.safetensors", {"format": "pt"})


def transformers_pass(folder: Path, tokens: Any) -> Callable[[], Any]:
    """The forward pass of transformers' own model in torch."""
    import torch
    import transformers

    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    batch = torch.as_tensor(tokens)[None]

    def run() -> Any:
        with torch.no_grad():
            return model(batch).logits[0].numpy()

    return run


def shares(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds in each step of a pass, and in the rest."""
    spent = dict.fromkeys(STEPS, 0.0)
    originals = {name: getattr(transformer, name) for name in FUNCTIONS}

    def timed(name: str) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = originals[name](*arguments, **options)
            spent[FUNCTIONS[name]] += time.perf_counter() - start
            return result

        return step

    try:
        for name in FUNCTIONS:
            setattr(transformer, name, timed(name))
        start = time.perf_counter()
        run()
        total = time.perf_counter() - start
    finally:
        for name, original in originals.items():
            setattr(transformer, name, original)
    return {**spent, "rest": total - sum(spent.values())}


def peak_memory(folder: Path, tokens: Any, machine: Any, settings: Any) -> float:
    """Peak resident memory of a process that loads the model and runs it, in GB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_run_alone, (folder, tokens, machine, settings)))


def _run_alone(folder: Path, tokens: Any, machine: Any, settings: Any) -> float:
    lamp.GPT2.from_pretrained(folder, hardware=machine, lamp=settings).forward(tokens)
    # Not getrusage's, which begins with what the parent had.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return float(peak.split()[1]) * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--units", nargs="*", default=["hopper", "hopper-fp8", "blackwell-nvfp4"])
    parser.add_argument("--unit-tokens", type=int, default=64)
    options = parser.parse_args()
    config = small_config(options.layers, options.tokens)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, options.tokens)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder, config)
        print_environment(environment(["torch", "transformers"]), {})
        few = tokens[: options.unit_tokens]
        measure(folder, few, {name: (name, None) for name in options.units}, options.repetitions)
        settings: dict[str, tuple[str, Any]] = {"PS(4)": ("scores-ps4", None)}
        settings |= {f"PS(4), {name}": ("scores-ps4", rule) for name, rule in LOOK_AHEAD.items()}
        settings |= {"bf16": ("bf16", None), "ps7": ("ps7", None)}
        settings["ps7, all look-ahead"] = ("ps7", EVERYWHERE)
        measure(folder, tokens, settings, options.repetitions)


def measure(
    folder: Path, tokens: Any, settings: dict[str, tuple[str, Any]], repetitions: int
) -> None:
    """Time, shares and memory of all runs."""
    plain = lamp.GPT2.from_pretrained(folder)
    settings = {"fp32": ("fp32", None), **settings}
    models = {name: plain.with_hardware(*chosen) for name, chosen in settings.items()}
    runs: dict[str, Callable[[], Any]] = {"transformers": transformers_pass(folder, tokens)}
    runs |= {name: (lambda model=model: model.forward(tokens)) for name, model in models.items()}
    print(f"\n{len(tokens)} tokens, {plain.shape.layers} layers\n")
    seconds = best_seconds(runs, repetitions)
    base = seconds["fp32"]
    rows = []
    for name, taken in seconds.items():
        ratio = taken / base
        met = ("yes" if ratio <= TIME_TARGET else "NO") if name.startswith("PS(4)") else ""
        rows.append(
            [name, f"{taken:.2f}", f"{ratio:.2f}", f"{taken / seconds['transformers']:.2f}"]
        )
        rows[-1].append(met)
    headers = ["run", "seconds", "of fp32", "of transformers", f"at most {TIME_TARGET:g}"]
    print_table("A forward pass", headers, rows)

    rows = []
    for name, model in models.items():
        spent = shares(lambda model=model: model.forward(tokens))
        total = sum(spent.values())
        rows.append([name, *(f"{100 * part / total:.0f}%" for part in spent.values())])
    print_table("Where the time goes", ["run", *STEPS, "rest"], rows)

    rows = []
    for name, chosen in settings.items():
        memory = peak_memory(folder, tokens, *chosen)
        rows.append([name, f"{memory:.2f}", "yes" if memory <= MEMORY_TARGET else "NO"])
    print_table("Peak memory", ["run", "GB", f"at most {MEMORY_TARGET:g}"], rows)


if __name__ == "__main__":
    main()
