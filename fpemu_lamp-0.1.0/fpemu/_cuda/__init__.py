"""Kernels for Numba's CUDA target, checked in its simulator alone: rounding, and Sequential sums.

Nothing public leads here, and nothing is said about speed: docs/scale.md has the plan that these
kernels begin, and the contracts that they keep.

The scalar functions are those of :mod:`fpemu._kernels`, their Python source compiled again for the
device (:mod:`fpemu._cuda.porting`).  Each entry has the signature of its counterpart there, so that
a test can hold one against the other.
"""

__all__ = ["rounding", "sequential"]
