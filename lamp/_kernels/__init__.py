"""Everything of lamp that is compiled."""

__all__ = [
    "activations",
    "callables",
    "conditions",
    "divergences",
    "drawing",
    "jacobians",
    "picking",
    "recomputing",
    "rows",
    "scoring",
    "tiles",
    "transformer",
]
