"""What ``help`` and ``dir`` list of data classes: what people call, without the machinery."""

from __future__ import annotations

import inspect

__all__ = ["Listed"]


class Listed(type):
    """Metaclass of data classes whose docstring says all that ``help`` should show of them.

    ``help`` lists what ``dir`` of a class returns.  Here these are the functions that are called
    on the class itself, not the methods and fields of its instances, nor what a dataclass
    generates: `enum.EnumType` restricts ``dir`` for the same reason.  ``dir`` of an instance, and
    ``help`` of a method, show all that they do for other classes.
    """

    def __dir__(cls) -> list[str]:
        return [
            name
            for name in super().__dir__()
            if not name.startswith("_")
            and isinstance(inspect.getattr_static(cls, name), (classmethod, staticmethod))
        ]

    @property
    def __signature__(cls) -> inspect.Signature:
        """The arguments and their defaults; the docstring has their types."""
        _, *arguments = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
        return inspect.Signature([each.replace(annotation=each.empty) for each in arguments])
