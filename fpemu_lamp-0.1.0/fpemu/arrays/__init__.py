"""An array on which numpy code runs in emulated arithmetic."""

from fpemu.arrays import protocol
from fpemu.arrays.container import Array, array

__all__ = ["Array", "array", "protocol"]
