"""Packages whose modules are imported when one of their names is first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(
    package: str, names: Mapping[str, str], extra: str = ""
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``, so that importing it costs nothing.

    Parameters
    ----------
    package : str
        The package's name.
    names : mapping of str to str
        The public names of each module, with spaces between them.
    extra : str, optional
        The extra that installs what the modules import.

    Returns
    -------
    getattr, dir : callable
        The first gives a public name from its module, or a module of the package.
    """
    modules = {name: module for module, each in names.items() for name in each.split()}
    namespace = vars(sys.modules[package])

    def get(name: str) -> Any:
        module = f"{package}.{modules.get(name, name)}"
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                if not extra:
                    raise
                message = f"{error}: pip install 'fpemu-lamp[{extra}]'"
                raise ModuleNotFoundError(message, name=error.name) from error
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        if name in modules:
            found = namespace[name] = getattr(found, name)
        return found

    def listed() -> list[str]:
        return sorted({*namespace, *namespace["__all__"]})

    return get, listed
