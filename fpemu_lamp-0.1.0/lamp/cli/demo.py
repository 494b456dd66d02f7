"""The subcommand `lamp demo`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpemu._printing import console, echo
from fpemu.cli.options import number
from fpemu.cli.warming import Call, compiled_beside

if TYPE_CHECKING:
    from lamp.lookahead import LAMP

_STORED_BITS = (2, 4, 7)
_TAUS = (1.5, 1.2, 1.05)
_TOKENS = 64  # that compile all there is
_RUNS = len(_STORED_BITS) * (1 + 3 * len(_TAUS))


def demo(
    output: Annotated[
        Path, typer.Option(help="The folder of results.csv and the plot.", file_okay=False)
    ] = Path("demo"),
    model: Annotated[
        str,
        typer.Option(help="The model: 'embedded', a transformers directory, or a name on the hub."),
    ] = "embedded",
    text: Annotated[
        Path | None, typer.Option(help="A UTF-8 text file.  By default, the embedded sample.")
    ] = None,
    windows: Annotated[int, number(int, "Number of windows of the text.", least=1)] = 4,
    length: Annotated[int, number(int, "Tokens per window.", least=2)] = 128,
) -> None:
    """Run GPT-2 with low-precision attention scores, with and without look-ahead recomputation."""
    from dataclasses import replace

    from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn

    from lamp import reports, studies
    from lamp.models import GPT2, checkpoints

    network = GPT2.from_pretrained(model)
    tokens = network.encode(checkpoints.read_text(text))
    chosen = studies.spread_windows(tokens, length, windows)
    output.mkdir(parents=True, exist_ok=True)

    source = "the sample" if text is None else str(text)
    results: list[studies.Run] = []
    columns = (*Progress.get_default_columns()[:2], TimeElapsedColumn(), TimeRemainingColumn())
    with (
        compiled_beside(tuple(_calls(model)), "lamp"),
        Progress(*columns, console=console(stderr=True, markup=True)) as progress,
    ):
        task = progress.add_task("compiling, reference", total=_RUNS)
        for result in studies.equal_rate_grid(network, chosen, _STORED_BITS, _TAUS):
            results.append(
                replace(result, study="demo", position=len(results), model=model, text=source)
            )
            progress.update(task, advance=1, description=f"PS({result.variables['mu']})")

    title = f"{model} model, {chosen.size} tokens: attention scores with mu stored bits"
    study = reports.Results("", "demo", {}, tuple(results), {})
    console().print(reports.console.results_table(results, title))
    table, picture = output / "results.csv", output / "kl_vs_recomputation.png"
    reports.write_csv([study], table)
    reports.write_demo(study, picture)
    echo(f"Wrote {table} and {picture}")


def _calls(model: str) -> Iterator[Call]:
    """What compiles the kernels of the runs; those of the reference are compiled first."""
    from lamp.lookahead import LAMP

    rules = (
        None,
        LAMP("normwise", tau=_TAUS[0]),
        LAMP("random", tau=_TAUS[0], seed=0),
        LAMP("total_variation", budget=0.1, weights="abs"),
    )
    for rule in rules:
        yield Call("scores", partial(_evaluate_scores, model, rule))


def _evaluate_scores(model: str, rule: LAMP | None) -> None:
    from lamp.models import GPT2

    GPT2.from_pretrained(model).with_hardware(f"scores-ps{_STORED_BITS[0]}", rule).logits(
        range(_TOKENS)
    )
