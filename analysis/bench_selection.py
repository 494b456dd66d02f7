"""What a selection costs, against the low-precision scores it guards.

    python analysis/bench_selection.py [--heads 12] [--tokens 1024] [--repetitions 5]

Causal scores of a layer, of head dimension 64, accumulated in PS(4).  The design asks for less than
the scores cost, and for less than 0.1 s of total_variation on two cores.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from benchmark import seconds_in_turns

import fpemu
from lamp.lookahead.rules import LAMP, RULES
from lamp.lookahead.selection import select_rows, value_distances
from lamp.machines.steps import Function
from lamp.models.attention import softmax

DIMENSION = 64
TARGET = 0.1
TAUS = {"normwise": 1.2, "random": 1.2, "normwise_optimal": 1.2, "componentwise": 0.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    heads, tokens = options.heads, options.tokens
    generator = np.random.default_rng(0)
    shape = (heads, tokens, DIMENSION)
    query, key, value = (1.5 * generator.normal(size=(3, *shape))).astype(np.float32)
    lengths = np.arange(1, tokens + 1)
    accumulator = fpemu.Sequential("e8m4")

    def products(running: Any = False) -> Any:
        return fpemu.matmul(
            query, key.transpose(0, 2, 1), accumulator, row_lengths=lengths, running=running
        )

    y = products().reshape(-1, tokens) / np.float32(np.sqrt(DIMENSION))
    row_lengths = np.tile(lengths, heads)
    z = softmax(y, row_lengths, Function())
    weights = np.abs(y)
    distances = value_distances(z.reshape(heads, tokens, tokens), value).reshape(z.shape) * z

    def report(name: str, call: Callable[[], Any], verdict: bool = False) -> None:
        times = seconds_in_turns({"scores": products, "call": call}, options.repetitions)
        seconds = statistics.median(times["call"])
        ratios = sorted(a / b for a, b in zip(times["call"], times["scores"], strict=True))
        met = ("  yes" if seconds < TARGET else "  NO") if verdict else ""
        print(
            f"{name:44} {seconds * 1e3:8.1f} ms {statistics.median(ratios):7.2f} "
            f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]{met}",
            flush=True,
        )

    seconds = statistics.median(seconds_in_turns({"": products}, options.repetitions)[""])
    print(
        f"{heads} x {tokens} x {tokens} causal scores {seconds * 1e3:30.1f} ms; medians, and the "
        "cost in that of the scores in turns:\n"
    )
    report("softmax of the scores", lambda: softmax(y, row_lengths, Function()))
    for which in (True, "first", "second"):
        name = "both running sums" if which is True else f"the {which} running sum"
        report(f"scores with {name}", partial(products, which))
    report(
        "distances of values from outputs",
        lambda: value_distances(z.reshape(heads, tokens, tokens), value),
    )
    for name, rule in RULES.items():
        tau = TAUS.get(name, 0.01)
        for amount in ({"tau": tau}, {"budget": 0.03}, {"budget": 0.03, "scope": "row"}):
            settings = LAMP(name, **amount)  # type: ignore[arg-type]

            def run(settings: LAMP = settings, rule: Any = rule) -> Any:
                return select_rows(
                    z,
                    row_lengths,
                    settings,
                    arguments=y,
                    weights=weights if rule.power else None,
                    sensitivity=distances if rule.sensitivity == "given" else None,
                )

            words = " ".join(f"{key} {value}" for key, value in amount.items())
            report(f"{name}, {words}", run, verdict=name == "total_variation")


if __name__ == "__main__":
    main()
