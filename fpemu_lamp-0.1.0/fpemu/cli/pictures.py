"""``plot`` and ``errors``: pictures of formats, and the errors of sums as a table and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand

from fpemu._printing import echo, note, plain_table, print_table
from fpemu.cli import options

if TYPE_CHECKING:
    from fpemu.errors import SumErrors

__all__ = ["ListsOfTerms", "errors", "plot"]

_TERMS: Final = "--terms"
_PICTURE: Final = "The picture to write: .png, .svg or .pdf."
_NUMBERS: Final = ("median", "mean", "largest", "bound")


class ListsOfTerms(TyperCommand):
    """A command whose lengths may have blanks between them: ``--terms 16 64 256``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put commas between lengths, as the option takes one word."""
        words: list[str] = []
        within = False
        for word in args:
            if within and word.replace(",", "").isdecimal():
                words[-1] += f",{word}"
                continue
            within = words[-1:] == [_TERMS]
            words.append(word)
        return super().parse_args(ctx, words)


def plot(
    format: Annotated[list[str], typer.Argument(help="One or more formats.")],
    output: Annotated[Path, typer.Option(help=_PICTURE, dir_okay=False)],
    panels: Annotated[
        str,
        typer.Option(
            help="What to draw, separated by commas: line, spacing, error, or functions, "
            "such as exp."
        ),
    ] = "line,spacing,error",
    range: Annotated[
        tuple[float, float] | None,
        options.number(float, "The lowest and the highest value.", metavar="LOW HIGH"),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="The scale of the values: linear or log.")
    ] = None,
    apart: Annotated[
        bool, typer.Option("--apart", help="Give each format a column of its own.")
    ] = False,
) -> None:
    """Plot the numbers of formats, their spacing, and the relative error of rounding.

    Error panels have the unit roundoff as a dashed line, and the largest errors where numbers are
    too close to be told apart.
    """
    from fpemu import formats, pictures
    from fpemu.pictures import files

    with options.usage("FORMAT"):
        chosen = [formats.format(name) for name in format]
    with options.usage("--output"):
        files.check(output)
    with options.usage():
        pictures.plot_formats(
            chosen, output, panels=panels.split(","), range=range, scale=scale, apart=apart
        )
    echo(f"Wrote {output}")


def errors(
    unit: Annotated[
        list[str],
        typer.Argument(
            help="Formats, for their sequential sums; matrix units; or kinds of accumulators with "
            "their parameters: blocked:e8m7:16, pairwise:e8m7, exact:float32."
        ),
    ],
    terms: Annotated[
        str, typer.Option(_TERMS, help="The lengths of the sums: 16 64 256.", metavar="N...")
    ] = "16,64,256,1024,4096",
    trials: Annotated[int, options.number(int, "Sums of each length.", least=1)] = 64,
    distribution: Annotated[
        str,
        typer.Option(
            help="What the elements are drawn from: normal, uniform (-1 to 1), positive (0 to 1)."
        ),
    ] = "normal",
    inputs: Annotated[
        str, typer.Option(help="The format of the elements, where the unit takes any.")
    ] = "float32",
    seed: Annotated[int, options.number(int, "The seed of the elements.", least=0)] = 0,
    output: Annotated[Path | None, typer.Option(help=_PICTURE, dir_okay=False)] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON document.")] = False,
) -> None:
    """Measure the errors of inner products of random vectors against their length.

    An error is relative to the sum of the terms' magnitudes, as the proved bound is.
    """
    from fpemu import pictures, sum_errors
    from fpemu.pictures import files

    if csv and json:
        raise typer.BadParameter("give only one of --csv and --json")
    with options.usage("--output"):
        files.check(output)
    with options.usage():
        found = sum_errors(
            unit,
            _lengths(terms),
            trials=trials,
            distribution=distribution,
            inputs=inputs,
            seed=seed,
        )
    _LAYOUTS["csv" if csv else "json" if json else "text"](found)
    if output is not None:
        pictures.plot_errors(found, path=output)
        echo(f"Wrote {output}", err=csv or json)


def _lengths(text: str) -> list[int]:
    words = text.split(",")
    for word in words:
        if not word.isdecimal():
            message = f"expected lengths such as 16,64,256, not {word!r}"
            raise typer.BadParameter(message, param_hint=_TERMS)
    return [int(word) for word in words]


def _print_text(found: Sequence[SumErrors]) -> None:
    table = plain_table()
    table.add_column("unit", no_wrap=True)
    for heading in ("terms", *_NUMBERS):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        numbers = (getattr(each, name) for name in _NUMBERS)
        table.add_row(each.unit, str(each.terms), *(f"{x:.1e}" if x else "0" for x in numbers))
    print_table(table)
    first = found[0]
    note(
        "\nErrors relative to the sum of the terms' magnitudes: "
        f"{first.trials} sums of each length, {first.distribution} elements, seed {first.seed}."
    )
    for each in found:
        if each.overflows:
            note(
                f"{each.unit}, {each.terms} terms: {each.overflows} of {each.trials} sums overflow "
                "and have no bound."
            )


def _print_csv(found: Sequence[SumErrors]) -> None:
    rows = [vars(each) for each in found]
    echo(",".join(rows[0]))
    for row in rows:
        echo(",".join(map(str, row.values())))


def _print_json(found: Sequence[SumErrors]) -> None:
    import json
    import math

    # JSON has no infinities.
    rows = [
        {
            name: None if isinstance(x, float) and math.isinf(x) else x
            for name, x in vars(each).items()
        }
        for each in found
    ]
    echo(json.dumps({"errors": rows}, indent=1))


_LAYOUTS: Final[dict[str, Callable[[Sequence[SumErrors]], None]]] = {
    "text": _print_text,
    "csv": _print_csv,
    "json": _print_json,
}
