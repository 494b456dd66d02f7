"""Matrix units of real machines as data: :func:`get` gives the accumulator of one by name.

A name is ``architecture.instruction.input``, with ``.float16`` behind it for a float16 result where
the unit has both; block-scaled units have the format of the scales and the length of a block behind
the input.  The instruction matters, not the machine alone: fp8 through ``mma`` on Hopper
sums differently from fp8 through ``wgmma``.  A long inner product chains instructions: the output
of one is the accumulator of the next.

References
----------
[MMA-Sim] Xie, Wang, Yang, Yang, "MMA-Sim: Bit-Accurate Reference Model of Tensor Cores and Matrix
Cores", arXiv 2511.10909.
[Fasi] M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh, "Numerical behavior of NVIDIA tensor cores",
PeerJ Comput. Sci. 7, 2021.
[Khattak] F. A. Khattak, M. Mikaitis, "Accurate Models of NVIDIA Tensor Cores", arXiv 2512.07004.
[DeepSeek] "DeepSeek-V3 technical report", arXiv 2412.19437, section 3.3.2.
[Arm] Arm Architecture Reference Manual, BFDOT and BFMMLA, FPCR.EBF = 0.
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

from fpemu import formats
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

__all__ = ["Device", "entries", "get", "list"]


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
        """The format of a and b."""
        return str(self.accumulator.input_formats[0] or self.accumulator.format)


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
_FP8: Final = ("e4m3", "e5m2")
_FP8_FP6_FP4: Final = ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1")
_HALF: Final = ("float16", "bfloat16")

# The least exponent that terms are aligned to, for float32 and for float16 results [Khattak];
# Turing's is not known and taken to be Ampere's.
_FLOORS: Final = {
    "volta": (None, -19),
    "turing": (-132, -20),
    "ampere": (-132, -20),
    "ada": (-132, -20),
    "hopper": (-133, -21),
    "blackwell": (-133, -21),
    "rtx-blackwell": (-133, -21),
}

# architecture, instruction, inputs, products in a fused addition, fraction bits, wide output.
# A k = 16 instruction of Ampere is two chained additions of 8 products, and so on.
_TENSOR_CORES: Final = (
    ("volta", "mma", ("float16",), 4, 23, "float32"),
    ("turing", "mma", ("float16",), 8, 24, "float32"),
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
    ("rtx-blackwell", "mma", _HALF, 16, 25, "float32"),
    ("rtx-blackwell", "mma", ("tf32",), 8, 25, "float32"),
    ("rtx-blackwell", "mma", _FP8_FP6_FP4, 32, 25, "float32"),
)
_NVIDIA_SOURCE: Final = "MMA-Sim; Khattak"
_NVIDIA_SOURCES: Final = {"volta": "Fasi; MMA-Sim; Khattak", "turing": "Fasi; MMA-Sim"}


def _tensor_core(
    architecture: str, inputs: str, block: int, fraction_bits: int, output: str
) -> TensorCore:
    narrow = output == "float16"
    return TensorCore(
        block,
        fraction_bits,
        output,
        "rne" if narrow else "rtz",
        exponent_floor=_FLOORS[architecture][int(narrow)],
        inputs=_INPUTS[inputs],
        initial="float32" if output == "e8m13" else output,  # whose lowest bits it may use
        convert="rtz" if inputs == "tf32" else None,
    )


def _tensor_cores() -> Iterator[Device]:
    for architecture, instruction, inputs, block, fraction_bits, wide in _TENSOR_CORES:
        source = _NVIDIA_SOURCES.get(architecture, _NVIDIA_SOURCE)
        for name in inputs:
            prefix = f"{architecture}.{instruction}.{name}"
            core = _tensor_core(architecture, name, block, fraction_bits, wide)
            yield Device(prefix, core, source)
            if name not in ("bfloat16", "tf32"):
                core = _tensor_core(architecture, name, block, fraction_bits, "float16")
                yield Device(f"{prefix}.float16", core, source)


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
                    inputs=_INPUTS[name],
                    order=order,
                )
                suffix = ".float16" if narrow else ""
                yield Device(
                    f"{architecture}.mma.{name}{suffix}", Promoted(core, output, 32), "Khattak"
                )


def _block_scaled() -> Iterator[Device]:
    """mxf8f6f4 adds scale exponents; mxf4nvf4 scales exact sums of 16 products."""
    for architecture, instruction in (("blackwell", "tcgen05"), ("rtx-blackwell", "mma")):
        floor = _FLOORS[architecture][0]
        for name in _FP8_FP6_FP4:
            core = TensorCore(32, 25, exponent_floor=floor, inputs=_INPUTS[name])
            unit = ScaledCore(core, formats.format(_SCALES["e8m0"]), 32)
            yield Device(
                f"{architecture}.{instruction}-mxf8f6f4.{name}-e8m0-32", unit, _NVIDIA_SOURCE
            )
        core = TensorCore(64, 35, exponent_floor=floor, inputs=_INPUTS["e2m1"], group=16)
        for scale, format in _SCALES.items():
            for block in (16, 32):
                unit = ScaledCore(core, formats.format(format), block)
                yield Device(
                    f"{architecture}.{instruction}-mxf4nvf4.e2m1-{scale}-{block}", unit, "MMA-Sim"
                )


def _promoted() -> Iterator[Device]:
    """What DeepSeek-V3 makes of Hopper's fp8."""
    for name in _FP8:
        core = _tensor_core("hopper", name, 32, 13, "e8m13")
        yield Device(f"hopper.wgmma-promoted.{name}", Promoted(core, "float32", 128), "DeepSeek")


def _fma_chains() -> Iterator[Device]:
    """One IEEE fma after the other."""
    for architecture in ("ampere", "ada", "hopper", "blackwell", "rtx-blackwell"):
        yield Device(f"{architecture}.mma.float64", Sequential("float64"), "MMA-Sim")
    for architecture in ("cdna1", "cdna2", "cdna3"):
        for name in ("float64", "float32"):
            chain = Sequential(name, inputs=name)
            yield Device(f"{architecture}.mfma.{name}", chain, "MMA-Sim")


def _amd() -> Iterator[Device]:
    for suffix, name, group in (("", "float16", 4), ("", "bfloat16", 2), ("-1k", "bfloat16", 4)):
        exact = Exact("float32", block=group, inputs=name)
        tree = Pairwise("float32", fused=False, block=group, inputs=name)
        flushed = Pairwise("float32", fused=False, block=group, inputs=name, flush="positive")
        yield Device(f"cdna1.mfma{suffix}.{name}", exact, "Khattak")
        yield Device(f"cdna1.mfma-pairwise{suffix}.{name}", tree, "MMA-Sim")
        yield Device(f"cdna2.mfma{suffix}.{name}", flushed, "MMA-Sim")
    for name, group in (("float16", 8), ("bfloat16", 8), ("tf32", 4)):
        core = FlooredCore(group, name, convert="rtz" if name == "tf32" else None)
        yield Device(f"cdna3.mfma.{name}", core, "MMA-Sim")
    for name in ("e4m3fnuz", "e5m2fnuz"):
        core = FlooredCore(16, _INPUTS[name], halves=True, reach=25)
        yield Device(f"cdna3.mfma.{name}", core, "MMA-Sim")


def _amx(inputs: str, block: int, chains: int) -> Chained:
    """One tile of AMX: the chains start at zero, the accumulator is added at the end."""
    return Chained(block, inputs, chains, convert="rtz" if inputs == "tf32" else None)


def _processors() -> Iterator[Device]:
    """Chains of multiply-adds; pairs of products, which Arm rounds to odd, and to infinity."""
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
    for name in ("arm.bfdot", "arm.bfmmla"):
        yield Device(f"{name}.bfloat16", odd, "Arm")


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
        near = difflib.get_close_matches(str(name), _DEVICES, 5, 0.4)
        hint = f": did you mean {', '.join(near)}?" if near else ", see fpemu.devices.list()"
        raise ValueError(f"unknown unit {name!r}{hint}")
    return _DEVICES[name].accumulator
