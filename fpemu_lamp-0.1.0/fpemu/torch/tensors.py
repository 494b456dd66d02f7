"""Tensors as carriers and back: without a copy where torch and numpy hold the numbers alike."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from fpemu import formats
from fpemu.carriers import Carrier
from fpemu.rounding import round as round_into

__all__ = ["arithmetic_dtype", "carrier", "number", "result_dtype", "tensor", "tensor_like"]

_CARRIERS: Final = (torch.float32, torch.float64)


def carrier(x: Any) -> Carrier:
    """The numbers of a tensor as a float32 or float64 array: a view, or a copy without any loss.

    Raises
    ------
    TypeError
        If the tensor is not a dense one of real floating-point numbers in the memory of the CPU.
    """
    if x.device.type != "cpu" or x.layout != torch.strided or not x.is_floating_point():
        raise TypeError(
            "emulated operations take dense CPU tensors of floating-point numbers, not one of "
            f"{x.dtype} on {x.device}, {x.layout}"
        )
    held = x.detach()
    array: Carrier = (held if x.dtype in _CARRIERS else held.to(torch.float32)).numpy()
    return array


def arithmetic_dtype(dtype: Any) -> Any:
    """The dtype that torch computes in: float64 for float64 tensors, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def number(x: Any, dtype: Any) -> Any:
    """An operand of an operation whose result has a dtype: a tensor or a Python number.

    As in torch, Python numbers, tensors of integers and scalars of a wider dtype enter as numbers
    of the dtype that torch computes in.
    """
    wide = arithmetic_dtype(dtype)
    if not isinstance(x, torch.Tensor):
        return torch.tensor(x, dtype=torch.float64).to(wide).numpy()
    if not x.is_floating_point() or (x.dtype == torch.float64 and wide != torch.float64):
        return carrier(x.to(wide))
    return carrier(x)


def result_dtype(*operands: Any) -> Any:
    """The dtype that torch's rules of promotion give a result."""
    if len(operands) == 1:
        return operands[0].dtype
    dtype = torch.result_type(*operands[:2])
    for each in operands[2:]:
        dtype = torch.result_type(torch.empty((1,) * 8, dtype=dtype), each)
    return dtype


def tensor(values: Any, dtype: Any) -> Any:
    """Numbers as a tensor; rounded to nearest where its dtype does not hold them."""
    array: NDArray[Any] = np.asarray(values)
    if array.dtype == np.float64 and dtype != torch.float64:
        # Torch would round twice on the way to less than float32.
        array = np.asarray(round_into(array, formats.format(dtype))).astype(np.float32)
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(dtype)


def tensor_like(values: Any, dtype: Any, *operands: Any) -> Any:
    """Numbers as a tensor with the memory layout of the first operand that has their shape."""
    made = tensor(values, dtype)
    for each in operands:
        if isinstance(each, torch.Tensor) and each.shape == made.shape:
            if each.is_contiguous():
                break
            return torch.empty_like(each, dtype=dtype).copy_(made)
    return made
