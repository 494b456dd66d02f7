"""Tables from the data of the packages, and labels of all tables, which keep words together."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import fpemu
from fpemu import TensorCore, devices
from fpemu.devices import Device
from fpemu.scaling import FORMATS
from lamp import machines
from lamp.lookahead.rules import RULES

Row = tuple[str, ...]


def code(*names: object) -> str:
    """Names as code, for a cell of a table."""
    return ", ".join(f"`{name}`" for name in names)


def formats() -> Iterator[Row]:
    """The named formats and their limits."""
    yield "name", "bits", "precision", "emin", "largest", "smallest", "infinity", "NaN", "-0"
    for name, format in fpemu.formats.named_formats().items():
        facts = (format.infinities, format.has_nan, format.has_negative_zero)
        yield (
            code(name),
            str(format.bits),
            str(format.precision),
            str(format.emin),
            f"{format.max_finite:.6g}",
            f"{format.smallest_subnormal:.4g}",
            *("yes" if fact else "no" for fact in facts),
        )


def block_formats() -> Iterator[Row]:
    """The block-scaled formats."""
    yield "name", "elements", "scales", "elements per scale", "scale of the whole array"
    for name, format in FORMATS.items():
        yield (
            code(name),
            code(format.element),
            code(format.scale),
            str(format.block),
            code("float32") if format.tensor_scale else "none",
        )


def fused(accumulator: Any) -> TensorCore | None:
    """The tensor core of an accumulator, or None."""
    core = getattr(accumulator, "core", getattr(accumulator, "inner", accumulator))
    return core if isinstance(core, TensorCore) else None


def alike(device: Device) -> bool:
    """Whether both operands of a unit have one format; the others are told of in words."""
    return len(set(device.accumulator.input_formats)) == 1


def whole(text: str) -> str:
    """A text that stays on one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}").replace("-", "\N{NON-BREAKING HYPHEN}")


def sources(device: Device) -> str:
    """The sources of a unit, each on one line."""
    return "; ".join(map(whole, device.source.split("; ")))


def together(rows: Iterable[tuple[str, Row]]) -> Iterator[Row]:
    """Merge the rows of units that differ only in their inputs."""
    alike: dict[Row, list[str]] = {}
    for name, facts in rows:
        architecture, instruction, inputs = name.split(".", 2)
        alike.setdefault((f"{architecture}.{instruction}", *facts), []).append(inputs)
    for (unit, *facts), inputs in alike.items():
        yield code(unit), code(*inputs), *facts


def tensor_cores() -> Iterator[Row]:
    """Units of fused additions."""
    yield "unit", "inputs", "terms", "bits", "result", "floor", "sources"
    cores = ((device, fused(device.accumulator)) for device in filter(alike, devices.entries()))
    yield from together(
        (
            device.name,
            (
                str(core.block),
                str(core.fraction_bits),
                whole(f"{core.format}, {core.rounding.mode}"),
                "none" if core.exponent_floor is None else str(core.exponent_floor),
                sources(device),
            ),
        )
        for device, core in cores
        if core is not None
    )


def other_units() -> Iterator[Row]:
    """Units without fused additions."""
    yield "unit", "inputs", "how it sums", "sources"
    yield from together(
        (device.name, (str(device.accumulator), sources(device)))
        for device in filter(alike, devices.entries())
        if fused(device.accumulator) is None
    )


def named_machines() -> Iterator[Row]:
    """The named machines."""
    yield "name", "numbers between steps", "products of weights", "scores"
    for name in machines.names():
        machine = machines.hardware(name.format(mu=4))
        same = machine.scores == machine.qkv
        yield (
            code(name),
            code(machine.residual.output),
            machines.summary(machine, "qkv"),
            "the same" if same else machines.summary(machine, "scores"),
        )


def rules() -> Iterator[Row]:
    """The rules of look-ahead."""
    yield "rule", "selects", "optimal for", "places"
    for rule in RULES.values():
        places = dict.fromkeys([*rule.places(tau=True), *rule.places(tau=False)])
        formula = rule.summary.replace("**2", "²").replace("||", "‖")
        yield code(rule.name), formula, rule.optimal or "none", code(*places)


TABLES = {
    "formats": formats,
    "block-formats": block_formats,
    "tensor-cores": tensor_cores,
    "other-units": other_units,
    "machines": named_machines,
    "rules": rules,
}


_NUMBER = re.compile(r"-?[\d.]+(e[+-]?\d+)?")
_LABEL, _SHORT = 9, 24  # letters from which, and up to which


def alignment(column: Row) -> str:
    """The line below the head of a column: numbers are aligned to the right."""
    cells = [cell for cell in column if cell != "none"]
    return "---:" if cells and all(map(_NUMBER.fullmatch, cells)) else "---"


class Facts(SphinxDirective):
    """The directive ``{facts} NAME``, where the name is one of TABLES."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """The table."""
        head, *rows = TABLES[self.arguments[0]]()
        lines = [head, tuple(map(alignment, zip(*rows, strict=True))), *rows]
        cells = ((cell.replace("|", r"\|") for cell in line) for line in lines)
        return self.parse_text_to_nodes("\n".join(f"| {' | '.join(line)} |" for line in cells))


def mark(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give labels beside numbers classes: long ones have room, and short ones stay on a line.

    Numbers do not break, and would leave labels none where a table is wider than the page.
    """
    for table in doctree.findall(nodes.table):
        cells = list(table.findall(nodes.entry))
        labels = [cell for cell in cells if "text-right" not in cell["classes"]]
        for cell in labels if len(labels) < len(cells) else []:
            letters = len(cell.astext())
            cell["classes"] += ["label"] * (letters >= _LABEL) + ["short"] * (letters <= _SHORT)


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer it to Sphinx."""
    app.connect("doctree-resolved", mark)
    app.add_directive("facts", Facts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
