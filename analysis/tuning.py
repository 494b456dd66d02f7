"""How small can it be: machines tuned step by step to the divergence of a uniform one.

    python analysis/tuning.py [--model embedded] [--tokens 1024 2048] [--groups 3] [--jobs 1]
        [--short] [--store tuning.sqlite] [--output .]

Two questions, each a menu for lamp.tune:

- accumulators: how many bits do accumulators need for the divergence of PS(7), whose products are
  all summed in e8m7?  On the menu: sequential sums; sums in blocks of 16, with 8 or 5 exponent
  bits; and blocks of 16 in few bits that are added up in e5m8.  The cost is the bits of the
  accumulator of each multiply-add, and for blocks those of the second one, once per block.
- units: how many bits of arithmetic does the divergence of hopper-fp8 take?  On the menu: bfloat16
  operands; e4m3 operands with a scale for each row; NVFP4 operands; each summed on the unit or in
  float32, or in blocks of 16 with fewer bits.  Attention has bfloat16 operands, as there.
  Functions and sums are in bfloat16.  The cost of a multiply-add is the product of the significand
  bits of its operands plus the bits of its accumulator.

Choices are made on Twelfth Night and verified on Macbeth; a model without such a tokenizer reads
the same texts.  Every measurement is a run of the store: the same call does the rest later.

Writes tuning_MODEL.csv, and for each question a folder with what `lamp tune --output` writes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from rich.console import Console

import lamp
from fpemu import Blocked
from lamp import Hardware, Product
from lamp.machines import STEPS
from lamp.reports import fronts
from lamp.tuning import Menu, Tuned

BLOCK: Final = 16
SHORT: Final = {"accumulators": (1, 3, 4, 8, 9), "units": (0, 3, 4, 5, 8)}  # of the menus
PRODUCTS: Final = tuple(
    name for name, kind in STEPS.items() if kind is Product and name != "recomputed"
)
ATTENTION: Final = ("scores", "values")


@dataclass(frozen=True)
class Row:
    """A machine beside the tuned one."""

    model: str
    question: str
    kind: str
    machine: str
    cost: float
    times_tuned: float
    accumulator_bits: float
    predicted: float
    calibration: float
    held_out: float
    held_out_low: float
    held_out_high: float


def in_blocks(inner: str, outer: str = "") -> Blocked:
    """Sums of blocks in one format, and the blocks' sums in the same or in another."""
    return Blocked(outer or inner, BLOCK, inner)


def accumulating(name: str, accumulator: Any) -> Hardware:
    """Every product summed in the same way."""
    return Hardware(name, **dict.fromkeys(PRODUCTS, Product(accumulator)))


def multiplying(name: str, operands: str, accumulator: Any, scaling: str = "none") -> Hardware:
    """Products of the weights with narrow operands; attention on the same sums in bfloat16."""
    weights = Product(accumulator, operands, "bfloat16", "rne", scaling)
    attention = Product(accumulator, "bfloat16", "bfloat16")
    steps = {step: attention if step in ATTENTION else weights for step in PRODUCTS}
    return Hardware(name, **steps)


def accumulators() -> list[Any]:
    """The menu of the first question."""
    plain = ("e8m6", "e5m7", "e5m6", "e5m5", "e5m4")
    return [
        *(accumulating(f"{f} in turn", f) for f in ("e8m9", "e8m7")),
        *(accumulating(f"{f} in blocks", in_blocks(f)) for f in plain),
        *(
            accumulating(f"e5m{mu} in blocks in e5m8", in_blocks(f"e5m{mu}", "e5m8"))
            for mu in (4, 3, 2, 1)
        ),
    ]


def units() -> list[Any]:
    """The menu of the second."""
    narrow = ("e8m9", "e8m7", "e8m5")
    fp8 = [multiplying(f"fp8, {f}", "float8_e4m3fn", in_blocks(f), "row") for f in narrow]
    fp4 = [multiplying(f"nvfp4, {f}", "nvfp4", in_blocks(f)) for f in narrow[1:]]
    bf16 = [multiplying(f"bf16, {f}", "bfloat16", in_blocks(f)) for f in narrow[1:]]
    return ["bf16", *bf16, "hopper-fp8", *fp8, multiplying("nvfp4", "nvfp4", "float32"), *fp4]


def menus(arguments: argparse.Namespace) -> dict[str, Menu]:
    """The questions."""
    calibration, held_out = arguments.tokens
    common: dict[str, Any] = {
        "model": arguments.model,
        "groups": arguments.groups,
        "calibration": {"source": "twelfth-night", "tokens": calibration, "length": 128},
        "held_out": {"source": "macbeth", "tokens": held_out, "length": 128},
    }
    products = {"accumulators": accumulators(), "units": units()}
    if arguments.short:
        products = {name: [products[name][i] for i in chosen] for name, chosen in SHORT.items()}
    stored = {"functions": ["bf16"], "sums": ["bf16"]}
    first = Menu(
        f"accumulators, {arguments.model}",
        {"products": products["accumulators"]},
        {"kl": "ps7"},
        costs="accumulators",
        **common,
    )
    second = Menu(
        f"units, {arguments.model}",
        {"products": products["units"], **stored},
        {"kl": "hopper-fp8"},
        **common,
    )
    return {"accumulators": first, "units": second}


def rows(question: str, found: Tuned) -> Iterator[Row]:
    """The result, uniform machines, and corners of the front that were measured."""
    for each in (found.result, *found.others, *found.front):
        if not each.readings:
            continue
        held_out = each.readings["held_out"]
        yield Row(
            str(found.menu.model),
            question,
            each.kind,
            each.name,
            each.cost,
            each.cost / found.result.cost,
            found.accumulator_bits if each is found.result else float("nan"),
            each.predicted,
            each.readings["calibration"].value,
            *held_out,
        )


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Tuned machines beside uniform ones.")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tokens", type=int, nargs=2, default=[1024, 2048])
    parser.add_argument("--groups", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="five options of each menu")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--front", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--questions", nargs="+", default=["accumulators", "units"])
    parser.add_argument("--store", type=Path, default=Path("tuning.sqlite"))
    parser.add_argument("--output", type=Path, default=Path())
    arguments = parser.parse_args()
    console, found = Console(), []
    for question, menu in menus(arguments).items():
        if question not in arguments.questions:
            continue
        tuned = lamp.tune(
            menu,
            store=arguments.store,
            rounds=arguments.rounds,
            front=arguments.front,
            jobs=arguments.jobs,
            progress=True,
        )
        found += rows(question, tuned)
        fronts.write_tuned(tuned, arguments.output / f"{question}-{arguments.model}")
        console.print(fronts.sentence(tuned.record()), fronts.choices_table(tuned), sep="\n")
        console.print(fronts.machines_table(tuned), fronts.rounds_table(tuned), sep="\n\n")
    with (arguments.output / f"tuning_{arguments.model}.csv").open("w", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        writer.writerows([getattr(row, field.name) for field in fields(Row)] for row in found)


if __name__ == "__main__":
    main()
