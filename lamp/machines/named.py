"""Machines by name: simple precisions, the PS(mu) of the LAMP paper, and real matrix units.

References
----------
Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
arXiv 2601.21623, section 5, for PS(mu).  P. Micikevicius et al., "FP8 formats for deep learning",
arXiv 2209.05433; Open Compute Project, "Microscaling Formats (MX) Specification", 2023; NVIDIA,
"Pretraining large language models with NVFP4", arXiv 2509.25149, for which products are narrow.
"""

from __future__ import annotations

import difflib
import os
import re
from typing import Any, Final

from fpemu import Rounding, devices
from lamp.machines import files as machine_files
from lamp.machines.machine import STEPS, Function, Hardware, Product, Sum

__all__ = ["HardwareLike", "hardware", "names", "summary"]

HardwareLike = Hardware | str | os.PathLike[str]

_PS: Final = re.compile(r"(scores-)?ps(\d{1,2})")
_MOST_STORED_BITS: Final = 23
_ATTENTION: Final = ("scores", "values")
_SATURATING: Final = Rounding("rne", "saturate")

# name: unit of the weights' products, unit of attention, storage, operands, scaling of operands.
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
    # The same operands with plain sums in float32.
    "fp8-e4m3": ("float32", "float32", "bfloat16", "float8_e4m3fn", "row"),
    "mxfp8": ("float32", "float32", "bfloat16", "mxfp8_e4m3", "none"),
    "nvfp4": ("float32", "float32", "bfloat16", "nvfp4", "none"),
}


def names() -> list[str]:
    """The names of all machines; mu stands for 0 to 23.

    Returns
    -------
    list of str
    """
    return ["fp64", "fp32", "bf16", "fp16", "ps{mu}", "scores-ps{mu}", *_UNITS]


def summary(machine: Hardware, step: str) -> str:
    """Operands and sums of a product in a few words.

    Parameters
    ----------
    machine : Hardware
    step : str
        Which of its products.

    Returns
    -------
    str
    """
    product = getattr(machine, step)
    names = machine_files.unit_names(product.accumulator)
    # Several machines may have the same unit.
    own = [name for name in names if machine.name.startswith(name.split(".")[0])]
    sums = [*own, *names, f"{product.accumulator.format} sums"][0]
    return sums if product.operands is None else f"{product.operands}{product.scales}, {sums}"


def hardware(spec: HardwareLike) -> Hardware:
    """The machine that a name stands for.

    Parameters
    ----------
    spec : Hardware, str or path-like
        A Hardware (returned as it is), or a name:

        - ``"fp64"``, ``"fp32"``: all steps in that format, sums term after term.
        - ``"bf16"``, ``"fp16"``: every number between two steps in that format, sums in float32.
        - ``"ps{mu}"``: float32, but every product is summed with mu stored significand bits
          (0..23), the PS(mu) of the LAMP paper; ``"scores-ps{mu}"``: the scores alone, as there.
        - ``"fp8-e4m3"``, ``"mxfp8"``, ``"nvfp4"``: operands of the weights' products in 8 or 4
          bits, everything else in bfloat16, sums in float32.
        - a GPU, such as ``"hopper"`` or ``"hopper-fp8"``: the products on its matrix units, see
          :func:`lamp.machines.names`.
        - a file that ends in ``.toml``, see :mod:`lamp.machines.files`.

    Returns
    -------
    Hardware

    Raises
    ------
    ValueError
        If the name is unknown; lists near ones.  If a file says something impossible; says where.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import lamp
    >>> str(lamp.hardware("scores-ps4").scores.accumulator)
    'sequential(e8m4, rne)'
    >>> lamp.hardware("hopper-fp8").mlp_up.operands.name
    'float8_e4m3fn'
    """
    if isinstance(spec, Hardware):
        return spec
    if isinstance(spec, os.PathLike) or (isinstance(spec, str) and spec.endswith(".toml")):
        return machine_files.load(spec)
    if not isinstance(spec, str):
        raise TypeError(f"hardware must be a Hardware or a name, not {type(spec).__name__}")
    if spec in ("fp32", "fp64"):
        return _uniform(spec, {"fp32": "float32", "fp64": "float64"}[spec])
    if spec in ("bf16", "fp16"):
        stored = {"bf16": "bfloat16", "fp16": "float16"}[spec]
        return _machine(spec, stored, {}, Product("float32", stored, stored))
    if (match := _PS.fullmatch(spec)) and int(match[2]) <= _MOST_STORED_BITS:
        low = Product(f"e8m{int(match[2])}")
        if match[1]:
            return Hardware(spec, scores=low)
        return _machine(spec, "float32", {}, low)
    if spec in _UNITS:
        return _on_units(spec)
    known = names()
    near = difflib.get_close_matches(spec, known, 4, 0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"expected {', '.join(known)}"
    raise ValueError(f"unknown hardware {spec!r}: {hint}")


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
    """Numbers stored in one format; all products alike but those that are given."""
    common: dict[type, Any] = {Product: product, Function: Function(stored), Sum: Sum(stored)}
    chosen = {step: common[kind] for step, kind in STEPS.items() if step != "recomputed"}
    return Hardware(name, stored, **{**chosen, **steps})
