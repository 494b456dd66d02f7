"""The figures of five pages: fpemu, P3109, Scale, Your model, Your PyTorch program.

    python analysis/pages.py [--output docs/_static/figures]

- formats.svg, p3109.svg: two formats of 8 bits, and formats of 8 bits by their precision, drawn by
  fpemu.plot_formats.
- sum_errors.svg: the errors of sums on matrix units, drawn by fpemu.plot_errors.
- plans.svg: time and memory of plans and stores against the number of runs, from the tables of
  docs/scale.md.
- models.svg: divergences of two models on machines of narrow formats, from claims.csv.
- emulated.svg: errors of a small PyTorch network, which is emulated on several machines.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import fpemu
from fpemu.pictures import drawing

DOCS: Final = Path(__file__).parents[1] / "docs"
FIGURES: Final = DOCS / "_static" / "figures"
CLAIMS: Final = DOCS / "_static" / "data" / "claims.csv"

FORMATS: Final = ("float8_e4m3fn", "float8_e5m2")
UNITS: Final = (
    "e8m7",
    "hopper.wgmma.e4m3",
    "hopper.wgmma-promoted.e4m3",
    "blackwell.tcgen05.e4m3",
    "exact:float64",
)
TERMS: Final = tuple(4**exponent for exponent in range(1, 9))
PRECISIONS: Final = tuple(f"Binary8p{precision}se" for precision in (3, 4, 5))

MODELS: Final = {"smollm2": "SmolLM2", "gemma3-270m": "Gemma 3 270M"}
MACHINES: Final = ("hopper-fp8", "mxfp8", "nvfp4", "ps4")
RULES: Final = {
    "nothing": "nothing recomputed",
    "scores, activations and logits, 1%": "1% recomputed",
}

# What fpemu.torch.emulate takes, by the name of a row.
EMULATED: Final[dict[str, dict[str, Any]]] = {
    "float32": {"matmul": "float32", "elementwise": "float32"},
    "ampere, tf32": {"matmul": "ampere.mma.tf32", "elementwise": "float32"},
    "hopper, float16": {"matmul": "hopper.wgmma.float16", "elementwise": "float16"},
    "hopper, bfloat16": {"matmul": "hopper.wgmma.bfloat16", "elementwise": "bfloat16"},
    "hopper, e4m3": {"matmul": "hopper.wgmma.e4m3", "elementwise": "bfloat16"},
    "blackwell, MXFP8": {
        "matmul": "blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32",
        "operands": "mxfp8_e4m3",
        "elementwise": "bfloat16",
    },
    "blackwell, NVFP4": {
        "matmul": "blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16",
        "operands": "nvfp4",
        "elementwise": "bfloat16",
    },
}


def picture(width: int, height: float) -> tuple[drawing.Picture, Any]:
    """A picture of panels side by side."""
    made = drawing.Picture(figsize=(drawing.WIDTH, height), layout="constrained")
    return made, made.subplots(1, width, squeeze=False)[0]


# --- fpemu ----------------------------------------------------------------------------------------


def draw_formats(path: Path) -> None:
    """Two formats of 8 bits."""
    fpemu.plot_formats(FORMATS, path)


def draw_sum_errors(path: Path) -> None:
    """The errors of sums on matrix units against their length."""
    fpemu.plot_errors(UNITS, TERMS, path, inputs="float8_e4m3fn")


# --- P3109 ----------------------------------------------------------------------------------------


def draw_p3109(path: Path) -> None:
    """Formats of 8 bits: the more precision, the less range."""
    ends = 2.0**-18, 2.0**17
    fpemu.plot_formats(PRECISIONS, path, panels=("line", "error"), range=ends, scale="log")


# --- Scale ----------------------------------------------------------------------------------------

_CELL: Final = re.compile(r"([\d.]+) s, (\d+) MB")
_POWERS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def runs_of(text: str) -> float:
    """The number that a cell such as 10⁴ begins with."""
    return 10.0 ** int(re.match(r"10([⁰¹²³⁴⁵⁶⁷⁸⁹])", text)[1].translate(_POWERS))


def tables(page: str) -> Iterator[list[list[str]]]:
    """The cells of each table of a page."""
    for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        yield [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]


def measured(page: str) -> dict[str, list[tuple[float, float, float]]]:
    """Runs, seconds and megabytes of what two tables of a page have measured."""
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for head, _, *rows in tables(page):
        if head[0] == "runs" and "dry run" in head:
            for number, *cells in rows:
                for name, cell in zip(head[1:], cells, strict=True):
                    if name != "before" and (said := _CELL.match(cell)):
                        found[name].append((runs_of(number), float(said[1]), float(said[2])))
        elif head[0].startswith("command"):
            for name, *cells in rows:
                for number, cell in zip(head[1:], cells, strict=True):
                    said = _CELL.match(cell)
                    row = runs_of(number), float(said[1]), float(said[2])
                    found[name.replace("`", "")].append(row)
    del found["lamp sweep --dry-run"]  # which is as the first
    return found


def draw_plans(path: Path) -> None:
    """Time and memory against the number of runs."""
    found = measured((DOCS / "scale.md").read_text(encoding="utf-8"))
    made, panels = picture(2, 3.9)
    drawing.logarithmic(panels[0], "y", (0.7, 200), 10)
    panels[1].set_ylim(0, 600)
    for axes, column, label in ((panels[0], 1, "seconds of CPU"), (panels[1], 2, "MB, at most")):
        drawing.logarithmic(axes, "x", (7e3, 1.4e6), 10)
        for number, rows in enumerate(found.values()):
            x, y = [row[0] for row in rows], [row[column] for row in rows]
            axes.plot(x, y, color=drawing.color(number), marker=drawing.SHAPES[number], ms=4.5)
        axes.set_xlabel("runs")
        axes.set_ylabel(label)
    handles = [
        drawing.handle(name, drawing.color(number), marker=drawing.SHAPES[number])
        for number, name in enumerate(found)
    ]
    drawing.legend(made, handles)
    made.write(path)


# --- Your model -----------------------------------------------------------------------------------


def draw_models(path: Path) -> None:
    """The divergence of two models on machines, with and without recomputation."""
    with CLAIMS.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["group"] in ("machines", "gemma")]
    made, panels = picture(len(MODELS), 3.1)
    for axes, (model, title) in zip(panels, MODELS.items(), strict=True):
        drawing.logarithmic(axes, "x", (0.007, 8), 10)
        for number, rule in enumerate(RULES):
            for place, machine in enumerate(MACHINES):
                values = {
                    row["text"]: float(row["value"])
                    for row in rows
                    if (row["model"], row["machine"], row["rule"]) == (model, machine, rule)
                }
                draw_row(axes, place + 0.26 * number - 0.13, values, number)
        axes.set_title(title, loc="left")
        axes.set_xlabel("KL divergence from float64, nats")
        name_rows(axes, MACHINES if axes is panels[0] else [""] * len(MACHINES))
    handles = [
        drawing.handle(name, drawing.color(number), "", drawing.SHAPES[number])
        for number, name in enumerate(RULES.values())
    ]
    drawing.legend(made, handles)
    made.write(path)


def draw_row(axes: Any, place: float, values: dict[str, float], number: int) -> None:
    """The values of the texts of a row as small marks, and that of all texts as a large one."""
    look = {"color": drawing.color(number), "marker": drawing.SHAPES[number], "ls": ""}
    texts = [value for text, value in values.items() if text != "all"]
    axes.plot(texts, [place] * len(texts), ms=3.5, alpha=0.45, mew=0, **look)
    axes.plot(values["all"], place, ms=6.5, **look)


def name_rows(axes: Any, names: Sequence[str]) -> None:
    """The first row above, each with its name."""
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


# --- Your PyTorch program -------------------------------------------------------------------------


def draw_emulated(path: Path) -> None:
    """The errors of a network's outputs, relative to their root mean square, by machine."""
    made, (axes,) = picture(1, 2.9)
    found = {name: errors(arguments) for name, arguments in EMULATED.items()}
    drawing.logarithmic(axes, "x", (1e-9, 3), 10)
    for place, off in enumerate(found.values()):
        ends = np.tile([place - 0.25, place + 0.25, np.nan], len(off))  # one line with gaps
        axes.plot(np.repeat(off, 3), ends, lw=0.6, color=drawing.color(0))
        axes.plot(np.median(off), place, ls="", marker="o", ms=6.5, color=drawing.color(1))
    name_rows(axes, list(found))
    axes.set_xlabel("error of an output / root mean square of the outputs")
    handles = [
        drawing.handle("an output", drawing.color(0), "", "|"),
        drawing.handle("median", drawing.color(1), "", "o"),
    ]
    drawing.legend(made, handles)
    made.write(path)


def errors(arguments: dict[str, Any]) -> np.ndarray:
    """The errors of all outputs of the network of the page that are not exact."""
    import torch
    from torch import nn

    import fpemu.torch

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 10))
    x = torch.randn(32, 64)
    with torch.no_grad():
        exact = network.double()(x.double())
        network = network.float()
        with fpemu.torch.emulate(convert="rne", reductions="float32", **arguments):
            y = network(x)
    off = ((y - exact).abs() / exact.square().mean().sqrt()).numpy().ravel()
    return off[off > 0]


# --- all ------------------------------------------------------------------------------------------

DRAWN: Final[dict[str, Callable[[Path], None]]] = {
    "formats": draw_formats,
    "sum_errors": draw_sum_errors,
    "p3109": draw_p3109,
    "plans": draw_plans,
    "models": draw_models,
    "emulated": draw_emulated,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FIGURES, help="an existing folder")
    options = parser.parse_args()
    if not options.output.is_dir():
        parser.error(f"--output {options.output} is not a folder")
    with drawing.rc_context(drawing.STYLE):
        for name, draw in DRAWN.items():
            path = options.output / f"{name}.svg"
            draw(path)
            print(f"Wrote {path}")


if __name__ == "__main__":
    main()
