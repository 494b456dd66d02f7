"""What results depend on apart from their inputs: the version of the numbers, and of packages."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Final

__all__ = ["NUMERICS", "versions"]

NUMERICS: Final = 4
"""The numerics version.  Raise it whenever a result changes by a bit, for whatever reason.

Results are what an operation of fpemu rounds to, the logits of a model on a machine, the
components that a rule picks, and metrics.  A faster kernel with the same bits leaves the version
alone, as does everything that plans, stores or shows results.  The key of a run holds the version,
so that a store never takes a run from before such a change for one from after it.
``tests/lamp/evaluation/test_numerics.py`` compares digests of results with those stored for the
version, and says when it must be raised.
"""

_PACKAGES: Final = ("fpemu-lamp", "numpy", "numba")


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that results may depend on.

    Returns
    -------
    dict
        None for what is not installed as a package.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
