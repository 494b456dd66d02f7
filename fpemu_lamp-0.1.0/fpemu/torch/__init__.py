"""PyTorch programs in emulated arithmetic.

:func:`emulate` is what most programs need.  It is made of a :class:`Dispatch`, which runs torch's
operations by a table, and of the table of what an :class:`Arithmetic` emulates.

This module needs PyTorch (``pip install 'fpemu-lamp[torch]'``); ``import fpemu`` does not import
it.
"""

try:
    import torch as _torch  # noqa: F401 - to say what is missing
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "fpemu.torch needs PyTorch: pip install 'fpemu-lamp[torch]'", name="torch"
    ) from None

from fpemu.torch.arithmetic import Arithmetic
from fpemu.torch.dispatch import EXACT, TORCH, Counts, Dispatch
from fpemu.torch.emulation import emulate, table
from fpemu.torch.exact import EXACT_OPERATIONS

__all__ = [
    "EXACT",
    "EXACT_OPERATIONS",
    "TORCH",
    "Arithmetic",
    "Counts",
    "Dispatch",
    "emulate",
    "table",
]
