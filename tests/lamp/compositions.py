"""The compositions that tests go through, of rows of eight."""

import numpy as np

from lamp.bounds.compositions import (
    Entrywise,
    EntrywiseProduct,
    LayerNorm,
    Residual,
    RMSNorm,
    Softmax,
    SoftmaxProduct,
)

N = 8
_generator = np.random.default_rng(0)
_vector, _other = _generator.normal(size=(2, N))
_matrix = _generator.normal(size=(N, 3))

COMPOSITIONS = [
    Softmax(),
    SoftmaxProduct(_matrix),
    RMSNorm(),
    RMSNorm(_vector, 0.1),
    LayerNorm(),
    LayerNorm(_vector, _other, 0.0),
    *map(Entrywise, ("gelu", "gelu_new", "silu", "relu", "sigmoid", "tanh")),
    EntrywiseProduct("gelu_new", _matrix),
    EntrywiseProduct("relu", _matrix),
    Residual(_vector),
]
NAMES = [f"{each} {i}" for i, each in enumerate(COMPOSITIONS)]
