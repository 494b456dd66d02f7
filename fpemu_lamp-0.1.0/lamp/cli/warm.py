"""The subcommand `lamp warm`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fpemu.cli.warming import Call, compile_all
from lamp.cli import options

if TYPE_CHECKING:
    from lamp.lookahead import LAMP

_TOKENS: Final = 64
_BITS: Final = 4  # stored ones of machines whose names leave them open
_RULES_ON: Final = f"scores-ps{_BITS}"


def warm(
    machines: Annotated[
        list[str] | None,
        typer.Argument(help="Machines, by name or .toml file.  By default, all that have a name."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="The model: 'embedded', a directory, a file, or a name on the hub.")
    ] = "embedded",
) -> None:
    """Compile the kernels of machines and of the rules of look-ahead, once for this machine."""
    from lamp.lookahead import LAMP, rules
    from lamp.machines import names

    chosen = machines or [name.format(mu=_BITS) for name in names()]
    for name in chosen:
        options.machine(name, "MACHINES")
    on = chosen[0] if machines else _RULES_ON
    calls = [Call(name, partial(_evaluate, model, name)) for name in chosen]
    for rule in rules.RULES.values():
        tau = 1.5 if rule.condition else 0.5
        limits = LAMP(rule.name, tau=tau), LAMP(rule.name, budget=0.1)
        calls += [Call(rule.name, partial(_evaluate, model, on, each)) for each in limits]
    compile_all(calls)


def _evaluate(model: str, machine: str, rule: LAMP | None = None) -> None:
    """Compile what an evaluation of a few tokens on a machine needs."""
    from lamp import evaluation
    from lamp.integrations import from_pretrained

    reference = from_pretrained(model)
    other = reference.with_hardware(machine, rule)
    evaluation.evaluate(reference.with_hardware("fp64"), other, [0] * _TOKENS)
