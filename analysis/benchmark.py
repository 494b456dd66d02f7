"""What the benchmarks share: fair timing, the peers' rounding, tables and result files.

A ratio is only ever formed between two times of the same run, taken in turns, so that another
process on the machine disturbs both.  Every peer works between containers of its own that are made
before the clock starts, and is compared with fpemu on a sample before it is timed.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu._kernels import launching

Carrier = NDArray[np.float32] | NDArray[np.float64]

NEVER_MEASURED: Final = {
    "CPFloat": "not on PyPI (a C library; pychop.builtin.CPFloat is another thing of that name)",
    "mptorch": "not on PyPI",
}
"""Peers of the design's tables that no requirement list can install."""


@dataclass(frozen=True)
class Rounder:
    """A peer's rounding into one format, between containers of its own.

    Parameters
    ----------
    format : Format
        What the peer really rounds into: the format asked for, or the IEEE-like one of its shape
        where the peer knows no other.
    prepare, apply, values : callable
        From a float32 array into the peer's container (not timed), the rounding (timed), and from
        its result back to an array (not timed).
    sums : str, optional
        The format in which results of the rounding and float32 products are added, where the
        containers take ``+`` and ``*`` and a matrix product can be formed step by step.
    """

    format: fpemu.Format
    prepare: Callable[[NDArray[np.float32]], Any]
    apply: Callable[[Any], Any]
    values: Callable[[Any], Carrier]
    sums: str | None = "float32"


def _itself(container: Any) -> Any:
    return container


def _ieee_shape(format: fpemu.Format) -> fpemu.Format:
    """The IEEE-like format with as many exponent and significand bits."""
    return fpemu.format(f"e{format.exponent_bits}m{format.precision - 1}")


def _common_name(format: fpemu.Format) -> str:
    """The ecosystem's name of a format, whatever name it came under."""
    known = {value: name for name, value in fpemu.formats.named_formats().items()}
    return known.get(format, format.name)


def _gfloat_rounder(format: fpemu.Format, mode: str) -> Rounder | None:
    import gfloat

    names = {
        "rne": "TiesToEven",
        "rna": "TiesToAway",
        "rtz": "TowardZero",
        "rtp": "TowardPositive",
        "rtn": "TowardNegative",
    }
    if mode not in names:
        return None
    target = gfloat.FormatInfo(
        format.name,
        format.bits,
        format.precision,
        bias=format.bias,
        is_signed=format.signed,
        domain=gfloat.Domain.Extended if format.infinities else gfloat.Domain.Finite,
        has_nz=format.negative_zero,
        num_high_nans=format.high_nans,
        has_subnormals=format.subnormals,
        is_twos_complement=False,
    )
    direction = gfloat.RoundMode[names[mode]]

    def apply(x: Carrier) -> Any:
        return gfloat.round_ndarray(target, x, direction)  # float64, whatever x is

    return Rounder(format, _itself, apply, _itself, sums="float64")


def _pychop(format: fpemu.Format, mode: str) -> tuple[fpemu.Format, Any]:
    import pychop

    modes = {"rne": 1, "rtp": 2, "rtn": 3, "rtz": 4, "sr": 5, "rnz": 7, "rna": 8, "rto": 9}
    shape = _ieee_shape(format)
    return shape, pychop.Chop(shape.exponent_bits, shape.precision - 1, rmode=modes[mode])


def _pychop_numpy_rounder(format: fpemu.Format, mode: str) -> Rounder | None:
    shape, chop = _pychop(format, mode)
    return Rounder(shape, _itself, chop, _itself)


def _pychop_torch_rounder(format: fpemu.Format, mode: str) -> Rounder | None:
    import torch

    shape, chop = _pychop(format, mode)
    return Rounder(shape, torch.from_numpy, chop, lambda x: x.numpy())


def _apytypes_rounder(format: fpemu.Format, mode: str) -> Rounder | None:
    import apytypes

    names = {
        "rne": "TIES_EVEN",
        "rna": "TIES_AWAY",
        "rnz": "TIES_ZERO",
        "rtz": "TO_ZERO",
        "rtp": "TO_POS",
        "rtn": "TO_NEG",
        "rto": "JAM_UNBIASED",
        "sr": "STOCH_WEIGHTED",
    }
    shape = _ieee_shape(format)
    quantization = getattr(apytypes.QuantizationMode, names[mode])

    def prepare(x: NDArray[np.float32]) -> Any:
        return apytypes.APyFloatArray.from_array(x, exp_bits=8, man_bits=23)

    def apply(x: Any) -> Any:
        return x.cast(shape.exponent_bits, shape.precision - 1, quantization=quantization)

    return Rounder(shape, prepare, apply, lambda x: x.to_numpy(), sums=None)


def _ml_dtypes_rounder(format: fpemu.Format, mode: str) -> Rounder | None:
    import ml_dtypes

    name = _common_name(format)
    dtype: Any = getattr(ml_dtypes, name, None) or getattr(np, name, None)  # float16 is numpy's
    if mode != "rne" or dtype is None:
        return None
    return Rounder(format, _itself, lambda x: x.astype(dtype).astype(np.float32), _itself)


def _torch_rounder(format: fpemu.Format, mode: str) -> Rounder | None:
    import torch

    dtype = getattr(torch, _common_name(format), None)
    if mode != "rne" or dtype is None:
        return None
    return Rounder(
        format, torch.from_numpy, lambda x: x.to(dtype).to(torch.float32), lambda x: x.numpy()
    )


def _qtorch_rounder(format: fpemu.Format, mode: str) -> Rounder | None:
    import torch
    from qtorch.quant import float_quantize

    names = {"rne": "nearest", "sr": "stochastic"}
    if mode not in names:
        return None
    shape = _ieee_shape(format)

    def apply(x: Any) -> Any:
        return float_quantize(x, shape.exponent_bits, shape.precision - 1, rounding=names[mode])

    return Rounder(shape, torch.from_numpy, apply, lambda x: x.numpy())


@dataclass(frozen=True)
class Peer:
    """Another library's rounding.

    Parameters
    ----------
    name : str
        What the tables call it.
    modules : tuple of str
        What must be importable.
    rounder : callable
        From a format and a mode to a Rounder, or None where the library does not offer them.
    """

    name: str
    modules: tuple[str, ...]
    rounder: Callable[[fpemu.Format, str], Rounder | None]


PEERS: Final = (
    Peer("gfloat", ("gfloat",), _gfloat_rounder),
    Peer("pychop (numpy)", ("pychop",), _pychop_numpy_rounder),
    Peer("pychop (torch)", ("pychop", "torch"), _pychop_torch_rounder),
    Peer("apytypes", ("apytypes",), _apytypes_rounder),
    Peer("ml_dtypes", ("ml_dtypes",), _ml_dtypes_rounder),
    Peer("torch", ("torch",), _torch_rounder),
    # Importing it compiles its C++ code, once a machine.
    Peer("qtorch", ("torch", "qtorch.quant"), _qtorch_rounder),
)


def load_peers() -> tuple[list[Peer], dict[str, str]]:
    """The peers that can be imported, and for the others why they cannot."""
    present, missing = [], dict(NEVER_MEASURED)
    for peer in PEERS:
        try:
            for module in peer.modules:
                importlib.import_module(module)
        except Exception as error:  # a failed compilation raises whatever the compiler driver does
            missing[peer.name] = f"not importable ({type(error).__name__})"
        else:
            present.append(peer)
    return present, missing


def count_differences(ours: Carrier, theirs: Carrier) -> int:
    """How many results differ; signed zeros are told apart, NaNs are not."""
    both_nan = np.isnan(ours) & np.isnan(theirs)
    same = (ours == theirs) & (np.signbit(ours) == np.signbit(theirs))
    return int(np.count_nonzero(~(same | both_nan)))


def quietly(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call without the warnings that some peers raise on ordinary numbers."""

    def silenced() -> Any:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return call()

    return silenced


def seconds_in_turns(
    calls: Mapping[str, Callable[[], Any]], repetitions: int, budget: float = math.inf
) -> dict[str, list[float]]:
    """The times of each call, warmed up once, then taken in turns.

    Parameters
    ----------
    calls : mapping of str to callable
        What to time, by name.
    repetitions : int
        How many turns each call gets.
    budget : float, optional
        Seconds after which no new turn begins (the first always runs).

    Returns
    -------
    dict
        Seconds of each turn, by name.
    """
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for _ in range(repetitions):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
        if time.perf_counter() - begin > budget:
            break
    return found


def best_seconds(
    calls: Mapping[str, Callable[[], Any]], repetitions: int, budget: float = math.inf
) -> dict[str, float]:
    """The shortest time of each call of :func:`seconds_in_turns`, by name."""
    found = seconds_in_turns(calls, repetitions, budget)
    return {name: min(times, default=math.inf) for name, times in found.items()}


def fastest(call: Callable[[], Any], repetitions: int) -> float:
    """The shortest time of one call, in seconds, after one to warm up."""
    return best_seconds({"call": call}, repetitions)["call"]


def environment(modules: Iterable[str]) -> dict[str, Any]:
    """Cores, threads and library versions; nothing that names a machine."""
    versions = {"python": platform.python_version()}
    for module in ("numpy", "numba", *modules):
        try:
            versions[module] = metadata.version(module)
        except metadata.PackageNotFoundError:
            versions[module] = "not installed"
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    threads = {"fpemu": launching.thread_count(), "numpy products": _blas_threads()}
    return {
        "processor": platform.machine(),
        "cores": cores,
        "threads": threads,
        "versions": versions,
    }


def _blas_threads() -> int | str:
    try:
        import threadpoolctl
    except ImportError:
        return "unknown (threadpoolctl is not installed)"
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return max((int(pool["num_threads"]) for pool in pools), default=1)


def print_environment(facts: Mapping[str, Any], missing: Mapping[str, str]) -> None:
    """Print what :func:`environment` and :func:`load_peers` found."""
    threads = ", ".join(f"{name} {count}" for name, count in facts["threads"].items())
    print(f"{facts['cores']} cores ({facts['processor']}); threads: {threads}")
    print("; ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    for name, reason in missing.items():
        print(f"{name}: not measured, {reason}")


def print_table(
    title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False
) -> None:
    """Print aligned columns: the first left, the others right; or a table of Markdown."""
    if markdown:
        marks = ["---", *["---:"] * (len(headers) - 1)]
        lines = (f"| {' | '.join(row)} |" for row in (headers, marks, *rows))
        print(f"\n{title}", *lines, sep="\n")
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    print(f"\n{title}")
    for row in (headers, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())


def number(value: float | None) -> str:
    """A number to three significant digits, or a dash."""
    if value is None or not math.isfinite(value):
        return "-"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f}"


def verdict(ratio: float, target: float | None) -> str:
    """Whether a ratio meets its target, or a dash where there is none."""
    if target is None:
        return "-"
    return "yes" if ratio >= target else "NO"


def write_json(file: Path, facts: Mapping[str, Any], tables: Mapping[str, Sequence[Any]]) -> None:
    """Write the environment and the rows, which are dataclass instances."""
    content = {
        "environment": dict(facts),
        **{name: [asdict(row) for row in rows] for name, rows in tables.items()},
    }
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
