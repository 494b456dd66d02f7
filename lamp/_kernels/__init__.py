"""Everything of lamp that is compiled."""

__all__ = [
    "activations",
    "picking",
    "rows",
    "transformer",
]
