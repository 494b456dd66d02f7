"""Everything of fpemu that is compiled, from machine words up to matrix products.

The modules, bottom first: what machine code there is (`words`), how it is compiled and kept
(`caching`, in `cache_folders`) and run (`launching`); random bits; rounding a word (`rounding`),
what is told of it (`targets`), numbers taken apart (`significands`), operations in integers
(`exact`) and by error-free transformations (`error_free`); then whatever works on arrays: rounding
(`array_rounding`), arithmetic, codes, scans, functions (`elementary`, `enclosures`), and the
products: panels, operands, sequential sums, their tiles, a few rows and running sums, pairwise
sums, chains, the superaccumulator, tensor cores, and inner products that users have compiled
(`defined`).

An edit of any file here compiles all kernels anew; an edit anywhere else compiles none.
"""

__all__ = [
    "arithmetic",
    "array_rounding",
    "cache_folders",
    "caching",
    "chains",
    "codes",
    "defined",
    "elementary",
    "enclosures",
    "error_free",
    "exact",
    "expansions",
    "facts",
    "launching",
    "operands",
    "pairwise",
    "panels",
    "random_bits",
    "rounding",
    "running_sums",
    "scalars",
    "scans",
    "sequential",
    "significands",
    "superaccumulator",
    "targets",
    "tensor_core",
    "tiles",
    "words",
]
