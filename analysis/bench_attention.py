"""What attention by tiles costs, against attention by rows of the same machine.

    python analysis/bench_attention.py [--heads 12] [--tokens 1024] [--repetitions 7]
    python analysis/bench_attention.py --shared 3 --heads 9

Heads of dimension 64 on machines with scores in PS(4), in float32 and on Hopper, with tiles of
128 x 64 in 4 parts.  Both kinds of attention have the relaxed rule or none, which in float32
recomputes nothing and is left out.  The design asks for less than three times the time by rows.
With ``--shared`` it times attention of heads that share keys and values, so many each, against the
same of heads that have their own, copied beforehand: of the last token and of all.
Ratios are medians over turns in which all kinds are timed one after the other, so that what else
runs on the machine slows all of them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from benchmark import number, print_table, seconds_in_turns, verdict

import lamp
from lamp.lookahead.rules import RULES
from lamp.models.attention import attention

DIMENSION = 64
TARGET = 3.0
TAU = 0.03
MACHINES = ("scores-ps4", "fp32", "hopper")
FORMATS = {
    "float32": lamp.Tiled(),
    "a table of bfloat16": lamp.Tiled(exponential=lamp.Function("bfloat16", steps="bfloat16")),
    "all in bfloat16": lamp.Tiled(
        exponential=lamp.Function("bfloat16", steps="bfloat16"),
        rescaling="bfloat16",
        running_maximum=lamp.Function("bfloat16", "rtp"),
    ),
    "divided at each tile": lamp.Tiled(division="tile"),
}
SHARING = ("fp32", "bf16", "hopper-fp8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--shared", type=int, help="how many heads share keys and values")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    shape = (3, options.heads, options.tokens, DIMENSION)
    query, key, value = (1.5 * generator.normal(size=shape)).astype(np.float32)
    if options.shared is not None:
        compare_shared(query, key, value, options)
        return
    rules = {"none": None}
    if "relaxed" in RULES:
        rules["relaxed"] = lamp.LAMP("relaxed", TAU)
    rows = []
    for name in MACHINES:
        machine = replace(lamp.hardware(name), recomputed=lamp.Product())
        kinds: dict[str, Any] = {"": None, **FORMATS}
        for rule, settings in rules.items():
            if settings is not None and not machine.scores_are_low:
                continue

            def run(kind: Any, machine: Any = machine, settings: Any = settings) -> Any:
                changed = replace(machine, attention=kind)
                return lambda: attention(query, key, value, hardware=changed, lamp=settings)

            calls = {label: run(kind) for label, kind in kinds.items()}
            times = seconds_in_turns(calls, options.repetitions)
            for label in FORMATS:
                ratio = float(np.median(np.divide(times[label], times[""])))
                cells = (number(min(times[label])), number(ratio), verdict(TARGET / ratio, 1.0))
                rows.append((f"{name}, {label}", rule, *cells))
    print_table(
        f"Attention by tiles, {options.heads} heads, {options.tokens} tokens",
        ("machine, exponentials", "rule", "seconds", "of that by rows", "below 3"),
        rows,
    )


def compare_shared(query: Any, key: Any, value: Any, options: argparse.Namespace) -> None:
    """Print the times of heads that share keys and values, over those of heads with copies."""
    own = [np.repeat(x[:: options.shared], options.shared, axis=0) for x in (key, value)]
    shared = [np.ascontiguousarray(x[:: options.shared]) for x in (key, value)]
    rows = []
    for name in SHARING:
        machine = lamp.hardware(name)
        for count in (1, options.tokens):

            def run(factors: Any, machine: Any = machine, count: int = count) -> Any:
                return lambda: attention(query[:, -count:], *factors, hardware=machine)

            times = seconds_in_turns({"own": run(own), "shared": run(shared)}, options.repetitions)
            ratios = np.divide(times["shared"], times["own"])
            cells = (f"{float(np.median(times['shared'])):.2g}", number(float(np.median(ratios))))
            rows.append((name, f"{count:,}", *cells))
    print_table(
        f"{options.heads} heads, {options.shared} to a key, {options.tokens} tokens",
        ("machine", "rows", "seconds", "of that of heads with copies"),
        rows,
    )


if __name__ == "__main__":
    main()
