"""fpemu: what the floating-point arithmetic of a machine does, bit for bit."""

from fpemu import formats
from fpemu.formats import Format, format
from fpemu.rounding import Rounding, round

__all__ = ["Format", "Rounding", "format", "formats", "round"]
