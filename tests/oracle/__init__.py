"""Exact oracles: slow, built on integers and Fractions, sharing no code with the kernels."""
