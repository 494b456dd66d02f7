"""Presets, the machines that have names: precisions, PS(mu) of the LAMP paper, matrix units.

A name followed by ``@WHERE=NAME``, once or several times, is the first machine with some of its
steps as on the others: ``hopper-fp8@0,-1=bf16`` (layers), ``fp64@scores=ps4`` (a step),
``fp64@2-3.scores,values=ps4`` (steps of layers).

References
----------
Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
arXiv 2601.21623, section 5, for PS(mu).  P. Micikevicius et al., "FP8 formats for deep learning",
arXiv 2209.05433; Open Compute Project, "Microscaling Formats (MX) Specification", 2023; NVIDIA,
"Pretraining large language models with NVFP4", arXiv 2509.25149, for which products are narrow.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from typing import Any, Final

from fpemu import Rounding, Sequential, devices
from lamp.machines.machine import LAYER_FIELDS, STEPS, Hardware
from lamp.machines.steps import Function, Product, Sum

__all__ = ["names", "preset"]

_PS: Final = re.compile(r"((?:scores-|published-)?)ps(\d+)", re.ASCII)
_MOST_STORED_BITS: Final = 23
_LONGEST: Final = 100  # letters of a wrong name in a message
_MOST_HINTS: Final = 8
_ATTENTION: Final = ("scores", "values")
_SATURATING: Final = Rounding("rne", "saturate")

# All steps in one format; or numbers between steps in it, sums in float32.
_UNIFORM: Final = {"fp64": "float64", "fp32": "float32"}
_STORED: Final = {"bf16": "bfloat16", "fp16": "float16"}

# name: unit of the weights' products, unit of attention (empty: the same), storage, operands
# (None: those of the unit), scaling of operands.
_UNITS: Final = {
    "volta": ("volta.mma.float16", "", "float16", None, "none"),
    "turing": ("turing.mma.float16", "", "float16", None, "none"),
    "ampere": ("ampere.mma.bfloat16", "", "bfloat16", None, "none"),
    "ampere-tf32": ("ampere.mma.tf32", "", "float32", None, "none"),
    "ada": ("ada.mma.bfloat16", "", "bfloat16", None, "none"),
    "ada-fp8": ("ada.mma.e4m3", "ada.mma.bfloat16", "bfloat16", None, "row"),
    "hopper": ("hopper.wgmma.bfloat16", "", "bfloat16", None, "none"),
    "hopper-fp8": ("hopper.wgmma.e4m3", "hopper.wgmma.bfloat16", "bfloat16", None, "row"),
    "hopper-fp8-promoted": (
        "hopper.wgmma-promoted.e4m3",
        "hopper.wgmma.bfloat16",
        "bfloat16",
        None,
        "row",
    ),
    "blackwell": ("blackwell.tcgen05.bfloat16", "", "bfloat16", None, "none"),
    "blackwell-fp8": (
        "blackwell.tcgen05.e4m3",
        "blackwell.tcgen05.bfloat16",
        "bfloat16",
        None,
        "row",
    ),
    "blackwell-mxfp8": (
        "blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32",
        "blackwell.tcgen05.bfloat16",
        "bfloat16",
        "mxfp8_e4m3",
        "none",
    ),
    "blackwell-nvfp4": (
        "blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16",
        "blackwell.tcgen05.bfloat16",
        "bfloat16",
        "nvfp4",
        "none",
    ),
    "rtx-blackwell": ("rtx-blackwell.mma.bfloat16", "", "bfloat16", None, "none"),
    "rtx-blackwell-fp8": (
        "rtx-blackwell.mma.e4m3",
        "rtx-blackwell.mma.bfloat16",
        "bfloat16",
        None,
        "row",
    ),
    "cdna1": ("cdna1.mfma.bfloat16", "", "bfloat16", None, "none"),
    "cdna2": ("cdna2.mfma-1k.bfloat16", "", "bfloat16", None, "none"),
    "cdna3": ("cdna3.mfma.bfloat16", "", "bfloat16", None, "none"),
    "cdna3-fp8": ("cdna3.mfma.e4m3fnuz", "cdna3.mfma.bfloat16", "bfloat16", None, "row"),
    "intel-amx": ("intel.amx.bfloat16", "", "bfloat16", None, "none"),
    "arm-bfmmla": ("arm.bfmmla.bfloat16", "", "bfloat16", None, "none"),
    # The same operands with sequential sums in float32.
    "fp8-e4m3": ("float32", "float32", "bfloat16", "float8_e4m3fn", "row"),
    "mxfp8": ("float32", "float32", "bfloat16", "mxfp8_e4m3", "none"),
    "nvfp4": ("float32", "float32", "bfloat16", "nvfp4", "none"),
}


def names() -> list[str]:
    """The names of all presets; ``{mu}`` stands for 0 to 23.

    Returns
    -------
    list of str
    """
    return [*_UNIFORM, *_STORED, "ps{mu}", "scores-ps{mu}", "published-ps{mu}", *_UNITS]


def preset(name: str) -> Hardware:
    """The machine that a name stands for.

    Parameters
    ----------
    name : str
        One of :func:`names`, with a number for mu, or several in the form ``NAME@WHERE=NAME``.

    Returns
    -------
    Hardware

    Raises
    ------
    ValueError
        If the name is unknown; the message lists similar ones.
    """
    if "@" in name:
        return _combined(name)
    if name in _UNIFORM:
        return _uniform(name, _UNIFORM[name])
    if name in _STORED:
        stored = _STORED[name]
        return _machine(name, stored, {}, Product("float32", stored, stored))
    if match := _PS.fullmatch(name):
        return _stored_bits(name, match[1], match[2])
    if name in _UNITS:
        return _on_units(name)
    known = [each.format(mu=mu) for each in names() for mu in ((4, 7) if "{" in each else (0,))]
    part = devices.architecture(name.lower().replace("{mu}", ""))
    inside = [each for each in known if part and part in each]
    near = inside[:_MOST_HINTS] or difflib.get_close_matches(name[:_LONGEST], known, 4, 0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"expected {', '.join(names())}"
    raise ValueError(f"unknown hardware {name[:_LONGEST]!r}: {hint}")


def _combined(name: str) -> Hardware:
    """A machine with layers or steps of others: ``NAME@WHERE=NAME``."""
    first, *parts = name.split("@")
    machine = preset(first)
    for part in parts:
        where, _, other = part.partition("=")
        if not where or not other:
            raise ValueError(
                f"unknown hardware {name[:_LONGEST]!r}: {part[:_LONGEST]!r} is not WHERE=NAME, "
                "such as 0,-1=bf16, scores=ps4 or 2-3.scores,values=ps4"
            )
        try:
            machine = _with_part(machine, where, preset(other))
        except ValueError as error:
            raise ValueError(f"{name[:_LONGEST]!r}: {error}") from error
    return replace(machine, name=name)


def _with_part(machine: Hardware, where: str, other: Hardware) -> Hardware:
    """A machine with the layers, the steps, or the steps of layers of another."""
    if where[0] not in "-0123456789":
        return replace(machine, **_chosen(where, other, ("weights", *STEPS, "attention")))
    layers, _, steps = where.partition(".")
    return machine.with_layers(
        {layers: _chosen(steps, other, LAYER_FIELDS) if steps else other}, machine.name
    )


def _chosen(steps: str, machine: Hardware, known: tuple[str, ...]) -> dict[str, Any]:
    """The steps of a machine that a text lists."""
    chosen = steps.split(",")
    for name in chosen:
        if name not in known:
            raise ValueError(f"unknown step {name!r}: expected {', '.join(known)}")
    return {name: getattr(machine, name) for name in chosen}


def _stored_bits(name: str, place: str, digits: str) -> Hardware:
    """PS(mu): every product, or the scores alone, rounded once or as the authors' code does."""
    if len(digits) > 2 or int(digits) > _MOST_STORED_BITS:
        raise ValueError(
            f"unknown hardware {name[:_LONGEST]!r}: {place}ps has 0 to {_MOST_STORED_BITS} stored "
            f"significand bits, such as {place}ps4"
        )
    format = f"e8m{int(digits)}"
    if not place:
        return _machine(name, "float32", {}, Product(format))
    if place == "scores-":
        return Hardware(name, scores=Product(format))
    # Products and sums in float32, every sum rounded again.
    twice = Sequential(format, product="float32", via="float32")
    return Hardware(name, scores=Product(twice, output=format))


def _uniform(name: str, format: str) -> Hardware:
    product = Product(format)
    return _machine(name, format, {"recomputed": product}, product)


def _on_units(name: str) -> Hardware:
    linear, attention, stored, operands, scaling = _UNITS[name]
    saturating = operands is not None or scaling != "none"
    rounding = _SATURATING if saturating else "rne"
    unit = linear if linear == "float32" else devices.get(linear)
    weights = Product(unit, operands, stored, rounding, scaling)
    if not attention:
        return _machine(name, stored, {}, weights)
    unit = attention if attention == "float32" else devices.get(attention)
    plain = Product(unit, stored, stored)
    return _machine(name, stored, dict.fromkeys(_ATTENTION, plain), weights)


def _machine(name: str, stored: str, steps: dict[str, Any], product: Product) -> Hardware:
    """A machine with one storage format and one kind of product, but for the given steps."""
    common: dict[type, Any] = {Product: product, Function: Function(stored), Sum: Sum(stored)}
    chosen = {step: common[kind] for step, kind in STEPS.items() if step != "recomputed"}
    return Hardware(name, stored, **{**chosen, **steps})
