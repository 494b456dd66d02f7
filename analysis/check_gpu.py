"""The matrix unit of this machine's GPU against fpemu.devices, bit for bit.

    python analysis/check_gpu.py [--inner-products 100000] [--record FOLDER] [--compile-only ARCH]

Compiles check_gpu.cu with nvcc for the GPU, asks it for directed inner products with every
instruction that it and fpemu have, and compares the bits.  Exits with 1 if any differ, with 3 and
a message where there is no GPU, no nvcc or no unit of its architecture.  `--record` writes 2,000
inner products of each unit, as data for tests.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import devices

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.oracle import directed

SOURCE = Path(__file__).with_suffix(".cu")
NOT_POSSIBLE = 3  # exit status
COLUMNS = 8  # of a tile
RECORDED = 2000


class Architecture(NamedTuple):
    """How the instructions of GPUs of a compute capability are compiled and called."""

    units: str  # of fpemu.devices
    target: str  # of nvcc
    fp8: bool
    wgmma: bool = False


ARCHITECTURES = {
    (8, 0): Architecture("ampere", "80", False),
    (8, 6): Architecture("ampere", "80", False),
    (8, 9): Architecture("ada", "89", True),
    (9, 0): Architecture("hopper", "90a", True, True),
    (10, 0): Architecture("blackwell", "100a", True),
    (12, 0): Architecture("rtx-blackwell", "120a", True),
}
# Products of an instruction by its name without the architecture, rows of its tile: 16 by mma, 64
# by wgmma.
_OUTPUTS = ("", ".float16")
LENGTHS = {
    **{f"mma.float16{output}": 16 for output in _OUTPUTS},
    "mma.bfloat16": 16,
    "mma.tf32": 8,
    "mma-k8.float16": 8,
    "mma-k8.bfloat16": 8,
    "mma-k4.tf32": 4,
    **{f"mma.{name}{output}": 32 for name in ("e4m3", "e5m2") for output in _OUTPUTS},
    **{f"wgmma.float16{output}": 16 for output in _OUTPUTS},
    "wgmma.bfloat16": 16,
    "wgmma.tf32": 8,
    **{f"wgmma.{name}{output}": 32 for name in ("e4m3", "e5m2") for output in _OUTPUTS},
}


def stop(message: str) -> None:
    print(f"check_gpu: {message}", file=sys.stderr)
    raise SystemExit(NOT_POSSIBLE)


def capability() -> tuple[int, int]:
    """The compute capability of the first GPU, by CUDA's driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        stop(f"there is no GPU here: CUDA's driver cannot be loaded ({error})")
    count, device, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        stop("there is no GPU here: CUDA's driver finds none")
    driver.cuDeviceGet(ctypes.byref(device), 0)
    found = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        found.append(value.value)
    return found[0], found[1]


def compiled(architecture: Architecture, folder: Path) -> Path:
    """The program for a GPU."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        stop("there is no nvcc in PATH, the compiler of NVIDIA's CUDA toolkit")
    program, target = folder / "check_gpu", architecture.target
    flags = ["-DWITH_FP8"] * architecture.fp8 + ["-DWITH_WGMMA"] * architecture.wgmma
    code = f"arch=compute_{target},code=sm_{target}"
    command = [nvcc, "-O1", "-gencode", code, *flags, "-o", program, SOURCE]
    subprocess.run([*map(str, command)], check=True)
    return program


def codes(x: NDArray[Any], format: Any) -> NDArray[np.uint32]:
    """The bits of members of a format; tf32 numbers are float32 numbers."""
    if format.name == "tf32":
        return np.asarray(x, np.float32).view(np.uint32)
    return np.asarray(fpemu.encode(x, format)).astype(np.uint32)


def words(x: NDArray[Any], format: Any) -> NDArray[np.uint32]:
    """The bits of rows of members, packed into words."""
    width = {"tf32": 4}.get(format.name, format.bits // 8)
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[width]
    return np.ascontiguousarray(codes(x, format).astype(kind)).view(np.uint32)


def results(
    program: Path, name: str, a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], formats: Any
) -> NDArray[np.uint32]:
    """The bits that the GPU gives for tiles.

    Shapes: a (n, rows, k), b (n, columns, k), c and the result (n, rows, columns).
    """
    held = codes(c, formats[2])
    given = b"".join(
        x.astype("<u4").tobytes() for x in (words(a, formats[0]), words(b, formats[1]), held)
    )
    command = [str(program), name, str(len(a))]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode:
        stop(f"{name}: {done.stderr.decode(errors='replace').strip()}")
    return np.array([int(x, 16) for x in done.stdout.split()], np.uint32).reshape(c.shape)


def tiles(
    generator: np.random.Generator, kind: Any, formats: Any, shape: tuple[int, int, int]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Directed operands: the first rows have columns and accumulators of their own."""
    count, rows, terms = shape
    a, b, c = directed.drawn(kind, generator, formats, count * rows, terms)
    a, b, c = a.reshape(count, rows, terms), b.reshape(count, rows, terms), c.reshape(count, rows)
    others = directed.drawn(directed.near_one, generator, formats, count * rows * COLUMNS, 2)[2]
    initial = others.reshape(count, rows, COLUMNS).copy()
    initial[:, np.arange(rows), np.arange(rows) % COLUMNS] = c
    return a, b[:, :COLUMNS], initial


def compare(
    program: Path, architecture: str, name: str, inner_products: int
) -> tuple[int, int, dict[str, NDArray[np.uint32]]]:
    """How many inner products of an instruction were compared, how many differ; some of them."""
    unit = devices.get(f"{architecture}.{name}")
    formats = (*unit.input_formats, unit.initial_format)
    rows = 64 if name.startswith("wgmma") else 16
    count = max(1, inner_products // (rows * COLUMNS * len(directed.KINDS)))
    generator = np.random.default_rng(len(name))
    done = wrong = 0
    kept: dict[str, list[NDArray[np.uint32]]] = {"a": [], "b": [], "c": [], "out": []}
    for kind in directed.KINDS:
        a, b, c = tiles(generator, kind, formats, (count, rows, LENGTHS[name]))
        actual = results(program, name, a, b, c, formats)
        expected = fpemu.matmul(a, b.transpose(0, 2, 1), unit, c=c)
        output = formats[2]  # in whose container the result comes
        same = codes(expected, output) == actual
        same |= np.isnan(expected) & np.isnan(np.asarray(fpemu.decode(actual, output)))
        done, wrong = done + same.size, wrong + int((~same).sum())
        place = np.arange(COLUMNS)
        few = slice(0, -(-RECORDED // (len(directed.KINDS) * COLUMNS)))
        of_rows = {"a": codes(a, formats[0])[few, :COLUMNS], "b": codes(b, formats[1])[few]}
        of_sums = {"c": codes(c, formats[2])[few, place, place], "out": actual[few, place, place]}
        for key, x in (of_rows | of_sums).items():
            kept[key].append(x.reshape(-1, *x.shape[2:]))
    return done, wrong, {key: np.concatenate(x)[:RECORDED] for key, x in kept.items()}


def check(program: Path, architecture: Architecture, options: argparse.Namespace) -> int:
    """Compare all instructions; how many inner products differ."""
    total = 0
    arrays: dict[str, NDArray[np.uint32]] = {}
    for name in LENGTHS:
        unit = f"{architecture.units}.{name}"
        if unit not in devices.list():
            continue
        done, wrong, kept = compare(program, architecture.units, name, options.inner_products)
        arrays |= {f"{unit}/{key}": x for key, x in kept.items()}
        total += wrong
        print(f"{unit:36} {done} inner products, {wrong} differ", flush=True)
    if options.record is not None:
        np.savez_compressed(options.record / f"{architecture.units}.npz", **arrays)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inner-products", type=int, default=100_000, help="of every unit")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="where to put some of them")
    targets = sorted({each.target for each in ARCHITECTURES.values()})
    parser.add_argument("--compile-only", choices=targets, help="for this architecture, sm_...")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.compile_only is not None:
            by_target = {each.target: each for each in ARCHITECTURES.values()}
            compiled(by_target[options.compile_only], Path(folder))
            print(f"compiled for sm_{options.compile_only}")
            return
        found = capability()
        if found not in ARCHITECTURES:
            stop(f"no unit of compute capability {found[0]}.{found[1]} is modeled")
        architecture = ARCHITECTURES[found]
        raise SystemExit(
            1 if check(compiled(architecture, Path(folder)), architecture, options) else 0
        )


if __name__ == "__main__":
    main()
