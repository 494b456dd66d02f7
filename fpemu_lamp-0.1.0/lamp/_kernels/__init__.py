"""Everything of lamp that is compiled."""

__all__ = [
    "activations",
    "callables",
    "divergences",
    "jacobians",
    "picking",
    "recomputing",
    "rows",
    "tiles",
    "transformer",
]
