"""The functions f of f(g(x)): values, Jacobians, condition numbers and error bounds.

A :class:`Composition` takes rows along the last axis of an array; the other axes are a batch.
Jacobians act on vectors and are formed as matrices on request alone.  Everything is computed in
float64.

References
----------
Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
arXiv 2601.21623.  N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
section 1.6.
"""

from lamp.bounds.compositions.base import Composition, value_exact
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
    "value_exact",
]
