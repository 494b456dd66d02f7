"""Matrix units, kernels and oracle, against the outputs of eight NVIDIA GPUs, bit for bit.

The recordings (Khattak and Mikaitis, arXiv 2512.07004; BSD 2-Clause) are no part of the project.
They are looked for in the folder that the environment variable FPEMU_GPU_VECTORS names, then in
``shared/gpu_vectors`` beside the repository.
"""

import functools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fpemu
from fpemu import devices
from tests.oracle import units
from tests.oracle.units import UNITS, Unit, fused_addition, two_step_addition

FOLDER = Path(
    os.environ.get("FPEMU_GPU_VECTORS")
    or Path(__file__).resolve().parents[3] / "shared" / "gpu_vectors"
)
FILE = FOLDER / "recorded.npz"

pytestmark = pytest.mark.skipif(
    not FILE.is_file(),
    reason=f"no recorded outputs of GPUs at {FILE} (FPEMU_GPU_VECTORS names their folder)",
)

# Which unit gave which sets.  fp8 with float16 output on Hopper, and all fp8 on the B200, went
# through mma.sync.
RECORDED = {
    ("V100",): {
        "fp16/d_fp32": "volta.mma.float16",
        "fp16/d_fp16": "volta.mma.float16.float16",
    },
    ("A100", "A2"): {
        "fp16/d_fp32": "ampere.mma.float16",
        "fp16/d_fp16": "ampere.mma.float16.float16",
        "bf16/d_fp32": "ampere.mma.bfloat16",
        "tf32/d_fp32": "ampere.mma.tf32",
    },
    ("Ada", "L40S"): {
        "fp16/d_fp32": "ada.mma.float16",
        "fp16/d_fp16": "ada.mma.float16.float16",
        "bf16/d_fp32": "ada.mma.bfloat16",
        "tf32/d_fp32": "ada.mma.tf32",
        "E4M3/d_fp32": "ada.mma.e4m3",
        "E5M2/d_fp32": "ada.mma.e5m2",
    },
    ("Ada",): {
        "E4M3/d_fp16": "ada.mma.e4m3.float16",
        "E5M2/d_fp16": "ada.mma.e5m2.float16",
    },
    ("H100", "H200"): {
        "fp16/d_fp32": "hopper.wgmma.float16",
        "fp16/d_fp16": "hopper.wgmma.float16.float16",
        "bf16/d_fp32": "hopper.wgmma.bfloat16",
        "tf32/d_fp32": "hopper.wgmma.tf32",
        "E4M3/d_fp32": "hopper.wgmma.e4m3",
        "E5M2/d_fp32": "hopper.wgmma.e5m2",
        "E4M3/d_fp16": "hopper.mma.e4m3.float16",
        "E5M2/d_fp16": "hopper.mma.e5m2.float16",
    },
    ("B200",): {
        "fp16/d_fp32": "blackwell.tcgen05.float16",
        "fp16/d_fp16": "blackwell.tcgen05.float16.float16",
        "bf16/d_fp32": "blackwell.tcgen05.bfloat16",
        "tf32/d_fp32": "blackwell.tcgen05.tf32",
        "E4M3/d_fp32": "blackwell.mma.e4m3",
        "E5M2/d_fp32": "blackwell.mma.e5m2",
        "E4M3/d_fp16": "blackwell.mma.e4m3.float16",
        "E5M2/d_fp16": "blackwell.mma.e5m2.float16",
    },
}
SETS = [
    (f"{gpu}/{key}", name)
    for gpus, named in RECORDED.items()
    for gpu in gpus
    for key, name in named.items()
]
# These were taken with c = 0, whatever the file says c is.
TAKEN_WITHOUT_C = {
    f"{gpu}/{format}/d_fp32" for gpu in ("H100", "H200") for format in ("E4M3", "E5M2")
}


@functools.cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return dict(file)


def rows(key: str) -> Iterator[tuple[list[float], list[float], float, int]]:
    """The inner products of a set: a, b, c and the bits of the result as a float32."""
    folder = key.rsplit("/", 1)[0]
    c = recorded()[f"{folder}/c"][:, 0]
    if key in TAKEN_WITHOUT_C:
        c = np.zeros_like(c)
    if key.endswith("d_fp16"):
        c = c.astype(np.float16)
    a, b = recorded()[f"{folder}/a"], recorded()[f"{folder}/b"]
    return zip(a.tolist(), b.tolist(), c.tolist(), recorded()[key][:, 0].tolist(), strict=True)


def bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


def test_every_recorded_set_has_a_unit():
    outputs = {key for key in recorded() if key.rsplit("/", 1)[1].startswith("d_")}
    assert outputs == {key for key, _ in SETS}


@pytest.mark.parametrize(("key", "name"), SETS)
def test_units_reproduce_the_recorded_outputs(key, name):
    unit = UNITS[name]
    wrong = [i for i, (a, b, c, d) in enumerate(rows(key)) if bits(unit(a, b, c)) != d]
    assert not wrong


@pytest.mark.parametrize(("key", "name"), SETS)
def test_kernels_reproduce_the_recorded_outputs(key, name):
    a, b, c, expected = map(np.array, zip(*rows(key), strict=True))
    result = fpemu.matmul(a[:, None, :], b[:, :, None], devices.get(name), c=c[:, None, None])
    np.testing.assert_array_equal(
        result.ravel().astype(np.float32).view(np.uint32), expected.astype(np.uint32)
    )


def changes(unit: Unit, count: int) -> Iterator[tuple[str, Unit]]:
    """The changes of `unit` that its recorded sets, of `count` products a row, tell apart."""
    output = unit.parameters["output"]
    toward_zero = output.rounding == "rtz"
    two_step = unit.function is two_step_addition
    if two_step:
        yield "all fused", replace(unit, function=fused_addition)
    # float16 results are too narrow to show the alignment, but for that of Ada's fp8.
    if not two_step and (toward_zero or unit.parameters["fraction_bits"] == 13):
        bits = unit.parameters["fraction_bits"]
        yield "a fraction bit less", unit.changed(fraction_bits=bits - 1)
        yield "a fraction bit more", unit.changed(fraction_bits=bits + 1)
        yield "aligned to nearest", unit.changed(alignment="rne")
        yield "aligned downward", unit.changed(alignment="rtn")
    # fp8 sums are float32 numbers, so that mma.sync's rounding of the steps shows in float16 only.
    if not (two_step and toward_zero):
        other = "rne" if toward_zero else "rtz"
        yield "other output rounding", unit.changed(output=replace(output, rounding=other))
    if output == units.E8M13_TRUNCATED:
        yield "a float32 result", unit.changed(output=units.FLOAT32_TRUNCATED)
    # tf32 was recorded four products a row, which Hopper's and Blackwell's eight leave unseen.
    if unit.terms <= count:
        yield "half the terms", unit.changed(terms=unit.terms // 2)
    if unit.terms < count:
        yield "twice the terms", unit.changed(terms=unit.terms * 2)


@pytest.mark.parametrize(("key", "name"), SETS)
def test_recorded_outputs_tell_other_parameters_apart(key, name):
    # What `changes` leaves out the recordings do not pin: they hold no special values, zero
    # results, overflows, or numbers near the floors.
    count = recorded()[key.rsplit("/", 1)[0] + "/a"].shape[1]
    for change, changed in changes(UNITS[name], count):
        assert any(bits(changed(a, b, c)) != d for a, b, c, d in rows(key)), change
