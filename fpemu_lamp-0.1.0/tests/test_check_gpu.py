"""The comparison with a GPU: that its program compiles, and that it finds what differs."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fpemu
from tests.oracle.units import UNITS

SCRIPT = Path(__file__).parents[1] / "analysis" / "check_gpu.py"

with_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="no nvcc, the compiler of NVIDIA's CUDA toolkit"
)


@pytest.fixture(scope="module")
def check_gpu():
    spec = importlib.util.spec_from_file_location("check_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@with_nvcc
@pytest.mark.parametrize(
    "target",
    [*(pytest.param(target, marks=pytest.mark.long) for target in ("80", "89", "100a")), "90a"],
)
def test_the_program_compiles(target):
    command = [sys.executable, str(SCRIPT), "--compile-only", target]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout == f"compiled for sm_{target}\n"


def test_without_a_gpu_it_says_so(check_gpu, monkeypatch, capsys):
    def nothing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(check_gpu.ctypes, "CDLL", nothing)
    monkeypatch.setattr(sys, "argv", ["check_gpu.py"])
    with pytest.raises(SystemExit) as end:
        check_gpu.main()
    assert end.value.code == check_gpu.NOT_POSSIBLE == 3
    assert "there is no GPU here" in capsys.readouterr().err


def of_words(words, format, terms):
    """The numbers of packed words, as the fragments of PTX count them: the first is the lowest."""
    bits = 32 if format.name == "tf32" else format.bits
    rows = words.reshape(-1, terms * bits // 32)
    codes = [[w >> i & 2**bits - 1 for w in row for i in range(0, 32, bits)] for row in rows]
    kind = {8: np.uint8, 16: np.uint16, 32: np.uint32}[bits]
    held = np.array(codes, np.uint64).astype(kind)
    return held.view(np.float32) if bits == 32 else np.asarray(fpemu.decode(held, format))


def pretended(unit, terms, mistakes):
    """A GPU that computes by the oracle, from the words that a program is given."""

    def run(command, input, **_):
        _, name, count = command
        rows = 64 if name.startswith("wgmma") else 16
        words = np.frombuffer(input, "<u4")
        a_format, b_format = unit.input_formats
        per_row = terms * (32 if a_format.name == "tf32" else a_format.bits) // 32
        sizes = np.cumsum([int(count) * rows * per_row, int(count) * 8 * per_row])
        a, b, c = np.split(words, sizes)
        a = of_words(a, a_format, terms).reshape(int(count), rows, terms)
        b = of_words(b, b_format, terms).reshape(int(count), 8, terms)
        held = {16: np.uint16, 32: np.uint32}[unit.c_format.bits]
        c = np.asarray(fpemu.decode(c.astype(held), unit.c_format)).reshape(int(count), rows, 8)
        out = [
            unit(a[i, r].tolist(), b[i, j].tolist(), c[i, r, j].item())
            for i in range(int(count))
            for r in range(rows)
            for j in range(8)
        ]
        bits = np.asarray(fpemu.encode(np.array(out), unit.c_format)).astype(np.uint32)
        bits[:mistakes] ^= 1
        printed = "".join(f"{x:08x}\n" for x in bits)
        return subprocess.CompletedProcess(command, 0, printed.encode(), b"")

    return run


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("ampere", "mma.tf32"),
        ("hopper", "mma-k8.bfloat16"),
        ("hopper", "mma.e5m2.float16"),
        ("hopper", "wgmma.e4m3"),
    ],
)
def test_what_differs_is_found(check_gpu, monkeypatch, architecture, name):
    unit, terms = UNITS[f"{architecture}.{name}"], check_gpu.LENGTHS[name]
    for mistakes in (0, 1):
        run = pretended(unit, terms, mistakes)
        monkeypatch.setattr(check_gpu.subprocess, "run", run)
        monkeypatch.setattr(check_gpu.directed, "KINDS", check_gpu.directed.KINDS[:3])
        done, wrong, kept = check_gpu.compare(Path("program"), architecture, name, 1)
        assert done == 3 * 8 * (64 if name.startswith("wgmma") else 16)
        assert wrong == 3 * mistakes  # one of each kind
        assert {key: len(x) for key, x in kept.items()} == dict.fromkeys(("a", "b", "c", "out"), 24)


def test_every_instruction_of_the_program_is_compared(check_gpu):
    source = SCRIPT.with_suffix(".cu").read_text()
    named = {
        line.split('"')[1]
        for line in source.splitlines()
        if line.strip().startswith(("MMA(", "WGMMA("))
    }
    assert named == set(check_gpu.LENGTHS)
    units = {f"{each.units}.{name}" for each in check_gpu.ARCHITECTURES.values() for name in named}
    assert {f"hopper.{name}" for name in named} <= units & set(UNITS)
