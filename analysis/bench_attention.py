"""What attention by tiles costs, against attention by rows of the same machine.

    python analysis/bench_attention.py [--heads 12] [--tokens 1024] [--repetitions 5]

Heads of dimension 64 on machines with scores in PS(4), in float32 and on Hopper, with tiles of
128 x 64 in 4 parts.  Both kinds of attention have the relaxed rule or none.  The design asks for
less than three times the time by rows.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from benchmark import best_seconds, number, print_table, verdict

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
    "divided at each tile": lamp.Tiled(division="tile"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    shape = (3, options.heads, options.tokens, DIMENSION)
    query, key, value = (1.5 * generator.normal(size=shape)).astype(np.float32)
    rules = {"none": None}
    if "relaxed" in RULES:
        rules["relaxed"] = lamp.LAMP("relaxed", TAU)
    rows = []
    for name in MACHINES:
        machine = replace(lamp.hardware(name), recomputed=lamp.Product())
        kinds: dict[str, Any] = {"": None, **FORMATS}
        for rule, settings in rules.items():

            def run(kind: Any, machine: Any = machine, settings: Any = settings) -> Any:
                changed = replace(machine, attention=kind)
                return lambda: attention(query, key, value, hardware=changed, lamp=settings)

            times = best_seconds(
                {label: run(kind) for label, kind in kinds.items()}, options.repetitions
            )
            for label in FORMATS:
                ratio = times[label] / times[""]
                cells = (number(times[label]), number(ratio), verdict(TARGET / ratio, 1.0))
                rows.append((f"{name}, {label}", rule, *cells))
    print_table(
        f"Attention by tiles, {options.heads} heads, {options.tokens} tokens",
        ("machine, exponentials", "rule", "seconds", "of that by rows", "below 3"),
        rows,
    )


if __name__ == "__main__":
    main()
