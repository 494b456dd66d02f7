"""Queries and keys rotated by their positions, in one piece.

The attention of a family calls a function of its module that rotates queries and keys.  On a
machine it calls another one in its place: the same numbers, by a quarter of the operations.  Such
functions are told by their parameters, and tried on random numbers of the shapes that they are
called with.  One that computes anything else runs as it is, operation by operation.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

import fpemu
from lamp.integrations.transformers.running import Run, unseen

__all__ = ["in_one_piece", "rounded"]

_PARAMETERS: Final = ("q", "k", "cos", "sin", "unsqueeze_dim")
_TABLES: Final = {1: np.s_[:, None], 2: np.s_[:, :, None]}
"""What makes tables of shape (texts, rows, d) broadcast, by the axis of the heads."""
_WHOLE: Final = (slice(None),) * max(_TABLES)
_SHAPES: Final = 64  # that a function is remembered to be known for


def in_one_piece(forward: Callable[..., Any], run: Run) -> Callable[..., Any]:
    """The forward function of an attention module, which rotates queries and keys in one piece.

    Parameters
    ----------
    forward : callable
        A method of the module.  Neither it nor what it calls is changed.
    run : Run

    Returns
    -------
    callable
        The method itself if it calls no function that rotates.
    """
    plain = inspect.unwrap(forward.__func__) if isinstance(forward, MethodType) else None
    if not isinstance(plain, FunctionType):
        return forward
    called = {name: plain.__globals__.get(name) for name in plain.__code__.co_names}
    rotations = {
        name: _rotation(function, run)
        for name, function in called.items()
        if isinstance(function, FunctionType)
        and tuple(inspect.signature(function).parameters) == _PARAMETERS
    }
    if not rotations:
        return forward
    bound: Any = forward
    return MethodType(_calling(bound.__func__, rotations), bound.__self__)


def _calling(function: Any, others: Mapping[str, Callable[..., Any]]) -> Any:
    """A copy of a function that calls others, by the names of those of its module.

    In a decorated function it is the function that the decorator keeps.
    """
    inner = getattr(function, "__wrapped__", None)
    known, cells = function.__globals__, function.__closure__
    if inner is None:
        known = {**known, **others}
    else:
        copied = _calling(inner, others)
        cells = tuple(CellType(copied) if _holds(cell, inner) else cell for cell in cells or ())
    found = FunctionType(function.__code__, known, function.__name__, function.__defaults__, cells)
    found.__kwdefaults__ = function.__kwdefaults__
    found.__dict__ |= function.__dict__ | ({} if inner is None else {"__wrapped__": copied})
    return found


def _holds(cell: CellType, function: Any) -> bool:
    try:
        return cell.cell_contents is function
    except ValueError:  # an empty cell
        return False


# --- rotating -------------------------------------------------------------------------------------


def _rotation(own: Callable[..., Any], run: Run) -> Callable[..., Any]:
    """What takes the place of a function of transformers that rotates queries and keys."""
    usual = inspect.signature(own).parameters[_PARAMETERS[-1]].default

    @functools.lru_cache(1)  # many layers have the same ones
    def numbers_of(cos: torch.Tensor, sin: torch.Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
        return cos.numpy(), sin.numpy()

    @functools.lru_cache(_SHAPES)
    def is_known(axis: int, *shapes: tuple[int, ...]) -> bool:
        return _is_known(own, axis, shapes)

    def rotation(
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        unsqueeze_dim: int = usual,
    ) -> Any:
        given = q, k, cos, sin
        shapes = (getattr(x, "shape", ()) for x in given)
        if run.place != "qkv" or not is_known(unsqueeze_dim, *shapes):
            return own(*given, unsqueeze_dim)
        with unseen():
            numbers = q.numpy(), k.numpy(), *numbers_of(cos, sin)
            return tuple(map(torch.from_numpy, _rotated(numbers, unsqueeze_dim, run)))

    return rotation


def _is_known(own: Callable[..., Any], axis: int, shapes: tuple[tuple[int, ...], ...]) -> bool:
    """Whether a function gives what we do, bit for bit, for random numbers of some shapes."""
    query, key, cosine, sine = map(tuple, shapes)
    if axis not in _TABLES or (len(query), len(cosine), cosine) != (4, 3, sine):
        return False
    if cosine[-1] % 2 or query[:axis] + query[axis + 1 :] != key[:axis] + key[axis + 1 :]:
        return False
    random = np.random.default_rng(0)
    q, k, cos, sin = (random.standard_normal(shape) for shape in (query, key, cosine, sine))
    tables = cos[_TABLES[axis]], sin[_TABLES[axis]]
    try:
        with unseen():
            found = own(*map(torch.from_numpy, (q, k, cos, sin)), axis)
            parts = [x.numpy() for x in found]
        expected = [_with_rest(_turned(x, *tables), x) for x in (q, k)]
        return all(map(np.array_equal, parts, expected)) and len(parts) == 2
    except Exception:  # of a function that takes or gives something else
        return False


def _rotated(
    given: tuple[NDArray[Any], ...], axis: int, run: Run
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Queries and keys, rotated and rounded: side by side, unless each draws random bits."""
    query, key, cos, sin = given
    tables = cos[_TABLES[axis]], sin[_TABLES[axis]]
    if run.machine.qkv.rounding.is_stochastic:
        first, second = (_with_rest(rounded(_turned(x, *tables), run), x) for x in (query, key))
        return first, second
    both = np.concatenate([query, key], axis)
    found = _with_rest(rounded(_turned(both, *tables), run), both)
    parts = (slice(query.shape[axis]), slice(query.shape[axis], None))
    first, second = (found[(*_WHOLE[:axis], part)] for part in parts)
    return first, second


def _turned(x: NDArray[Any], cosine: NDArray[Any], sine: NDArray[Any]) -> NDArray[Any]:
    """Rotated in float64 as far as the tables go: two products and their sum, as natively."""
    width, half = cosine.shape[-1], cosine.shape[-1] // 2
    wide = x.astype(np.float64)
    out: NDArray[Any] = wide[..., :width] * cosine
    out[..., :half] -= wide[..., half:width] * sine[..., :half]
    out[..., half:] += wide[..., :half] * sine[..., half:]
    return out


def _with_rest(turned: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Rotated numbers, and those behind them that no table is for."""
    width = turned.shape[-1]
    return turned if width == x.shape[-1] else np.concatenate([turned, x[..., width:]], axis=-1)


def rounded(sums: NDArray[Any], run: Run) -> NDArray[Any]:
    """Rotated queries or keys, rounded as the step qkv is; text by text if that is at random."""
    step, which = run.machine.qkv, ("query", "key")[min(run.rotated, 1)]
    run.rotated += 1
    rounding = step.rounding.derived("rotary", which)
    apart = rounding.is_stochastic and sums.ndim == 4
    parts = [
        np.asarray(fpemu.round(np.ascontiguousarray(part), step.output, rounding))
        for part in (sums if apart else (sums,))
    ]
    found = np.stack(parts) if apart else parts[0]
    return np.ascontiguousarray(found.astype(run.carrier, copy=False))
