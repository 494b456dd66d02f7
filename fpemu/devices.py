"""Matrix units of real machines as data: :func:`get` gives the accumulator of one by name.

A name is ``architecture.instruction.input``, with ``.float16`` behind it for a float16 result where
the unit has both.  Operands of two formats are named ``e4m3-e2m1``, that of a first; block-scaled
units have the format of the scales and the length of a block behind the input.  In these names
``e4m3`` is the format that the machine has, float8_e4m3fn, of which the operands have to be.

The instruction matters, not the machine alone: fp8 through ``mma`` on Hopper sums differently from
fp8 through ``wgmma``; ``-k8`` is an instruction of eight products where that matters.  A long inner
product chains instructions: the output of one is the accumulator of the next.

References
----------
[MMA-Sim] Xie, Wang, Yang, Yang, "MMA-Sim: Bit-Accurate Reference Model of Tensor Cores and Matrix
Cores", arXiv 2511.10909, version 2; package mmasim, 2.1.1.

[Fasi] M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh, "Numerical behavior of NVIDIA tensor cores",
PeerJ Comput. Sci. 7, 2021.

[Khattak] F. A. Khattak, M. Mikaitis, "Accurate Models of NVIDIA Tensor Cores", arXiv 2512.07004,
ACM Trans. Archit. Code Optim., doi 10.1145/3830409.

[DeepSeek] "DeepSeek-V3 technical report", arXiv 2412.19437, section 3.3.2.

[Arm] Arm Architecture Reference Manual for A-profile, BFDOT and BFMMLA with FPCR.EBF = 0 and 1
(``-ebf``), FDOT of 8-bit numbers with FPMR.LSCALE = 0; otherwise FPCR = 0.

[Intel] Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, VDPBF16PS,
TDPBF16PS, TDPFP16PS; Architecture Instruction Set Extensions Programming Reference, TMMULTF32PS.

[silicon] Processors on which the instruction was called and agreed, see the documentation.
"""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from fpemu import _html, formats
from fpemu.accumulators import (
    Accumulator,
    Chained,
    Exact,
    FlooredCore,
    Pairwise,
    Promoted,
    ScaledCore,
    Sequential,
    TensorCore,
)
from fpemu.rounding import Rounding

__all__ = ["Device", "architecture", "entries", "get", "list", "matching"]

# Products by which people know an architecture.
_PRODUCTS: Final = {
    "v100": "volta",
    "t4": "turing",
    "a100": "ampere",
    "a2": "ampere",
    "l4": "ada",
    "l40s": "ada",
    "h100": "hopper",
    "h200": "hopper",
    "b200": "blackwell",
    "mi100": "cdna1",
    "mi210": "cdna2",
    "mi250x": "cdna2",
    "mi300x": "cdna3",
}
_MOST_HINTS: Final = 8


@dataclass(frozen=True)
class Device:
    """A matrix unit.

    Parameters
    ----------
    name : str
        What :func:`get` knows it by.
    accumulator : Accumulator
        How it forms an inner product.
    source : str
        Where its behaviour is described, as listed in this module's docstring.
    """

    name: str
    accumulator: Accumulator | ScaledCore
    source: str

    @property
    def inputs(self) -> str:
        """The format of a and b, or their formats if they differ."""
        own = self.accumulator.format
        return " and ".join(dict.fromkeys(str(x or own) for x in self.accumulator.input_formats))

    def _repr_html_(self) -> str:
        rows = (("inputs", self.inputs), ("sums", self.accumulator), ("source", self.source))
        return _html.facts(self.name, rows)


_INPUTS: Final = {
    "float64": "float64",
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "tf32": "tf32",
    "e5m2": "float8_e5m2",
    "e4m3": "float8_e4m3fn",
    "e5m2fnuz": "float8_e5m2fnuz",
    "e4m3fnuz": "float8_e4m3fnuz",
    "e3m2": "float6_e3m2fn",
    "e2m3": "float6_e2m3fn",
    "e2m1": "float4_e2m1fn",
}
_SCALES: Final = {"e8m0": "float8_e8m0fnu", "ue4m3": "float8_e4m3fn"}  # the latter's positive half
_HALF: Final = ("float16", "bfloat16")


def _pairs(*names: str) -> tuple[str, ...]:
    """The names, and those of pairs of different ones: that of a, a hyphen, that of b."""
    return (*names, *(f"{a}-{b}" for a in names for b in names if a != b))


_FP8: Final = _pairs("e4m3", "e5m2")
_FP8_FP6_FP4: Final = _pairs("e4m3", "e5m2", "e3m2", "e2m3", "e2m1")

# The least exponent that terms are aligned to, for float32 and for float16 results.
_FLOORS: Final = {
    "volta": (-131, -19),
    "turing.mma-k4": (-131, -19),
    "turing": (-132, -20),
    "ampere": (-132, -20),
    "ada": (-132, -20),
    "hopper": (-133, -21),
    "blackwell": (-133, -21),
    "rtx-blackwell": (-133, -21),
}
_GROUPED_FLOOR: Final = -139  # of mxf4nvf4

# architecture, instruction, inputs, products in a fused addition, fraction bits, wide output.
# A k = 16 instruction of Ampere is two chained additions of 8 products, and so on.
_TENSOR_CORES: Final = (
    ("volta", "mma", ("float16",), 4, 23, "float32"),
    ("turing", "mma", ("float16",), 8, 24, "float32"),
    ("turing", "mma-k4", ("float16",), 4, 23, "float32"),
    ("ampere", "mma", _HALF, 8, 24, "float32"),
    ("ampere", "mma", ("tf32",), 4, 24, "float32"),
    ("ada", "mma", _HALF, 8, 24, "float32"),
    ("ada", "mma", ("tf32",), 4, 24, "float32"),
    ("ada", "mma", _FP8, 16, 13, "e8m13"),
    ("hopper", "wgmma", _HALF, 16, 25, "float32"),
    ("hopper", "wgmma", ("tf32",), 8, 25, "float32"),
    ("hopper", "wgmma", _FP8, 32, 13, "e8m13"),
    ("hopper", "mma", _HALF, 16, 25, "float32"),
    ("hopper", "mma-k8", _HALF, 8, 25, "float32"),
    ("hopper", "mma", ("tf32",), 8, 25, "float32"),
    ("hopper", "mma-k4", ("tf32",), 4, 25, "float32"),
    ("blackwell", "tcgen05", _HALF, 16, 25, "float32"),
    ("blackwell", "tcgen05", ("tf32",), 8, 25, "float32"),
    ("blackwell", "tcgen05", _FP8_FP6_FP4, 32, 25, "float32"),
    ("blackwell", "mma", _HALF, 16, 25, "float32"),
    ("blackwell", "mma-k8", _HALF, 8, 25, "float32"),
    ("blackwell", "mma", ("tf32",), 8, 25, "float32"),
    ("blackwell", "mma-k4", ("tf32",), 4, 25, "float32"),
    ("rtx-blackwell", "mma", _HALF, 16, 25, "float32"),
    ("rtx-blackwell", "mma-k8", _HALF, 8, 25, "float32"),
    ("rtx-blackwell", "mma", ("tf32",), 8, 25, "float32"),
    ("rtx-blackwell", "mma-k4", ("tf32",), 4, 25, "float32"),
    ("rtx-blackwell", "mma", _FP8_FP6_FP4, 32, 25, "float32"),
    ("rtx-blackwell", "mma-k16", _FP8, 16, 25, "float32"),
)
# Instructions that Khattak and Mikaitis have recorded, each for inputs of one format.
_RECORDED: Final = ("volta.mma", "ampere.mma", "ada.mma", "hopper.wgmma", "blackwell.tcgen05")
_RECORDED_INPUTS: Final = ("float16", "bfloat16", "tf32", "e4m3", "e5m2")
_PROBED: Final = {"volta": "Fasi; ", "turing": "Fasi; "}


def _inputs(name: str) -> tuple[str, str]:
    """The formats of a and b."""
    a, _, b = name.partition("-")
    return _INPUTS[a], _INPUTS[b or a]


def _source(architecture: str, instruction: str, name: str) -> str:
    """Where a tensor core is described."""
    recorded = f"{architecture}.{instruction}" in _RECORDED and name in _RECORDED_INPUTS
    return _PROBED.get(architecture, "") + ("MMA-Sim; Khattak" if recorded else "MMA-Sim")


def _tensor_core(
    architecture: str, instruction: str, inputs: str, block: int, fraction_bits: int, output: str
) -> TensorCore:
    narrow = output == "float16"
    floors = _FLOORS.get(f"{architecture}.{instruction}", _FLOORS[architecture])
    return TensorCore(
        block,
        fraction_bits,
        output,
        "rne" if narrow else "rtz",
        exponent_floor=floors[int(narrow)],
        inputs=_inputs(inputs),
        initial="float32" if output == "e8m13" else output,  # whose lowest bits it may use
        convert="rtz" if inputs == "tf32" else None,
    )


def _tensor_cores() -> Iterator[Device]:
    for architecture, instruction, inputs, block, fraction_bits, wide in _TENSOR_CORES:
        for name in inputs:
            prefix = f"{architecture}.{instruction}.{name}"
            source = _source(architecture, instruction, name)
            facts = architecture, instruction, name, block, fraction_bits
            yield Device(prefix, _tensor_core(*facts, wide), source)
            if name not in ("bfloat16", "tf32"):
                yield Device(f"{prefix}.float16", _tensor_core(*facts, "float16"), source)


def _fp8_by_mma() -> Iterator[Device]:
    """Two fused additions of 16 products, those with an even ``i // 2`` first; c added apart."""
    order = tuple(sorted(range(32), key=lambda i: i // 2 % 2))
    for architecture in ("hopper", "blackwell"):
        for name in _FP8:
            for output in ("float32", "float16"):
                narrow = output == "float16"
                core = TensorCore(
                    16,
                    25,
                    output,
                    "rne" if narrow else "rtz",
                    exponent_floor=_FLOORS[architecture][int(narrow)],
                    inputs=_inputs(name),
                    order=order,
                )
                suffix = ".float16" if narrow else ""
                yield Device(
                    f"{architecture}.mma.{name}{suffix}", Promoted(core, output, 32), "Khattak"
                )


def _block_scaled() -> Iterator[Device]:
    """mxf8f6f4 adds scale exponents; mxf4nvf4 scales exact sums of 16 products."""
    for architecture, instruction in (("blackwell", "tcgen05"), ("rtx-blackwell", "mma")):
        prefix = f"{architecture}.{instruction}"
        for name in _FP8_FP6_FP4:
            floor = _FLOORS[architecture][0]
            core = TensorCore(32, 25, exponent_floor=floor, inputs=_inputs(name))
            unit = ScaledCore(core, formats.format(_SCALES["e8m0"]), 32)
            yield Device(f"{prefix}-mxf8f6f4.{name}-e8m0-32", unit, "MMA-Sim")
        core = TensorCore(64, 35, exponent_floor=_GROUPED_FLOOR, inputs=_INPUTS["e2m1"], group=16)
        for scale, block in (("e8m0", 16), ("e8m0", 32), ("ue4m3", 16)):
            unit = ScaledCore(core, formats.format(_SCALES[scale]), block)
            yield Device(f"{prefix}-mxf4nvf4.e2m1-{scale}-{block}", unit, "MMA-Sim")


def _promoted() -> Iterator[Device]:
    """What DeepSeek-V3 makes of Hopper's fp8."""
    for name in ("e4m3", "e5m2"):
        core = _tensor_core("hopper", "wgmma", name, 32, 13, "e8m13")
        yield Device(f"hopper.wgmma-promoted.{name}", Promoted(core, "float32", 128), "DeepSeek")


def _fma_chains() -> Iterator[Device]:
    """One IEEE fma after the other."""
    for architecture in ("ampere", "ada", "hopper", "blackwell", "rtx-blackwell"):
        yield Device(f"{architecture}.mma.float64", Sequential("float64"), "MMA-Sim")
    for architecture, inputs in (
        ("cdna1", ("float32",)),
        ("cdna2", ("float64", "float32")),
        ("cdna3", ("float64", "float32")),
    ):
        for name in inputs:
            chain = Sequential(name, inputs=name)
            yield Device(f"{architecture}.mfma.{name}", chain, "MMA-Sim")


def _amd() -> Iterator[Device]:
    for name, group in (("float16", 4), ("bfloat16", 2)):
        exact = Exact("float32", block=group, inputs=name)
        yield Device(f"cdna1.mfma.{name}", exact, "MMA-Sim; Khattak")
    for suffix, name, group in (("", "float16", 4), ("", "bfloat16", 2), ("-1k", "bfloat16", 4)):
        flushed = Pairwise("float32", fused=False, block=group, inputs=name, flush="positive")
        yield Device(f"cdna2.mfma{suffix}.{name}", flushed, "MMA-Sim")
    for suffix, name, group in (
        ("", "float16", 8),
        ("", "bfloat16", 8),
        ("-k4", "float16", 4),
        ("-k4", "bfloat16", 4),
        ("", "tf32", 4),
    ):
        core = FlooredCore(group, name, convert="rtz" if name == "tf32" else None)
        yield Device(f"cdna3.mfma{suffix}.{name}", core, "MMA-Sim")
    for name in _pairs("e4m3fnuz", "e5m2fnuz"):
        core = FlooredCore(16, _inputs(name), halves=True, reach=25)
        yield Device(f"cdna3.mfma.{name}", core, "MMA-Sim")


def _amx(inputs: str, block: int, chains: int) -> Chained:
    """One tile of AMX: the chains start at zero, the accumulator is added at the end."""
    return Chained(block, inputs, chains, convert="rtz" if inputs == "tf32" else None)


def _processors() -> Iterator[Device]:
    """Chains of multiply-adds of Intel's; pairs and exact sums of a few products of Arm's.

    Arm rounds the products of a pair to odd, and to infinity; with FPCR.EBF = 1 it adds them
    exactly.
    """
    pair = Chained(2, "bfloat16", order=(1, 0), through=True)
    yield Device("intel.avx512.bfloat16", pair, "Intel; silicon")
    yield Device("intel.amx.bfloat16", _amx("bfloat16", 32, 2), "Intel; silicon")
    yield Device("intel.amx.float16", _amx("float16", 32, 2), "Intel")
    yield Device("intel.amx.tf32", _amx("tf32", 16, 1), "Intel")
    odd = Pairwise(
        "float32",
        Rounding("rto", "infinity"),
        fused=False,
        block=2,
        inputs="bfloat16",
        flush="signed",
    )
    fused = Pairwise("float32", block=2, inputs="bfloat16")
    for name in ("bfdot", "bfmmla"):
        yield Device(f"arm.{name}.bfloat16", odd, "Arm")
        yield Device(f"arm.{name}-ebf.bfloat16", fused, "Arm")
    for name in _FP8:
        for suffix, output, terms in (("", "float32", 4), (".float16", "float16", 2)):
            exact = Exact(output, block=terms, inputs=_inputs(name))
            yield Device(f"arm.fdot.{name}{suffix}", exact, "Arm")


_MAKERS: Final = (
    _tensor_cores,
    _fp8_by_mma,
    _block_scaled,
    _promoted,
    _fma_chains,
    _amd,
    _processors,
)
_DEVICES: Final = {device.name: device for maker in _MAKERS for device in maker()}


def entries() -> tuple[Device, ...]:
    """All units.

    Returns
    -------
    tuple of Device
    """
    return tuple(_DEVICES.values())


def list() -> builtins.list[str]:
    """The names of all units.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from fpemu import devices
    >>> [name for name in devices.list() if name.startswith("volta")]
    ['volta.mma.float16', 'volta.mma.float16.float16']
    """
    return [*_DEVICES]


def architecture(text: str) -> str:
    """The architecture that a text means: that of a product, or what the text itself says.

    Parameters
    ----------
    text : str
        Such as ``H100`` or ``hopper``; upper and lower case are alike.

    Returns
    -------
    str
        In lower case.

    Examples
    --------
    >>> from fpemu import devices
    >>> devices.architecture("H100"), devices.architecture("Hopper")
    ('hopper', 'hopper')
    """
    return _PRODUCTS.get(text.lower(), text.lower())


def matching(text: str) -> tuple[Device, ...]:
    """The units that a text may mean: a part of their names, or a product that has them.

    Parameters
    ----------
    text : str
        Such as ``wgmma``, ``hopper`` or ``H100``; upper and lower case are alike.

    Returns
    -------
    tuple of Device

    Examples
    --------
    >>> from fpemu import devices
    >>> [unit.name for unit in devices.matching("V100")]
    ['volta.mma.float16', 'volta.mma.float16.float16']
    """
    part = architecture(text)
    if part != text.lower():  # a product, and no part of other names
        return tuple(unit for unit in entries() if unit.name.startswith(f"{part}."))
    return tuple(unit for unit in entries() if part in unit.name)


def get(name: str) -> Any:
    """The accumulator of a unit, for :func:`fpemu.matmul` and :func:`fpemu.dot`.

    Parameters
    ----------
    name : str
        One of :func:`list`.

    Returns
    -------
    Accumulator or ScaledCore
        A ScaledCore, of a block-scaled unit, is for :func:`fpemu.scaling.matmul`.

    Raises
    ------
    ValueError
        If there is no such unit; lists near names.

    Examples
    --------
    Hopper keeps 14 bits of an fp8 product's sum:

    >>> import fpemu
    >>> unit = fpemu.devices.get("hopper.wgmma.e4m3")
    >>> fpemu.dot([1.0, 2.0**-9], [1.0, 2.0**-6], unit)
    np.float64(1.0)
    """
    if name not in _DEVICES:
        text = str(name)
        near = [unit.name for unit in matching(text)] if text else []
        near = near or difflib.get_close_matches(text, _DEVICES, 5, 0.4)
        more = ", ..." * (len(near) > _MOST_HINTS)
        hint = f": did you mean {', '.join(near[:_MOST_HINTS])}{more}?" if near else ""
        raise ValueError(f"unknown unit {name!r}{hint or ', see fpemu.devices.list()'}")
    return _DEVICES[name].accumulator
