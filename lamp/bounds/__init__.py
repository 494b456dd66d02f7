"""Error bounds of f(g(x)): the functions f, their evaluations, and what errors of g do."""

from lamp.bounds import compositions, evaluations
from lamp.bounds.errors import KINDS, ORDERS, Bound, ProductErrors, bound, products
from lamp.bounds.evaluations import Evaluation

__all__ = [
    "KINDS",
    "ORDERS",
    "Bound",
    "Evaluation",
    "ProductErrors",
    "bound",
    "compositions",
    "evaluations",
    "products",
]
