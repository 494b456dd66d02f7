"""MMA-Sim (PyPI: mmasim), the model of matrix units by Xie, Wang, Yang and Yang, as an oracle.

Importing mmasim compiles a few lines of C++ once for a user, which takes a second or two and a
compiler: :func:`missing` says why it cannot be had.  It is slow, so operands come in rows.

References
----------
Xie, Wang, Yang, Yang, "MMA-Sim: Bit-Accurate Reference Model of Tensor Cores and Matrix Cores",
arXiv 2511.10909, version 2.
"""

import functools
import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fpemu

_ARCHITECTURES = {
    "volta": "Volta",
    "turing": "Turing",
    "ampere": "Ampere",
    "ada": "Ada Lovelace",
    "hopper": "Hopper",
    "blackwell": "Blackwell",
    "rtx-blackwell": "RTX Blackwell",
}
_PTX = {"float64": "f64", "float16": "f16", "bfloat16": "bf16"}  # others have our names
_FP8 = ("e4m3", "e5m2")
_SMALL = (*_FP8, "e3m2", "e2m3", "e2m1")
_TORCH = {
    "f64": "float64",
    "f32": "float32",
    "tf32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "e4m3": "float8_e4m3fn",
    "e5m2": "float8_e5m2",
    "e4m3fnuz": "float8_e4m3fnuz",
    "e5m2fnuz": "float8_e5m2fnuz",
    "e8m0": "float8_e8m0fnu",
    "ue4m3": "float8_e4m3fn",
}  # fp6 and fp4 operands, which torch does not have, are float16 numbers


class Instruction(NamedTuple):
    """A unit of ours by the names of MMA-Sim."""

    module: str
    kind: str  # a class of the module
    architecture: str
    shape: str
    length: int  # products
    inputs: tuple[str, str]
    output: str
    scale: str = ""  # of block-scaled instructions
    block: int = 0


@functools.cache
def missing() -> str | None:
    """Why MMA-Sim cannot be had, or None if it can."""
    try:
        importlib.import_module("mmasim.nv_ptx")
        importlib.import_module("mmasim.amd")
    except Exception as error:
        # It may not be installed, or its extension not be compiled.
        return f"no mmasim: {type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def _rows(
    architecture: str, instruction: str, lengths: dict[str, int], shape: str, *outputs: str
) -> Iterator[tuple[str, Instruction]]:
    """Instructions of equal operands, whose shape is written with `k`, `d` and `a`."""
    for name, length in lengths.items():
        a = _PTX.get(name, name)
        for d in outputs if name not in ("bfloat16", "tf32") else outputs[:1]:
            suffix = ".float16" if d == "f16" else ""
            unit = f"{architecture}.{instruction}.{name}{suffix}"
            kind = {"wgmma": "WGMMA", "tcgen05": "TCGen05MMA"}.get(instruction, "MMA")
            yield (
                unit,
                Instruction(
                    "nv_ptx",
                    kind,
                    _ARCHITECTURES[architecture],
                    shape.format(k=length, d=d, a=a, b=a, f="tf32" if a == "tf32" else "f16"),
                    length,
                    (a, a),
                    d,
                ),
            )


def _small(
    architecture: str, instruction: str, kind: str, shape: str, names: tuple[str, ...], k: int
) -> Iterator[tuple[str, Instruction]]:
    """Instructions of fp8, fp6 and fp4 operands, also of different ones."""
    for a in names:
        for b in names:
            for d in ("f32", "f16"):
                inputs = a if a == b else f"{a}-{b}"
                unit = f"{architecture}.{instruction}.{inputs}{'.float16' if d == 'f16' else ''}"
                written = shape.format(k=k, d=d, a=a, b=b)
                names_of = _ARCHITECTURES[architecture]
                yield unit, Instruction("nv_ptx", kind, names_of, written, k, (a, b), d)


def _nvidia() -> Iterator[tuple[str, Instruction]]:
    wide, both = ("f32",), ("f32", "f16")
    yield from _rows("volta", "mma", {"float16": 4}, "m8n8k{k}.{d}.{a}.{a}.{d}", *both)
    yield from _rows("turing", "mma-k4", {"float16": 4}, "m8n8k{k}.{d}.{a}.{a}.{d}", *both)
    mma = "m16n8k{k}.{d}.{a}.{a}.{d}"
    yield from _rows("turing", "mma", {"float16": 8}, mma, *both)
    for name in ("ampere", "ada", "hopper", "blackwell", "rtx-blackwell"):
        yield from _rows(name, "mma", {"float16": 16, "bfloat16": 16, "tf32": 8}, mma, *both)
        yield from _rows(name, "mma", {"float64": 4}, "m8n8k{k}.{d}.{a}.{a}.{d}", "f64")
    for name in ("hopper", "blackwell", "rtx-blackwell"):
        yield from _rows(name, "mma-k8", {"float16": 8, "bfloat16": 8}, mma, *both)
        yield from _rows(name, "mma-k4", {"tf32": 4}, mma, *wide)
    wgmma = {"float16": 16, "bfloat16": 16, "tf32": 8}
    yield from _rows("hopper", "wgmma", wgmma, "m64n8k{k}.{d}.{a}.{a}", *both)
    tcgen05 = "m64n8k{k}.kind::{f}.{d}.{a}.{a}"
    yield from _rows("blackwell", "tcgen05", wgmma, tcgen05, *both)
    fp8 = "m16n8k{k}.{d}.{a}.{b}.{d}"
    yield from _small("ada", "mma", "MMA", fp8, _FP8, 32)
    yield from _small("rtx-blackwell", "mma-k16", "MMA", fp8, _FP8, 16)
    yield from _small("hopper", "wgmma", "WGMMA", "m64n8k{k}.{d}.{a}.{b}", _FP8, 32)
    small = "kind::f8f6f4.{d}.{a}.{b}"
    yield from _small("blackwell", "tcgen05", "TCGen05MMA", "m64n8k{k}." + small, _SMALL, 32)
    yield from _small("rtx-blackwell", "mma", "MMA", "m16n8k{k}." + small + ".{d}", _SMALL, 32)


def _block_scaled() -> Iterator[tuple[str, Instruction]]:
    for prefix, kind, architecture, shape, c in (
        ("blackwell.tcgen05", "TCGen05MMABlockScale", "Blackwell", "m128n8", ""),
        ("rtx-blackwell.mma", "MMABlockScale", "RTX Blackwell", "m16n8", ".f32"),
    ):
        facts = "nv_ptx", kind, architecture
        for a in _SMALL:
            for b in _SMALL:
                written = f"{shape}k32.kind::mxf8f6f4.block32.f32.{a}.{b}{c}.ue8m0"
                inputs = a if a == b else f"{a}-{b}"
                unit = f"{prefix}-mxf8f6f4.{inputs}-e8m0-32"
                yield unit, Instruction(*facts, written, 32, (a, b), "f32", "e8m0", 32)
        for scale, named, block in (("e8m0", "ue8m0", 16), ("e8m0", "ue8m0", 32),
                                    ("ue4m3", "ue4m3", 16)):  # fmt: skip
            written = f"{shape}k64.kind::mxf4nvf4.block{block}.f32.e2m1.e2m1{c}.{named}"
            unit = f"{prefix}-mxf4nvf4.e2m1-{scale}-{block}"
            yield unit, Instruction(*facts, written, 64, ("e2m1", "e2m1"), "f32", scale, block)


def _amd() -> Iterator[tuple[str, Instruction]]:
    for architecture, instruction, name, written, length in (
        ("cdna1", "mfma", "float32", "f32_16x16x4f32", 4),
        ("cdna1", "mfma", "float16", "f32_16x16x16f16", 16),
        ("cdna1", "mfma", "bfloat16", "f32_16x16x8bf16", 8),
        ("cdna2", "mfma", "float64", "f64_16x16x4f64", 4),
        ("cdna2", "mfma", "float32", "f32_16x16x4f32", 4),
        ("cdna2", "mfma", "float16", "f32_16x16x16f16", 16),
        ("cdna2", "mfma", "bfloat16", "f32_16x16x8bf16", 8),
        ("cdna2", "mfma-1k", "bfloat16", "f32_16x16x16bf16_1k", 16),
        ("cdna3", "mfma", "float64", "f64_16x16x4_f64", 4),
        ("cdna3", "mfma", "float32", "f32_16x16x4_f32", 4),
        ("cdna3", "mfma", "float16", "f32_16x16x16_f16", 16),
        ("cdna3", "mfma", "bfloat16", "f32_16x16x16_bf16", 16),
        ("cdna3", "mfma-k4", "float16", "f32_16x16x4_4b_f16", 4),
        ("cdna3", "mfma-k4", "bfloat16", "f32_16x16x4_4b_bf16", 4),
        ("cdna3", "mfma", "tf32", "f32_16x16x8_xf32", 8),
    ):
        inputs = {"float32": "f32", "tf32": "tf32"}.get(name) or _PTX[name]
        output = "f64" if name == "float64" else "f32"
        facts = "amd", "MFMA", architecture.upper(), written, length
        yield f"{architecture}.{instruction}.{name}", Instruction(*facts, (inputs, inputs), output)
    for a, a_name in (("fp8", "e4m3fnuz"), ("bf8", "e5m2fnuz")):
        for b, b_name in (("fp8", "e4m3fnuz"), ("bf8", "e5m2fnuz")):
            inputs = a_name if a == b else f"{a_name}-{b_name}"
            written = f"f32_16x16x32_{a}_{b}"
            facts = "amd", "MFMA", "CDNA3", written, 32
            yield f"cdna3.mfma.{inputs}", Instruction(*facts, (a_name, b_name), "f32")


INSTRUCTIONS = dict([*_nvidia(), *_block_scaled(), *_amd()])
"""What MMA-Sim has, by our names of units."""


@functools.cache
def _operation(name: str) -> Any:
    found = INSTRUCTIONS[name]
    module = importlib.import_module(f"mmasim.{found.module}")
    return getattr(module, found.kind)(found.architecture, found.shape)


def _tensor(x: NDArray, name: str) -> Any:
    """Members of a format as a tensor."""
    torch = importlib.import_module("torch")
    kind = getattr(torch, _TORCH.get(name, "float16"))
    if kind.itemsize == 1:
        codes = fpemu.encode(np.asarray(x), _TORCH[name]).astype(np.uint8)
        return torch.from_numpy(codes).view(kind)
    if name == "f64":
        return torch.from_numpy(np.array(x, np.float64))
    return torch.from_numpy(np.array(x, np.float32)).to(kind)


def results(
    name: str,
    a: NDArray,
    b: NDArray,
    c: NDArray,
    scales: tuple[NDArray, NDArray] | None = None,
) -> NDArray[np.float64]:
    """``c + sum a*b`` of every row.

    Parameters
    ----------
    name : str
        One of `INSTRUCTIONS`.
    a, b : ndarray, shape (n, k)
        Members of the input formats; filled up with zeros to whole instructions.
    c : ndarray, shape (n,)
        Members of the format of the result.
    scales : pair of ndarray, shape (n, ceil(k / block)), optional
        Those of block-scaled operands; filled up with ones.
    """
    found = INSTRUCTIONS[name]
    missing_terms = -a.shape[1] % found.length
    a, b = (np.pad(x, ((0, 0), (0, missing_terms))) for x in (a, b))
    left, right = (_tensor(x, kind) for x, kind in zip((a, b), found.inputs, strict=True))
    total = _tensor(c, found.output)
    operation = _operation(name)
    if scales is not None:
        blocks = a.shape[1] // found.block
        scales = tuple(
            np.pad(x, ((0, 0), (0, blocks - x.shape[1])), constant_values=1.0) for x in scales
        )
        alpha, beta = (_tensor(x, found.scale) for x in scales)
    with np.errstate(all="ignore"):
        for start in range(0, a.shape[1], found.length):
            piece = slice(start, start + found.length)
            given = left[:, piece], right[:, piece], total
            if scales is not None:
                block = slice(start // found.block, (start + found.length) // found.block)
                given = (*given, alpha[:, block], beta[:, block])
            total = operation.dpa(*given)
    return total.double().numpy()
