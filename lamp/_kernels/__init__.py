"""Everything of lamp that is compiled."""

__all__ = [
    "activations",
    "divergences",
    "jacobians",
    "picking",
    "rows",
    "tiles",
    "transformer",
]
