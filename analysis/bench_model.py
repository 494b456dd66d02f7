"""A forward pass on simulated machines, against transformers in float32 on the same cores.

    python analysis/bench_model.py [--tokens 1024] [--layers 12] [--units hopper ...]
    python analysis/bench_model.py --profile [--markdown]

The shape is that of GPT-2 small, the weights random: none of the steps asks what they are.  Every
run is timed in turns with the others; machines with matrix units, on fewer tokens.  The share of
time in each step is that of a pass of its own, and peak memory that of a process of its own (Linux
tells), which loads the model from a file and runs it once.  The design asks for at most twice the
time of the plain float32 pass with scores in PS(4) and look-ahead, and for 1.5 GB.

With ``--profile`` five passes are timed in turns with that of transformers, of which the design
asks for multiples, and the milliseconds of each are put down to what they were spent in: a step's
own time, without that of the steps within it.
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
from benchmark import (
    best_seconds,
    environment,
    number,
    print_environment,
    print_table,
    seconds_in_turns,
    verdict,
)
from safetensors.numpy import save_file

import lamp
from lamp import LAMP
from lamp.models import attention, layers, transformer
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
PLACES: dict[str, list[tuple[Any, str]]] = {  # where the time of each kind of work is spent
    "weights' operands": [(layers, "right_operand"), (layers.packed, "unpacked")],
    "weights' products": [(layers, "products")],
    "biases": [(layers, "_add_bias")],
    "other operands": [(layers, "left_operand"), (attention, "left_operand")],
    "scores, values": [(attention, "products")],
    "divisions": [(attention, "_quick_quotients"), (attention, "_quotient")],
    "softmax": [(attention, "softmax")],
    "selection": [
        *((attention, name) for name in ("error_weights", "select_rows", "put_levels")),
        (attention.recomputing, "softmax_above"),  # both softmaxes with it, in one pass
    ],
    "norms": [(transformer, "norm")],
    "activations": [(transformer, "activation")],
    "residuals": [(transformer, "add")],
    "rest of attention": [(transformer, "attention")],
    "rest of linear layers": [(transformer, "linear"), (transformer, "checked_linear")],
}
TIME_TARGET, MEMORY_TARGET = 2.0, 1.5
PROFILED: dict[str, tuple[str, Any, float]] = {  # and the aim: so many times transformers' pass
    "`fp32`": ("fp32", None, 1.3),
    "`scores-ps4`": ("scores-ps4", None, 1.3),
    "with one threshold": ("scores-ps4", LOOK_AHEAD["threshold"], 1.8),
    "with version 1's rule": ("scores-ps4", LOOK_AHEAD["normwise"], 2.5),
    "`hopper-fp8`": ("hopper-fp8", None, 4.0),
}


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
    """Seconds of each kind of work in a pass, without that of others within it, and the rest."""
    spent = dict.fromkeys(PLACES, 0.0)
    within = [0.0]  # seconds in steps that have ended, for each step that has not and for the pass
    originals = {place: getattr(*place) for places in PLACES.values() for place in places}

    def timed(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            within.append(0.0)
            result = original(*arguments, **options)
            taken = time.perf_counter() - start
            spent[kind] += taken - within.pop()
            within[-1] += taken
            return result

        return step

    try:
        for kind, places in PLACES.items():
            for place in places:
                setattr(*place, timed(kind, originals[place]))
        start = time.perf_counter()
        run()
        total = time.perf_counter() - start
    finally:
        for place, original in originals.items():
            setattr(*place, original)
    return {**spent, "rest": total - sum(spent.values())}


def profile(folder: Path, tokens: Any, repetitions: int, *, markdown: bool) -> None:
    """The times of five passes, of transformers' in the same turns, and where they go."""
    plain = lamp.GPT2.from_pretrained(folder)
    models = {name: plain.with_hardware(*chosen[:2]) for name, chosen in PROFILED.items()}
    runs: dict[str, Callable[[], Any]] = {"transformers": transformers_pass(folder, tokens)}
    runs |= {name: (lambda model=model: model.forward(tokens)) for name, model in models.items()}
    times = seconds_in_turns(runs, repetitions)
    rows = []
    for name, (_, _, aim) in PROFILED.items():
        ratios = np.divide(times[name], times["transformers"])
        low, middle, high = (number(float(q)) for q in np.quantile(ratios, (0.0, 0.5, 1.0)))
        met = verdict(aim / float(np.median(ratios)), 1.0)
        rows.append([name, number(min(times[name])), middle, f"{low} to {high}", number(aim), met])
    headers = ["pass", "seconds", "of transformers'", "least to greatest", "aim", "met"]
    print_table("Passes", headers, rows, markdown=markdown)

    spent = {name: shares(runs[name]) for name in PROFILED}
    rows = [
        [kind, *(f"{1e3 * each[kind]:.0f}" for each in spent.values())]
        for kind in (*PLACES, "rest")
    ]
    rows.append(["all", *(f"{1e3 * sum(each.values()):.0f}" for each in spent.values())])
    headers = ["milliseconds in", *PROFILED]
    print_table("Where the time goes", headers, rows, markdown=markdown)


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
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="tables of --profile for the docs")
    options = parser.parse_args()
    config = small_config(options.layers, options.tokens)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, options.tokens)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder, config)
        print_environment(environment(["torch", "transformers"]), {})
        if options.profile:
            profile(folder, tokens, options.repetitions, markdown=options.markdown)
            return
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
    print_table("Where the time goes", ["run", *PLACES, "rest"], rows)

    rows = []
    for name, chosen in settings.items():
        memory = peak_memory(folder, tokens, *chosen)
        rows.append([name, f"{memory:.2f}", "yes" if memory <= MEMORY_TARGET else "NO"])
    print_table("Peak memory", ["run", "GB", f"at most {MEMORY_TARGET:g}"], rows)


if __name__ == "__main__":
    main()
