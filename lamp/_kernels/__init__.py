"""Everything of lamp that is compiled."""

__all__ = [
    "activations",
    "callables",
    "componentwise",
    "conditions",
    "divergences",
    "drawing",
    "jacobians",
    "normwise",
    "picking",
    "recomputing",
    "rows",
    "scoring",
    "tiles",
    "transformer",
]
