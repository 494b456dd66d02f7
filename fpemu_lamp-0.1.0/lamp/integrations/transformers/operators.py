"""Arithmetic between modules: sums, products and functions that a model writes with operators.

Each is exact and then rounded once, into the format of the step that it belongs to: the residual
stream, the gate of a feed-forward layer, the logits.  Queries and keys in front of attention are
computed in float64 and rounded where rotated parts are added, and by attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import fpemu
from fpemu.torch import EXACT, EXACT_OPERATIONS, Dispatch
from lamp.integrations.transformers import rotations
from lamp.integrations.transformers.running import Run, array, tensor
from lamp.integrations.transformers.weights import held
from lamp.machines import Function, Sum
from lamp.models import attention, layers

__all__ = ["Inline"]

_ATEN: Final = torch.ops.aten
_BINARY: Final[Mapping[str, Callable[..., Any]]] = {
    "add": fpemu.add,
    "sub": fpemu.subtract,
    "mul": fpemu.multiply,
    "div": fpemu.divide,
}
_IN_FLOAT64: Final[Mapping[str, Callable[..., Any]]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
}
_ACTIVATIONS: Final = ("silu", "relu", "sigmoid", "tanh")
_SEQUENCES: Final = (list, tuple)
_POSITIONAL: Final = "_lamp_positional"
"""Marks memory whose numbers come from positions, not from the model: they are torch's affair."""


class _Kind(NamedTuple):
    """What is known of an operation, whatever it is called with.

    Parameters
    ----------
    operation : object
        The operation itself.  It is kept, so that no other one gets its id.
    is_view, is_exact, is_embedding, is_mutable : bool
        An exact one rounds nothing, and gives new tensors.
    handler : callable or None
        What computes its result, if this is all that it does.
    """

    operation: Any
    is_view: bool
    is_exact: bool
    is_embedding: bool
    is_mutable: bool
    handler: Callable[..., Any] | None


class Inline(Dispatch):
    """The mode in which a model runs.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        table: dict[Any, Any] = dict(EXACT_OPERATIONS)
        table |= {getattr(_ATEN, name): self._binary(name) for name in _BINARY}
        table |= {getattr(_ATEN, name): self._function(name) for name in _ACTIVATIONS}
        table |= {
            _ATEN.mm: self._mm,
            _ATEN.addmm: self._addmm,
            _ATEN.rsub: self._rsub,
            _ATEN.gelu: self._gelu,
            _ATEN._softmax: self._softmax,
            _ATEN.softmax: self._softmax,
            _ATEN._to_copy: self._cast,
            _ATEN.sum: self._sum,
            _ATEN.embedding: self._embedding,
        }
        super().__init__(table)
        self._kinds: dict[int, _Kind] = {}
        self._has_marked = False

    # Generation runs this a thousand times per token: it asks nothing twice.
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = self._kinds.get(id(func)) or self._kind(func)
        if kind.is_view:
            return func(*args, **kwargs)
        read = _read(args)
        if kwargs:
            read += _read(kwargs.values())
        if not read or (self._has_marked and all(hasattr(memory, _POSITIONAL) for memory in read)):
            result = func(*args, **kwargs)
            self._has_marked |= _mark(result, True)
            return result
        if not kind.is_embedding:
            self._check_held(func, read)
        if kind.is_exact:
            return func(*args, **kwargs)
        try:
            if kind.handler is not None:
                result = _handled(func, kind.handler, args, kwargs)
                if result is not NotImplemented:
                    return result
            result = super().__torch_dispatch__(func, types, args, kwargs)
            if kind.is_mutable:
                _mark(result, False)  # numbers of the model have been written to it
            return result
        except NotImplementedError as error:
            raise NotImplementedError(
                f"{func} is not known in layer {self.run.layer}, at {self.run.place}: it would be "
                "computed in torch's own arithmetic"
            ) from error

    def _kind(self, func: Any) -> _Kind:
        """What is known of an operation, asked once."""
        packet, is_mutable = func.overloadpacket, func._schema.is_mutable
        entry = None if is_mutable else self.table.get(func, self.table.get(packet))
        handler = entry if callable(entry) else None
        is_embedding = packet is _ATEN.embedding
        found = _Kind(func, func.is_view, entry == EXACT, is_embedding, is_mutable, handler)
        self._kinds[id(func)] = found
        return found

    def _check_held(self, func: Any, read: list[Any]) -> None:
        """Raise an error if an operation reads weights that are yet to be rounded."""
        large = self.run.large
        for memory in read:
            if memory.data_ptr() in large:
                raise NotImplementedError(
                    f"{func} reads weights of a linear layer, of experts or of an embedding in "
                    f"layer {self.run.layer}, at {self.run.place}: only these modules themselves "
                    "read them"
                )

    # --- handlers ---------------------------------------------------------------------------------

    def _binary(self, name: str) -> Callable[..., Any]:
        def handler(a: Any, b: Any, *, alpha: Any = 1, rounding_mode: Any = None) -> Any:
            if alpha != 1 or rounding_mode is not None:
                return NotImplemented
            return self._combine(name, a, b)

        return handler

    def _rsub(self, a: Any, b: Any, alpha: Any = 1) -> Any:
        return NotImplemented if alpha != 1 else self._combine("sub", b, a)

    def _combine(self, name: str, a: Any, b: Any) -> Any:
        run, x, y = self.run, _number(a), _number(b)
        if not (_is_floating(x) or _is_floating(y)):
            return NotImplemented
        if run.place == "qkv":
            return self._in_front_of_attention(name, x, y)
        if name == "add" and run.candidates:
            candidates = run.candidates.pop(id(b), None) or run.candidates.pop(id(a), None)
            if candidates is not None:
                found = tensor(candidates(x if b is candidates.tensor else y))
                run.show(run.adding, found)
                return found
        both = getattr(x, "ndim", 0) > 0 and getattr(y, "ndim", 0) > 0
        found = _tensor(self._rounded(_BINARY[name], self._step(name, both), x, y))
        if name == "add" and both and run.adding:
            run.show(run.adding, found)
        return found

    def _in_front_of_attention(self, name: str, x: Any, y: Any) -> Any:
        """Rotations of queries and keys, in float64; their sums are rounded as queries are."""
        out = _IN_FLOAT64[name](x, y, dtype=np.float64)
        if name in ("mul", "div"):
            return torch.from_numpy(np.asarray(out))
        return torch.from_numpy(rotations.rounded(out, self.run))

    # --- products by bare weights -----------------------------------------------------------------

    def _mm(self, x: torch.Tensor, weight: torch.Tensor) -> Any:
        return self._product(None, x, weight)

    def _addmm(
        self, bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, **scales: Any
    ) -> Any:
        return NotImplemented if scales else self._product(bias, x, weight)

    def _product(self, bias: torch.Tensor | None, x: torch.Tensor, weight: torch.Tensor) -> Any:
        """A router's logits: a product by weights that no module of their own holds."""
        run = self.run
        if run.place != "block" or not run.is_weight(weight):
            return NotImplemented
        numbers = None if bias is None else array(bias)
        matrix = layers.Matrix(array(weight), numbers, run.machine.weights)
        run.multiply_adds += len(x) * matrix.size
        found = layers.linear(np.ascontiguousarray(array(x)), matrix, run.machine.mlp_up)
        run.adding = ""
        run.observe("router", found)
        return tensor(found)

    def _step(self, name: str, both: bool) -> Any:
        """The format and rounding of an inline operation."""
        machine, place = self.run.machine, self.run.place
        if place == "embedding":
            return machine.embedding
        if place == "head":
            return Sum(machine.lm_head.output, machine.lm_head.rounding)
        if place == "attention_output":
            return Sum(machine.attention_output.output, machine.attention_output.rounding)
        if not both or name in ("add", "sub"):
            return machine.residual
        return machine.activation if name == "mul" else machine.softmax  # of a router

    def _rounded(
        self, operation: Callable[..., Any], step: Sum | Function, *given: Any
    ) -> NDArray[Any]:
        """An operation, exact and rounded once; text by text where it draws random bits."""
        if step.is_stochastic:
            spread = np.broadcast_arrays(*given)
            if spread[0].ndim >= 3 and len(spread[0]) > 1:
                texts = (map(np.ascontiguousarray, text) for text in zip(*spread, strict=True))
                return np.stack([self._once(operation, step, *text) for text in texts])
        return self._once(operation, step, *given)

    def _once(
        self, operation: Callable[..., Any], step: Sum | Function, *given: Any
    ) -> NDArray[Any]:
        found = operation(*given, step.output, step.rounding)
        return np.asarray(found).astype(self.run.carrier, copy=False)

    def _function(self, name: str) -> Callable[..., Any]:
        def handler(x: torch.Tensor) -> torch.Tensor:
            return self._activated(x, name)

        return handler

    def _gelu(self, x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
        return self._activated(x, "gelu" if approximate == "none" else "gelu_new")

    def _activated(self, x: torch.Tensor, name: str) -> torch.Tensor:
        step = self.run.machine.activation
        if self.run.place == "head":
            step = Function(self.run.machine.lm_head.output, self.run.machine.lm_head.rounding)
        return tensor(layers.activation(np.ascontiguousarray(array(x)), name, step))

    def _softmax(self, x: torch.Tensor, dim: int, *_: Any, **__: Any) -> Any:
        if dim not in (-1, x.ndim - 1) or self.run.place == "qkv":
            return NotImplemented
        rows = np.ascontiguousarray(array(x)).reshape(-1, x.shape[-1])
        lengths = np.full(len(rows), rows.shape[1], np.int64)
        found = attention.softmax(rows, lengths, self.run.machine.softmax)
        return tensor(found.reshape(tuple(x.shape)))

    def _sum(self, x: torch.Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
        """A sum of few numbers, as that of a router's probabilities: in float64, rounded once."""
        if not x.is_floating_point() or dim is None or self.run.place != "block":
            return NotImplemented
        wide = x.double().sum(dim, keepdim)
        step = self.run.machine.softmax
        found = fpemu.round(array(wide), step.output, step.rounding)
        return tensor(np.asarray(found).astype(self.run.carrier, copy=False))

    def _embedding(self, weight: torch.Tensor, numbers: torch.Tensor, *_: Any) -> torch.Tensor:
        """Rows of a table, as the machine holds them."""
        found = held(_ATEN.embedding(weight, numbers), self.run.machine.weights, self.run.carrier)
        return tensor(found.astype(self.run.carrier, copy=False))

    def _cast(self, x: torch.Tensor, **options: Any) -> Any:
        """A cast: numbers of the model stay in the machine's carrier."""
        to = options.get("dtype")
        if x.is_floating_point() and to is not None and to.is_floating_point:
            return x.clone()
        found = _ATEN._to_copy(x, **options)
        return found


def _handled(func: Any, handler: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A handler's result; errors are those of :class:`fpemu.torch.Dispatch`."""
    try:
        return handler(*args, **kwargs)
    except TypeError as error:
        raise RuntimeError(f"{func}: {error}") from error
    except ValueError as error:
        error.add_note(f"in {func}")
        raise


def _number(x: Any) -> Any:
    """A tensor's numbers, or a Python number."""
    if not isinstance(x, torch.Tensor):
        return x
    return (x.detach() if x.requires_grad else x).numpy()


def _tensor(x: NDArray[Any]) -> torch.Tensor:
    """An array as a tensor, without a copy: in a handler no mode is on that would see it."""
    return torch.from_numpy(np.ascontiguousarray(x))


def _is_floating(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def _read(args: Iterable[Any]) -> list[Any]:
    """The memory of the floating-point tensors among arguments."""
    found = []
    for given in args:
        if isinstance(given, torch.Tensor):
            if given.is_floating_point():
                found.append(given.untyped_storage())
        elif isinstance(given, _SEQUENCES):
            found += _read(given)
    return found


def _mark(result: Any, positional: bool) -> bool:
    """Note whether floating-point numbers come from positions, for all views of their memory.

    Returns
    -------
    bool
        Whether they do.
    """
    if not isinstance(result, torch.Tensor) or not result.is_floating_point():
        return False
    memory = result.untyped_storage()
    if positional:
        setattr(memory, _POSITIONAL, True)
    elif hasattr(memory, _POSITIONAL):
        delattr(memory, _POSITIONAL)
    return positional
