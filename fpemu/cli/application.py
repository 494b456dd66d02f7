"""The subcommands of `fpemu`.

What a subcommand needs is imported when it runs, so that ``fpemu --help`` is quick.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand

from fpemu._printing import echo, note, plain_table, print_table
from fpemu.cli import documents, options, pictures, process, warming

if TYPE_CHECKING:
    from fpemu.explain import Code
    from fpemu.expressions import Computed
    from fpemu.formats import Format

__all__ = ["app", "main"]

_TABLE_BITS: Final = 10
_NAME: Final = 9  # columns of the name of a fact

app = typer.Typer(
    name="fpemu",
    help="Look into floating-point formats, roundings and matrix units, bit for bit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _main(debug: options.Debug = False, version: options.Version = False) -> None:
    """Options of all subcommands."""


app.command()(pictures.plot)
app.command(cls=pictures.ListsOfTerms)(pictures.errors)
app.command()(documents.docs)
app.command()(warming.warm)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; :func:`fpemu.cli.process.call` says how it ends.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows ``fpemu`` on the command line; by default, the arguments of the process.
    """
    process.call(app, "fpemu", arguments)


def _format(name: str) -> Format:
    """The format that an argument names."""
    from fpemu import formats

    with options.usage("FORMAT"):
        return formats.format(name)


@app.command()
def formats() -> None:
    """List the named formats and their limits."""
    from fpemu.formats import named_formats

    table = plain_table(1)
    table.add_column("format", no_wrap=True)
    for heading in ("p", "emin", "emax", "largest", "normal", "subnormal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("has", no_wrap=True)
    for format in named_formats().values():
        specials = {
            "inf": format.infinities,
            "nan": format.has_nan,
            "-0": format.has_negative_zero,
            "no 0": not format.has_zero,
        }
        table.add_row(
            format.name,
            *map(str, (format.precision, format.emin, format.emax)),
            f"{format.max_finite:.3g}",
            f"{format.smallest_normal:.3g}",
            f"{format.smallest_subnormal:.3g}" if format.subnormals else "-",
            " ".join(name for name, present in specials.items() if present),
        )
    print_table(table)
    note("\nnormal, subnormal: the smallest positive numbers of each kind.")
    note("Other names: e{E}m{M}, ps{M} = e8m{M}, and P3109's Binary{K}p{P}{s|u}{e|f}.")


@app.command()
def devices(
    pattern: Annotated[
        str,
        typer.Argument(
            help="List only units whose names contain this text, such as wgmma, or those of a "
            "product, such as H100."
        ),
    ] = "",
) -> None:
    """List the matrix units of real hardware: how each forms an inner product, and the source."""
    from fpemu import devices as units

    found = units.matching(pattern)
    if not found:
        raise ValueError(f"no unit has {pattern!r} in its name: fpemu devices lists all units")
    table = plain_table()
    table.add_column("unit", no_wrap=True)
    table.add_column("how it sums")
    table.add_column("source", style="dim")
    for unit in found:
        table.add_row(unit.name, str(unit.accumulator), unit.source)
    print_table(table)
    note("\nThe documentation of fpemu.devices lists the sources: pydoc fpemu.devices")


class _SignedValues(TyperCommand):
    """A command whose values may begin with a sign: ``-0.3`` is no option, ``--exakt`` is one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse a long option that is none, and leave all other words to be values."""
        known = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        for word in itertools.takewhile("--".__ne__, args):
            if word.startswith("--") and word.partition("=")[0] not in known:
                return super().parse_args(ctx, [word])
        ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)


@app.command(cls=_SignedValues)
def show(
    format: Annotated[str, typer.Argument(help="The format, such as float8_e4m3fn or e5m7.")],
    value: Annotated[
        str,
        typer.Argument(
            help="A number, taken exactly: 0.3, -1e9, 0x1.8p-3, inf or nan; a code, 0x2a; or an "
            "expression: 0.1+0.2, 3*0.7, sqrt(2), 'fma(0.1, 3, 2)'."
        ),
    ],
    overflow: Annotated[
        str, typer.Option(help="The result of overflow: ieee, saturate, propagate, infinity.")
    ] = "ieee",
    exact: Annotated[
        bool, typer.Option("--exact", help="Round only the result of an expression.")
    ] = False,
    random_bits: Annotated[
        int,
        options.number(
            int, "Random bits of the stochastic modes that have them.", least=1, most=63
        ),
    ] = 8,
) -> None:
    """Show how a number is rounded into a format in each rounding mode, and why.

    The numbers of an expression, and the results of all its operations but the last, are first
    rounded into the format, to nearest, as on a machine that has no other.
    """
    from fpemu import explain, expressions
    from fpemu.rounding import Rounding

    chosen = _format(format)
    with options.usage("--overflow"):
        Rounding(overflow=overflow)
    with options.usage("VALUE"):
        computed = expressions.compute(value, chosen, exact=exact)
        number = computed.value
        steps = explain.rounding_steps(number, chosen, overflow, cancelled=computed.cancelled)
    chances = explain.stochastic_steps(number, chosen, overflow, random_bits)
    nearest = explain.anatomy(steps[0].result, chosen)
    note(_title(value, computed, chosen))
    for part in computed.rounded:
        _print_fact("operand", f"{part.text} is rounded to {part.result!r}")
    fields = {"sign": nearest.sign, "exponent": nearest.exponent, "fraction": nearest.fraction}
    bits = "  ".join(f"{name} {field}" for name, field in fields.items() if field)
    _print_fact("rne", f"{steps[0].result!r}  (code {nearest.code:#x})")
    _print_fact("bits", bits)
    _print_fact("meaning", nearest.meaning)
    if not isinstance(number, float) or math.isfinite(number):
        ends = zip(explain.neighbors(number, chosen), ("below", "above"), strict=True)
        if beside := [f"{x!r} {side}" for x, side in ends if x is not None]:
            _print_fact("next", ", ".join(beside))
    table = plain_table()
    table.add_column("mode", no_wrap=True)
    table.add_column("result", justify="right", no_wrap=True)
    table.add_column("error, ulp", justify="right", no_wrap=True)
    table.add_column("because")
    for step in steps:
        error = "-" if math.isnan(step.error) else f"{step.error:+.3g}"
        table.add_row(step.mode, repr(step.result), error, step.reason)
    echo()
    print_table(table)
    if all(len(chance.results) == 1 for chance in chances):
        return
    table = plain_table()
    table.add_column("stochastic", no_wrap=True)
    table.add_column("results and their probabilities")
    table.add_column("because")
    for chance in chances:
        table.add_row(chance.mode, _chances(chance.results), chance.reason)
    echo()
    print_table(table)


def _print_fact(name: str, text: str) -> None:
    """Print a fact behind its name."""
    note(f"{name:<{_NAME}}{text}", indent=" " * _NAME)


def _title(text: str, computed: Computed, format: Format) -> str:
    """What is shown, and its exact value if that is not what was given."""
    value = computed.value
    if computed.code is not None:
        return f"{text}, the code of {value!r}, in {format}"
    if not isinstance(value, float):
        return f"{text} in {format}"
    try:
        given = repr(float(text))
    except ValueError:  # an expression, or a hexadecimal number
        return f"{text} = {value!r} in {format}"
    return f"{given} in {format}"


def _chances(results: Sequence[tuple[float, Fraction]]) -> str:
    """Results and their probabilities in percent; those that are not exact are marked."""
    words = []
    for result, chance in results:
        percent = float(chance * 100)
        about = "" if Fraction(f"{percent:.4g}") == chance * 100 else "about "
        words.append(f"{result!r}: {about}{percent:.4g}%")
    return ", ".join(words)


@app.command()
def table(
    format: Annotated[str, typer.Argument(help=f"A format of at most {_TABLE_BITS} bits.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON document.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Print a page of HTML.")] = False,
) -> None:
    """List every code of a small format: its bits, its kind and its value."""
    from fpemu import explain

    chosen = _format(format)
    if chosen.bits > _TABLE_BITS:
        message = f"{chosen} has {chosen.bits} bits, too many codes to list: at most {_TABLE_BITS}"
        raise typer.BadParameter(message, param_hint="FORMAT")
    asked = [name for name, given in (("csv", csv), ("json", json), ("html", html)) if given]
    if len(asked) > 1:
        raise typer.BadParameter(f"give only one of --{' and --'.join(asked)}")
    _LAYOUTS[asked[0] if asked else "text"](chosen, explain.codes(chosen))


_HEADINGS: Final = ("code", "sign", "exponent", "fraction", "kind", "value")


def _print_text(format: Format, codes: Sequence[Code]) -> None:
    digits = 2 + -(-format.bits // 4)
    table = plain_table()
    for heading in _HEADINGS:
        left = heading in ("code", "kind")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for each in codes:
        bits = (each.anatomy.sign, each.anatomy.exponent, each.anatomy.fraction)
        table.add_row(f"{each.code:#0{digits}x}", *bits, each.kind, repr(each.value))
    print_table(table)


def _print_csv(format: Format, codes: Sequence[Code]) -> None:
    echo(",".join(_HEADINGS))
    for each in codes:
        bits = (each.anatomy.sign, each.anatomy.exponent, each.anatomy.fraction)
        echo(",".join((str(each.code), *bits, each.kind, repr(each.value))))


def _print_json(format: Format, codes: Sequence[Code]) -> None:
    import dataclasses
    import json

    # JSON has no infinities and NaN: values are texts that Python's float and others read.
    rows = [
        {
            "code": each.code,
            "sign": each.anatomy.sign,
            "exponent": each.anatomy.exponent,
            "fraction": each.anatomy.fraction,
            "kind": each.kind,
            "value": repr(each.value),
        }
        for each in codes
    ]
    echo(json.dumps({"format": dataclasses.asdict(format), "codes": rows}, indent=1))


def _print_html(format: Format, codes: Sequence[Code]) -> None:
    from fpemu import _html

    digits = 2 + -(-format.bits // 4)
    rows = [(f"{each.code:#0{digits}x}", each.bits, each.kind, each.value) for each in codes]
    table = _html.table(("code", "bits", "kind", "value"), rows)
    echo(_html.page(format.name, f"{format._repr_html_()}{table}"))


_LAYOUTS: Final[dict[str, Callable[[Format, Sequence[Code]], None]]] = {
    "text": _print_text,
    "csv": _print_csv,
    "json": _print_json,
    "html": _print_html,
}
