"""Tuning: the cheapest machine, step by step and layer by layer, for an allowed divergence."""
