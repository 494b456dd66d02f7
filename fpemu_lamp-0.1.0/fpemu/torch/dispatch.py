"""The dispatch of torch's operations by a table: what runs which way, counted by name.

A table maps operations to handlers, functions that take the arguments of the operation and return
its result.  The key ``aten.add`` stands for all overloads, and for the in-place and ``out=``
variants, of which the dispatch takes care; the key of one overload, such as ``aten.max.dim``,
comes first.  What is in no table is taken apart by torch into operations that may be.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["EXACT", "TORCH", "Counts", "Dispatch", "Handler", "Unknown", "floating", "tensors_in"]

Handler = Callable[..., Any]
Unknown = Literal["raise", "pass"]

EXACT: Final = "exact"
"""In a table in place of a handler: the operation rounds nothing and runs as it is."""
TORCH: Final = "torch"
"""In a table in place of a handler: the operation is left to torch's own arithmetic."""

_WAYS: Final = {
    "emulated": "by a handler",
    EXACT: "as it is: nothing is rounded",
    "decomposed": "taken apart into other operations",
    "approximate": "functions within these, in float64 and then rounded",
    TORCH: "in torch's own arithmetic, as was asked for",
    "unknown": "in torch's own arithmetic: not emulated",
}


class Counts:
    """How often which operations ran, and which way.

    Attributes
    ----------
    emulated, exact, decomposed, torch, unknown : collections.Counter
        How often each operation ran by a handler, as it is because it rounds nothing, taken apart
        by torch into other operations, in torch's own arithmetic because that was asked for, and
        in torch's own arithmetic because it is not emulated (``unknown="pass"``).
    approximate : collections.Counter
        The functions within emulated operations that were evaluated in float64 and then rounded,
        because fpemu has them not correctly rounded: nearly always the same, but not for certain.

    Examples
    --------
    >>> from fpemu.torch import Counts
    >>> counts = Counts()
    >>> counts.emulated["mm"] += 2
    >>> counts
    emulated     mm  2  by a handler
    >>> counts["mm"]
    {'emulated': 2}
    """

    def __init__(self) -> None:
        self.emulated: Counter[str] = Counter()
        self.exact: Counter[str] = Counter()
        self.decomposed: Counter[str] = Counter()
        self.approximate: Counter[str] = Counter()
        self.torch: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Way, operation and number of times, the most frequent first within a way."""
        for way in _WAYS:
            for name, times in getattr(self, way).most_common():
                yield way, name, times

    def __getitem__(self, operation: str) -> dict[str, int]:
        """How often an operation ran each way, without the ways that it did not."""
        return {way: times for way, name, times in self.rows() if name == operation}

    def __repr__(self) -> str:
        rows = [*self.rows()]
        if not rows:
            return "no operation ran"
        names = max(len(name) for _, name, _ in rows)
        times = max(len(str(number)) for _, _, number in rows)
        return "\n".join(
            f"{way:11}  {name:{names}}  {number:{times}}  {_WAYS[way]}"
            for way, name, number in rows
        )


# --- what torch says of an operation --------------------------------------------------------------


class _Facts(NamedTuple):
    """What torch says of an operation.

    Parameters
    ----------
    keys : tuple
        In a table.
    name : str
    outputs : tuple of str
        The arguments of ``out=`` that it writes.
    in_place : bool
        Whether it writes its first argument.
    composite : bool
    """

    keys: tuple[Any, ...]
    name: str
    outputs: tuple[str, ...]
    in_place: bool
    composite: bool


@functools.cache
def _facts(func: Any) -> _Facts:
    """What torch says of an operation, asked once."""
    schema, packet = func._schema, func.overloadpacket
    written = [each for each in schema.arguments if each.alias_info and each.alias_info.is_write]
    outputs = tuple(each.name for each in written if each.kwarg_only)
    keys = [func, packet]
    namespace, _, name = schema.name.partition("::")
    if written and (outputs or name.endswith("_")):
        functional = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
        overload = func._overloadname
        overload = (
            (overload.removesuffix("out").removesuffix("_") or "default") if outputs else overload
        )
        keys += [getattr(functional, overload, None), functional]
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), "CompositeImplicitAutograd"
    )
    first = schema.arguments[0].alias_info if schema.arguments else None
    in_place = first is not None and first.is_write and not outputs
    name = str(packet).removeprefix("aten.")
    return _Facts(tuple(keys), name, outputs, in_place, composite)


def tensors_in(arguments: Any) -> Iterator[Any]:
    """The tensors among arguments, those in lists included."""
    if isinstance(arguments, torch.Tensor):
        yield arguments
    elif isinstance(arguments, Mapping):
        yield from tensors_in([*arguments.values()])
    elif isinstance(arguments, list | tuple):
        for each in arguments:
            yield from tensors_in(each)


def floating(arguments: Any) -> bool:
    """Whether there is a tensor of floating-point or complex numbers among arguments."""
    return any(each.is_floating_point() or each.is_complex() for each in tensors_in(arguments))


# --- the mode -------------------------------------------------------------------------------------


class Dispatch(TorchDispatchMode):  # type: ignore[misc]
    """A mode in which torch's operations run by a table.

    Parameters
    ----------
    table : mapping
        From an operation, such as ``torch.ops.aten.add`` or an overload of it, to a handler,
        `EXACT` or `TORCH`.  A handler takes the operation's arguments, without those of ``out=``,
        and returns its result as new tensors, whose numbers the dispatch writes where they are
        due.  It may return `EXACT` or `TORCH`, or NotImplemented: then the operation counts as
        one that is not in the table.
    decompositions : callable, optional
        Gives for an overload of an operation a function of its arguments that runs it as other
        operations, or None.  Operations that torch itself composes of others are always taken
        apart.
    unknown : {"raise", "pass"}
        What to do with an operation on floating-point numbers that no rule covers.
    counts : Counts, optional
        Where to count.

    Notes
    -----
    The rules, the first that applies: the table; views and operations that touch no floating-point
    number run as they are; composites and those with a decomposition are taken apart; the others
    are unknown.  A mode belongs to its thread: operations of other threads are not seen.
    """

    def __init__(
        self,
        table: Mapping[Any, Handler | str],
        *,
        decompositions: Callable[[Any], Handler | None] | None = None,
        unknown: Unknown = "raise",
        counts: Counts | None = None,
    ) -> None:
        if unknown not in ("raise", "pass"):
            raise ValueError(f"unknown must be 'raise' or 'pass', not {unknown!r}")
        super().__init__()
        self.table = table
        self.decompositions = decompositions
        self.unknown = unknown
        self.counts = Counts() if counts is None else counts

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch's switch: True would import its compiler, for seconds, at the first operation."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        keys, name, outputs, in_place, composite = _facts(func)
        entry: Any = None
        for key in keys:
            if key in self.table:
                entry = self.table[key]
                break
        if callable(entry):
            result = _named(func, entry, args, _without(outputs, kwargs))
            if result is not NotImplemented and not isinstance(result, str):
                self.counts.emulated[name] += 1
                if in_place:
                    return _put(args[0], result)
                return _written(result, outputs, kwargs) if outputs else result
            entry = result
        if entry == EXACT or (entry == TORCH and floating((args, kwargs))):
            getattr(self.counts, entry)[name] += 1
            return func(*args, **kwargs)
        if func.is_view or torch.Tag.inplace_view in func.tags:
            self.counts.exact[name] += 1
            return func(*args, **kwargs)
        if composite and not outputs:
            self.counts.decomposed[name] += 1
            with self:
                return _named(func, func.decompose, args, kwargs)
        taken_apart, functional = self._decomposition(keys, functional=bool(outputs))
        if taken_apart is None:
            return self._unlisted(func, name, args, kwargs)
        self.counts.decomposed[name] += 1
        with self:
            result = _named(func, taken_apart, args, _without(outputs, kwargs))
        if not functional:
            return result
        if outputs:
            return _written(result, outputs, kwargs)
        return _put(args[0], result) if in_place else result

    def _decomposition(self, keys: Any, *, functional: bool) -> tuple[Handler | None, bool]:
        """How an operation is taken apart, or its functional variant, and whether it is that."""
        for key in keys if self.decompositions is not None else ():
            variant = key is not keys[0]
            if isinstance(key, torch._ops.OpOverload) and (variant or not functional):
                found = self.decompositions(key)  # type: ignore[misc]
                if found is not None:
                    return found, variant
        return None, False

    def _unlisted(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """An operation that no rule knows: harmless if no floating-point number is involved."""
        if not floating((args, kwargs)):
            result = func(*args, **kwargs)
            if not floating(result) or not any(True for _ in tensors_in((args, kwargs))):
                self.counts.exact[name] += 1
                return result
        if self.unknown == "raise":
            raise NotImplementedError(
                f"{func} is not emulated: torch would compute it in its own arithmetic; "
                "unknown='pass' lets it, and counts it"
            )
        self.counts.unknown[name] += 1
        return func(*args, **kwargs)


def _named(func: Any, handler: Handler, args: Any, kwargs: Any) -> Any:
    """A handler's result; errors say in which operation they arose.

    A TypeError becomes a RuntimeError, as torch has it: in an operator such as ``+`` Python would
    take it for a sign that there is no such operator, and the message would be lost.
    """
    try:
        return handler(*args, **kwargs)
    except TypeError as error:
        raise RuntimeError(f"{func}: {error}") from error
    except (ValueError, NotImplementedError) as error:
        error.add_note(f"in {func}")
        raise


def _without(outputs: tuple[str, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments without those of ``out=``."""
    return {key: x for key, x in kwargs.items() if key not in outputs} if outputs else kwargs


def _written(result: Any, outputs: tuple[str, ...], kwargs: dict[str, Any]) -> Any:
    """A result in the arguments of ``out=``."""
    results = result if isinstance(result, tuple) else (result,)
    written = tuple(map(_put, (kwargs[key] for key in outputs), results))
    return written if len(written) > 1 else written[0]


def _put(target: Any, result: Any) -> Any:
    """The target, with the numbers of a result in it."""
    if not torch.can_cast(result.dtype, target.dtype):
        raise RuntimeError(
            f"a result of dtype {result.dtype} cannot be written to a tensor of {target.dtype}"
        )
    if target.shape != result.shape:
        if target.numel():
            raise RuntimeError(
                f"a result of shape {tuple(result.shape)} cannot be written to a tensor of shape "
                f"{tuple(target.shape)}"
            )
        target.resize_(result.shape)
    return target.copy_(result)
