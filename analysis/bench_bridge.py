"""What a model of transformers costs on simulated machines: memory and time, for SmolLM2.

    python analysis/bench_bridge.py [--tokens 128] [--added 8] [--machines fp32 bf16 ...]

Peak memory is that of a process of its own (Linux tells), which loads the model from a file of
float32 numbers and runs it once: transformers by itself, ``lamp.simulate`` of its model, and
``lamp.from_pretrained`` as it loads families that it does not have itself.  Times are compared with
those of the native model, in turns, by the median; those of the processor count all threads, and
hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmark import environment, print_environment

import lamp

MACHINES: Final = ("fp32", "bf16", "hopper-fp8", "blackwell-nvfp4")
MEMORY_TARGET, TIME_TARGET = 1.3, 1.2


def save_checkpoint(folder: Path) -> None:
    """SmolLM2 as transformers writes it."""
    import torch
    import transformers

    source = lamp.checkpoints.directory("smollm2")
    config = transformers.LlamaConfig(**lamp.checkpoints.load_config(source, "llama"))
    model = transformers.LlamaForCausalLM(config)
    tensors = lamp.checkpoints.load_tensors(source)
    model.load_state_dict({n: torch.from_numpy(x.copy()) for n, x in tensors.items()}, strict=False)
    model.tie_weights()
    model.save_pretrained(folder)


# --- memory ---------------------------------------------------------------------------------------


def by_transformers(folder: Path, tokens: Any, machine: str) -> None:
    """Transformers' own pass in float32."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model(torch.from_numpy(tokens)[None])


def simulated(folder: Path, tokens: Any, machine: str) -> None:
    """A pass of a loaded model, which the process goes on to hold."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lamp.simulate(model, machine).forward(tokens)


def loaded(folder: Path, tokens: Any, machine: str) -> None:
    """A pass of a checkpoint that is loaded through transformers."""
    from lamp.integrations import transformers as bridge

    bridge.load(folder, machine, None).forward(tokens)


def with_reference(folder: Path, tokens: Any, machine: str) -> None:
    """The same, with the reference in float64 as ``lamp run`` has it."""
    from lamp.integrations import transformers as bridge

    model = bridge.load(folder, machine, None)
    exact = model.with_hardware("fp64")
    exact.forward(tokens)
    model.forward(tokens)


def continued(folder: Path, tokens: Any, machine: str) -> None:
    """A text of which some tokens are read, and more are generated."""
    from lamp.integrations import transformers as bridge

    bridge.load(folder, machine, None).generate(tokens[:16], 2)


def peak_memory(work: Callable[..., None], *given: Any) -> float:
    """Peak resident memory of a process that does some work, in MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_run_alone, (work, *given)))


def _run_alone(work: Callable[..., None], *given: Any) -> float:
    work(*given)
    # Not getrusage's, which begins with what the parent had.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return float(peak.split()[1]) * 1024 / 1e6


def measure_memory(folder: Path, tokens: Any, machines: list[str]) -> None:
    """Peaks of all ways, and their ratios to transformers' own."""
    base = peak_memory(by_transformers, folder, tokens, "")
    print(f"\nPeak memory, {len(tokens)} tokens: transformers in float32 {base:.0f} MB", flush=True)
    for machine in machines:
        for way in (simulated, loaded, with_reference, continued):
            peak = peak_memory(way, folder, tokens, machine)
            met = "yes" if peak <= MEMORY_TARGET * base else "NO"
            words = f"{peak:5.0f} MB  {peak / base:.2f}  at most {MEMORY_TARGET:g}: {met}"
            print(f"{machine:18} {way.__name__:15} {words}", flush=True)


# --- time -----------------------------------------------------------------------------------------


def in_turns(pair: list[Any], run: Callable[[Any], Any], repetitions: int) -> Any:
    """Seconds of the processor and of the clock, shape (repetitions, 2, models)."""
    spent = np.empty((repetitions, 2, len(pair)))
    for model in pair:
        run(model)
    for turn in spent:
        for i, model in enumerate(pair):
            start = time.process_time(), time.perf_counter()
            run(model)
            turn[:, i] = time.process_time() - start[0], time.perf_counter() - start[1]
    return spent


def measure_time(
    folder: Path, tokens: Any, machines: list[str], added: int, repetitions: int
) -> None:
    """A pass and generation, natively and through transformers."""
    from lamp.integrations import transformers as bridge

    native, other = lamp.from_pretrained(folder), bridge.load(folder, "fp32", None)
    works: dict[str, Callable[[Any], Any]] = {
        f"{len(tokens)} tokens": lambda model: model.forward(tokens),
        f"{added} generated": lambda model: model.generate(tokens[:8], added),
    }
    print("\nSeconds of the processor, and ratios of medians: processor, clock; least processor")
    for machine in machines:
        pair = [model.with_hardware(machine) for model in (native, other)]
        assert (pair[0].logits(tokens[:8]) == pair[1].logits(tokens[:8])).all()
        for what, run in works.items():
            spent = in_turns(pair, run, repetitions)
            (own, ours), clock = np.median(spent, axis=0)
            least = spent[:, 0].min(axis=0)
            met = "yes" if ours <= TIME_TARGET * own else "NO"
            words = f"native {own:.2f}, bridge {ours:.2f}: {ours / own:.2f}"
            words += f"  {clock[1] / clock[0]:.2f}  {least[1] / least[0]:.2f}"
            print(f"{machine:18} {what:15} {words}  at most {TIME_TARGET:g}: {met}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--added", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--machines", nargs="*", default=list(MACHINES))
    parser.add_argument("--only", choices=("memory", "time"))
    parser.add_argument("--checkpoint", type=Path, help="a directory that holds SmolLM2 already")
    options = parser.parse_args()
    tokens = np.random.default_rng(1).integers(0, 49152, options.tokens)
    print_environment(environment(["torch", "transformers"]), {})
    with tempfile.TemporaryDirectory() as name:
        folder = options.checkpoint or Path(name)
        if options.checkpoint is None:
            save_checkpoint(folder)
        if options.only != "time":
            measure_memory(folder, tokens, options.machines)
        if options.only != "memory":
            repetitions = options.repetitions
            measure_time(folder, tokens, options.machines, options.added, repetitions)


if __name__ == "__main__":
    main()
