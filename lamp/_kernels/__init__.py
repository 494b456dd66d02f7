"""Everything of lamp that is compiled."""

__all__ = [
    "activations",
    "jacobians",
    "picking",
    "rows",
]
