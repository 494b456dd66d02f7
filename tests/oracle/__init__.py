"""Exact oracles: slow, built on integers and rationals, sharing no code with the kernels."""
