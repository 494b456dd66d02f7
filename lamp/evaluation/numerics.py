"""The version of the numbers: what makes two results comparable."""

from __future__ import annotations

from typing import Final

__all__ = ["NUMERICS"]

NUMERICS: Final = 1
"""Raise it whenever any result changes by a bit, for whatever reason.

That is a change of what an operation of fpemu rounds to, of the logits of a model on a machine, of
what a rule picks, or of a metric; a faster kernel with the same bits and everything that only
plans, stores or shows results leave it alone.  The key of a run holds it, so that runs from before
such a change are never taken for runs from after it.  ``tests/lamp/evaluation/test_numerics.py``
holds digests of results against it and says when to raise it.
"""
