"""Arrays of carrier values: arguments taken in without loss, results given the type that fits."""

from __future__ import annotations

import sys
from numbers import Rational
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu._kernels.rounding import LAYOUTS, Carrier
from fpemu.formats import Format

__all__ = [
    "Carrier",
    "as_carrier",
    "check_no_nan",
    "check_not_masked",
    "check_out",
    "is_tensor",
    "plain",
    "result_dtype",
    "same_place",
    "working_dtype",
]

_FLOAT32: Final = np.dtype(np.float32)
_FLOAT64: Final = np.dtype(np.float64)


def as_carrier(x: ArrayLike, name: str = "x") -> Carrier:
    """An argument as a float32 or float64 array, without any loss.

    float16, ml_dtypes arrays and tensors of so few bits are widened to float32, integers and Python
    floats to float64.

    Raises
    ------
    TypeError
        If the values are not real numbers of at most 64 bits, or some of them may be masked.
    ValueError
        If an integer is not a float64 number.
    """
    if type(x) is np.ndarray and x.dtype in LAYOUTS and x.flags.aligned:
        return x  # most are, and are small
    check_not_masked(x, name)
    try:
        array = np.asarray(plain(x, name))
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} is no array: {error}") from None
    _check_listed_integers(x, array, name)
    kind = array.dtype.kind
    if kind == "f" and not (array.dtype.isnative and array.flags.aligned):
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype in LAYOUTS:
        return array
    if kind in "biu":
        return _integers_as_carrier(array, name)
    if kind == "O" and all(isinstance(each, int | np.integer) for each in array.ravel()):
        return _large_integers_as_carrier(array, name)
    if kind in "fV" and array.dtype.names is None and np.can_cast(array.dtype, np.float32):
        return array.astype(np.float32)
    raise TypeError(f"{name} must hold real numbers of at most 64 bits, not {_kind(array)}")


def _kind(array: NDArray[Any]) -> str:
    """What an array holds, for the message that it holds no numbers."""
    if array.dtype != object:
        return str(array.dtype)
    real = (int, float, np.number, np.bool_)
    first = next((each for each in array.ravel() if not isinstance(each, real)), array)
    if first is array:
        return "integers of more beside other numbers"
    exact = ", which fpemu.reference takes" if isinstance(first, Rational) else ""
    return f"{type(first).__name__}{exact}"


def is_tensor(x: Any) -> bool:
    """Whether something is a tensor of PyTorch, without an import of it."""
    # Nothing is a tensor before it is imported; and a folder of this name is not PyTorch.
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(x, tensor)


def plain(x: Any, name: str) -> Any:
    """An argument itself, or the numbers of a tensor of PyTorch as an array.

    Raises
    ------
    TypeError
        If it is a tensor that numpy cannot hold.
    """
    if not is_tensor(x):
        return x
    torch = sys.modules["torch"]
    if x.device.type != "cpu" or x.layout != torch.strided:
        raise TypeError(
            f"{name} must be a dense tensor in the memory of the CPU, not one of {x.layout} on "
            f"{x.device}: give .to_dense() or .cpu() of it"
        )
    held = x.detach()
    try:
        narrow = x.is_floating_point() and x.dtype not in (torch.float32, torch.float64)
        return (held.to(torch.float32) if narrow else held).numpy()
    except (RuntimeError, TypeError) as error:
        raise TypeError(f"{name} must hold real numbers of at most 64 bits: {error}") from None


def check_not_masked(x: object, name: str) -> None:
    """Raise TypeError for a masked array, whose masked elements would be taken for numbers."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: give its data, or x.filled(...)")


_MOST_SHOWN: Final = 256  # bits of an integer whose digits a message has
_MOST_INTEGER: Final = 2.0**53  # float64 holds all integers up to this one


def _check_listed_integers(x: ArrayLike, array: NDArray[Any], name: str) -> None:
    """Raise ValueError if numpy has rounded an integer of a list to make it a float."""
    if array.dtype != np.float64 or hasattr(x, "dtype") or not array.size:
        return
    if not (np.abs(array) >= _MOST_INTEGER).any():
        return
    for given, number in zip(np.asarray(x, object).ravel(), array.ravel().tolist(), strict=True):
        if isinstance(given, int | np.integer) and int(given) != number:
            raise ValueError(f"{name} holds the integer {given}, which is not a float64 number")


def _integers_as_carrier(array: NDArray[Any], name: str) -> NDArray[np.float64]:
    numbers = array.astype(np.float64)
    if array.dtype.itemsize == 8:
        # Comparing in float64 would round the integers again; 2**63 and 2**64 do not convert back.
        signed = array.dtype.kind == "i"
        inside = (numbers >= -(2.0**63)) & (numbers < 2.0**63) if signed else numbers < 2.0**64
        exact = inside & (np.where(inside, numbers, 0).astype(array.dtype) == array)
        if not exact.all():
            first = array.ravel()[np.flatnonzero(~exact)[0]]
            raise ValueError(f"{name} holds the integer {first}, which is not a float64 number")
    return numbers


def _large_integers_as_carrier(array: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Integers of more than 64 bits, of which numpy makes objects."""
    for integer in array.ravel():
        try:
            exact = int(float(integer)) == integer
        except OverflowError:
            exact = False
        if not exact:
            bits = int(integer).bit_length()
            which = (
                f"the integer {integer}" if bits <= _MOST_SHOWN else f"an integer of {bits} bits"
            )
            raise ValueError(f"{name} holds {which}, which is not a float64 number")
    return array.astype(np.float64)


def result_dtype(format: Format, *inputs: Carrier) -> np.dtype[Any]:
    """float32 if all inputs are and the format fits, else float64."""
    if format.carrier != _FLOAT32:
        return _FLOAT64
    for array in inputs:
        if array.dtype != _FLOAT32:
            return _FLOAT64
    return _FLOAT32


def working_dtype(format: Format, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The carrier to compute in: `dtype`, or float64 where the format reaches below float32."""
    return dtype if format.emin >= LAYOUTS[dtype].least_emin else _FLOAT64


def same_place(a: Carrier, b: Carrier) -> bool:
    """Whether two arrays are views of the same elements in the same order."""
    return a.shape == b.shape and (a.ctypes.data, a.strides, a.dtype) == (
        b.ctypes.data,
        b.strides,
        b.dtype,
    )


def check_out(out: Any, shape: tuple[int, ...], format: Format) -> Carrier:
    """Check an ``out`` argument against the shape and format of a result.

    Returns
    -------
    ndarray
        A view of `out` as an array of the base class: a subclass may take other indices.
    """
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy array, not {type(out).__name__}")
    check_not_masked(out, "out")
    if not out.dtype.isnative:
        raise TypeError(f"out has dtype {out.dtype}, which is not in the byte order of the machine")
    if out.dtype not in LAYOUTS or (out.dtype == np.float32 and format.carrier != np.float32):
        raise TypeError(f"out has dtype {out.dtype}, which does not hold the values of {format}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, but the result has shape {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    return out.view(np.ndarray)


def check_no_nan(array: Carrier, format: Format, name: str = "x") -> None:
    """Raise ValueError if a format without NaN is to receive one."""
    if not format.has_nan and np.isnan(array).any():
        index = tuple(int(i) for i in np.argwhere(np.isnan(array))[0])
        where = f" at index {index[0] if len(index) == 1 else index}" if index else ""
        raise ValueError(f"{name} is NaN{where}, but {format} has no NaN")
