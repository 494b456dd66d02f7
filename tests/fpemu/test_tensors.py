"""Tensors of PyTorch where arrays are taken, and dtypes where formats are, without importing it."""

import subprocess
import sys
import types

import numpy as np
import pytest
import torch

import fpemu

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NARROW = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


@pytest.mark.parametrize("dtype", DTYPES + NARROW, ids=str)
def test_a_tensor_is_taken_as_the_numbers_that_it_holds(dtype):
    numbers = [0.3, -1.0, 2.5]
    x = torch.tensor(numbers).to(dtype)
    wide = x.to(torch.float64).numpy()
    np.testing.assert_array_equal(fpemu.round(x, "float64"), wide)
    np.testing.assert_array_equal(fpemu.encode(x, dtype), fpemu.encode(wide, dtype))
    assert fpemu.dot(x, x, "float64") == fpemu.dot(wide, wide, "float64")
    np.testing.assert_array_equal(fpemu.add(x, 1.0, "bfloat16"), fpemu.add(wide, 1.0, "bfloat16"))
    np.testing.assert_array_equal(
        fpemu.scaling.quantize(x, "mxfp4").elements, fpemu.scaling.quantize(wide, "mxfp4").elements
    )
    assert np.array_equal(fpemu.decode(x, dtype), wide)


def test_float32_tensors_give_float32_also_where_gradients_are_kept():
    x = torch.tensor([0.3, 1.0], requires_grad=True)
    assert fpemu.round(x, "bfloat16").dtype == np.float32
    assert fpemu.round(x * 2, torch.bfloat16).tolist() == [0.6015625, 2.0]
    assert fpemu.functions.exp(x, "bfloat16").dtype == np.float32
    assert fpemu.array(x, "bfloat16").sum().item() == 1.296875
    assert fpemu.round(torch.tensor(3), "bfloat16") == 3.0


def test_codes_may_be_integers_of_a_tensor():
    codes = torch.tensor([0x38, 0xFE], dtype=torch.uint8)
    assert fpemu.decode(codes, "float8_e4m3fn").tolist() == [1.0, -448.0]
    with pytest.raises(TypeError, match="codes must be integers"):
        fpemu.decode(torch.tensor([1.0]), "float8_e4m3fn")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor([1j]), "x must hold real numbers"),
        (torch.empty(2, device="meta"), "x must be a dense tensor in the memory of the CPU.*meta"),
        (torch.eye(2).to_sparse(), "x must be a dense tensor.*sparse"),
    ],
)
def test_tensors_without_numbers_of_their_own_are_refused(tensor, message):
    with pytest.raises(TypeError, match=message):
        fpemu.round(tensor, "bfloat16")


def test_a_folder_called_torch_is_not_taken_for_pytorch(monkeypatch):
    """As Python takes it for a package where there is no PyTorch."""
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    assert fpemu.round(0.3, "float8_e4m3fn") == 0.3125


def test_torch_is_not_imported():
    program = (
        "import sys, fpemu; fpemu.round([0.3], 'bf16'); fpemu.decode([1], 'float8_e4m3fn'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
