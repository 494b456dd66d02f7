"""The functions f of f(g(x)): value, Jacobian, condition and what errors of their arguments do.

A :class:`Composition` takes rows, the last axis of an array; other axes are a batch.  Jacobians act
on vectors, and are formed as matrices only when asked for.  Everything is computed in float64.

References
----------
Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
arXiv 2601.21623.  N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
section 1.6.
"""

from lamp.bounds.compositions.base import Composition
from lamp.bounds.compositions.entrywise import Entrywise, EntrywiseProduct, Residual
from lamp.bounds.compositions.norms import LayerNorm, RMSNorm
from lamp.bounds.compositions.softmax import Softmax, SoftmaxProduct

__all__ = [
    "Composition",
    "Entrywise",
    "EntrywiseProduct",
    "LayerNorm",
    "RMSNorm",
    "Residual",
    "Softmax",
    "SoftmaxProduct",
]
