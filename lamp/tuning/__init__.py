"""Tuning: the cheapest machine, step by step and layer by layer, for an allowed divergence."""

from lamp.tuning.menus import TEXTS, Menu
from lamp.tuning.tuned import Choice, Measured, Tuned, tune
from lamp.tuning.tuner import Reading, Round

__all__ = ["TEXTS", "Choice", "Measured", "Menu", "Reading", "Round", "Tuned", "tune"]
