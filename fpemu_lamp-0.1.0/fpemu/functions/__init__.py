"""Correctly rounded functions (rounded.py), and softmax and norms step by step (steps.py)."""

from fpemu.functions.rounded import (
    erf,
    exp,
    exp2,
    expm1,
    gelu,
    gelu_tanh,
    log,
    log1p,
    log2,
    reciprocal,
    relu,
    rsqrt,
    sigmoid,
    silu,
    tanh,
)
from fpemu.functions.steps import layer_norm, rms_norm, softmax

__all__ = [
    "erf",
    "exp",
    "exp2",
    "expm1",
    "gelu",
    "gelu_tanh",
    "layer_norm",
    "log",
    "log1p",
    "log2",
    "reciprocal",
    "relu",
    "rms_norm",
    "rsqrt",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]
