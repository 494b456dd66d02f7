"""Machines: the arithmetic of every step of a model as data, by name, in TOML files, compared."""

from lamp.machines import files
from lamp.machines.definitions import definitions
from lamp.machines.descriptions import summary
from lamp.machines.differences import Difference, differences
from lamp.machines.files import HardwareLike, hardware
from lamp.machines.layers import in_words, layer_numbers, read_numbers, spelled
from lamp.machines.machine import (
    LAYER_FIELDS,
    OTHERWISE,
    STEPS,
    Hardware,
    UnusedStepWarning,
    digest,
)
from lamp.machines.orders import Order, sorted_channels
from lamp.machines.presets import names
from lamp.machines.products import Operand
from lamp.machines.steps import Function, Product, Sum, Tiled

__all__ = [
    "LAYER_FIELDS",
    "OTHERWISE",
    "STEPS",
    "Difference",
    "Function",
    "Hardware",
    "HardwareLike",
    "Operand",
    "Order",
    "Product",
    "Sum",
    "Tiled",
    "UnusedStepWarning",
    "definitions",
    "differences",
    "digest",
    "files",
    "hardware",
    "in_words",
    "layer_numbers",
    "names",
    "read_numbers",
    "sorted_channels",
    "spelled",
    "summary",
]
