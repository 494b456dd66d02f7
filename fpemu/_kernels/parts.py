"""Parts of kernels that are compiled for themselves, and called by their addresses.

A kernel with several choices in each of its parts is compiled for every choice of all.  A part is
compiled once for each of its own, and all kernels share it: they get its address as a number.  A
call takes some tens of cycles.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

__all__ = ["Part", "calling", "compiled", "emit_call"]

_RESULT: Final = types.intp


class Part(NamedTuple):
    """Something compiled: where it is, and what it takes."""

    address: int
    takes: str  # the types of its arguments, for `calling`


@functools.cache  # which keeps the function, too: its address stays good
def compiled(function: Any, *arguments: types.Type) -> Part:
    """A function of :func:`fpemu._kernels.caching.part`, compiled for arguments of some types."""
    function.compile(_RESULT(*arguments))
    result = function.overloads[arguments]
    address = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return Part(address, takes(*arguments))


def takes(*arguments: types.Type) -> str:
    """What a part takes, as kernels that call it close over it."""
    return ", ".join(map(str, arguments))


def emit_call(
    context: Any,
    builder: ir.IRBuilder,
    address: ir.Value,
    kinds: Sequence[types.Type],
    arguments: Sequence[ir.Value],
) -> ir.Value:
    """Call the part at an address, which takes arguments of these types and raises no errors."""
    kind = context.call_conv.get_function_type(_RESULT, kinds)
    function = builder.inttoptr(address, kind.as_pointer())
    _, result = context.call_conv.call_function(builder, function, _RESULT, kinds, arguments)
    return result


def calling(count: int) -> Any:
    """An intrinsic ``f(address, takes, *arguments)`` that calls a part with so many arguments.

    What the part takes is a constant, see :class:`Part`.  With other arguments a kernel is not
    compiled.
    """

    def typed(_typing_context: Any, address: Any, wanted: Any, *arguments: Any) -> Any:
        if not isinstance(wanted, types.StringLiteral):
            return None
        if wanted.literal_value != takes(*arguments):
            raise TypingError(f"a part takes {wanted.literal_value}, not {takes(*arguments)}")

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return emit_call(context, builder, values[0], arguments, values[2:])

        return _RESULT(address, wanted, *arguments), generate

    # Numba looks up the names of parameters, of which there are as many as a part has arguments.
    names = ["typing_context", "address", "takes", *(f"argument_{i}" for i in range(count))]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    typed.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    return intrinsic(typed)
