"""Machines: the arithmetic of every step of a model, as data, by name and in TOML files."""

from lamp.machines import files
from lamp.machines.differences import Difference, differences
from lamp.machines.machine import STEPS, Function, Hardware, Product, Sum
from lamp.machines.named import HardwareLike, hardware, names, summary
from lamp.machines.products import Operand

__all__ = [
    "STEPS",
    "Difference",
    "Function",
    "Hardware",
    "HardwareLike",
    "Operand",
    "Product",
    "Sum",
    "differences",
    "files",
    "hardware",
    "names",
    "summary",
]
