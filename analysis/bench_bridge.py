"""What a model of transformers costs on simulated machines: memory and time, for SmolLM2.

    python analysis/bench_bridge.py [--tokens 128] [--added 8] [--machines fp32 bf16 ...]

Peak memory is that of a process of its own (Linux tells), which loads the model from a file of
float32 numbers and runs it once: transformers by itself, ``lamp.simulate`` of its model, and
``lamp.from_pretrained`` as it loads families that it does not have itself.  Times are compared with
those of the native model, in turns, by the median; those of the processor count all threads, and
hardly depend on what else the machine does.  A generated token is also compared with transformers'
own float32 model, which keeps keys and values as the others do.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmark import environment, print_environment

import lamp

MACHINES: Final = ("fp32", "bf16", "hopper-fp8", "blackwell-nvfp4")
MEMORY_TARGET, TIME_TARGET, TOKEN_TARGET = 1.3, 1.2, 1.5


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
    # An executor lets its process end by itself, so that it gives its semaphores back.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run_alone, work, *given).result()


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


def in_turns(works: list[Callable[[], Any]], repetitions: int) -> Any:
    """Seconds of the processor and of the clock, shape (repetitions, 2, works)."""
    spent = np.empty((repetitions, 2, len(works)))
    for work in works:
        work()
    for turn in spent:
        for i, work in enumerate(works):
            start = time.process_time(), time.perf_counter()
            work()
            turn[:, i] = time.process_time() - start[0], time.perf_counter() - start[1]
    return spent


def in_words(spent: Any) -> str:
    """Ratios of the second work to the first: of medians, and of the least of the processor."""
    own, ours = np.median(spent, axis=0).T
    least = spent[:, 0].min(axis=0)
    return f"{ours[0] / own[0]:.2f}  {ours[1] / own[1]:.2f}  {least[1] / least[0]:.2f}"


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
            spent = in_turns([lambda m=model, r=run: r(m) for model in pair], repetitions)
            own, ours = np.median(spent[:, 0], axis=0)
            met = "yes" if ours <= TIME_TARGET * own else "NO"
            words = f"native {own:.2f}, bridge {ours:.2f}: {in_words(spent)}"
            print(f"{machine:18} {what:15} {words}  at most {TIME_TARGET:g}: {met}", flush=True)


def measure_tokens(
    folder: Path, tokens: Any, machines: list[str], added: int, repetitions: int
) -> None:
    """A generated token, beside one of transformers' float32 model with its cache."""
    import torch
    import transformers

    from lamp.integrations import transformers as bridge

    own = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = torch.from_numpy(tokens[:8])[None]
    options = {"max_new_tokens": added, "do_sample": False, "eos_token_id": None}

    def by_transformers() -> Any:
        return own.generate(text, attention_mask=torch.ones_like(text), **options)

    ways = {"native": lamp.from_pretrained(folder), "bridge": bridge.load(folder, "fp32", None)}
    threads = torch.get_num_threads()
    print(
        f"\nA generated token, of {added} behind 8, over that of transformers' float32 with its "
        f"cache on {threads} threads;\nratios of medians: processor, clock; least processor"
    )
    for machine in machines:
        for way, model in ways.items():
            on = model.with_hardware(machine)
            spent = in_turns(
                [by_transformers, lambda on=on: on.generate(tokens[:8], added)], repetitions
            )
            theirs, ours = 1e3 / added * np.median(spent[:, 1], axis=0)
            met = "yes" if ours <= TOKEN_TARGET * theirs else "NO"
            words = f"transformers {theirs:.0f} ms, {way} {ours:.0f} ms: {in_words(spent)}"
            print(f"{machine:18} {words}  at most {TOKEN_TARGET:g}: {met}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--added", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--machines", nargs="*", default=list(MACHINES))
    parser.add_argument("--only", choices=("memory", "time", "token"))
    parser.add_argument("--checkpoint", type=Path, help="a directory that holds SmolLM2 already")
    options = parser.parse_args()
    tokens = np.random.default_rng(1).integers(0, 49152, options.tokens)
    print_environment(environment(["torch", "transformers"]), {})
    with tempfile.TemporaryDirectory() as name:
        folder = options.checkpoint or Path(name)
        if options.checkpoint is None:
            save_checkpoint(folder)
        machines, how = options.machines, (options.added, options.repetitions)
        if options.only in (None, "memory"):
            measure_memory(folder, tokens, machines)
        if options.only in (None, "time"):
            measure_time(folder, tokens, machines, *how)
        if options.only in (None, "token"):
            measure_tokens(folder, tokens, machines, *how)


if __name__ == "__main__":
    main()
