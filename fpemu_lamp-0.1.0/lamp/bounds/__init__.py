"""Error bounds of f(g(x)): the functions f, their evaluations, and what errors of g do."""

from lamp.bounds import compositions, evaluations
from lamp.bounds.errors import ORDERS, Bound, bound
from lamp.bounds.evaluations import Evaluation
from lamp.bounds.inner_products import KINDS, Kernel, ProductErrors, products

__all__ = [
    "KINDS",
    "ORDERS",
    "Bound",
    "Evaluation",
    "Kernel",
    "ProductErrors",
    "bound",
    "compositions",
    "evaluations",
    "products",
]
