"""PyTorch programs in emulated arithmetic."""

try:
    import torch as _torch  # noqa: F401 - to say what is missing
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "fpemu.torch needs PyTorch: pip install 'fpemu-lamp[torch]'", name="torch"
    ) from None

from fpemu.torch.dispatch import EXACT, TORCH, Counts, Dispatch
from fpemu.torch.exact import EXACT_OPERATIONS

__all__ = ["EXACT", "EXACT_OPERATIONS", "TORCH", "Counts", "Dispatch"]
