"""Sums, and what is made of them: means, variances, softmax, norms."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from numpy.lib.array_utils import normalize_axis_tuple

from fpemu.carriers import Carrier
from fpemu.torch.arithmetic import Arithmetic, Steps
from fpemu.torch.dispatch import EXACT, Handler
from fpemu.torch.products import padded, windows
from fpemu.torch.tensors import carrier, tensor, tensor_like

__all__ = ["SUMS"]

aten = torch.ops.aten


def _input(x: Any, dtype: Any) -> Any:
    """The tensor to reduce, which torch first brings to the dtype that is asked for."""
    return x if dtype is None or dtype == x.dtype else x.to(dtype)


def _rows(x: Carrier, dim: Any) -> tuple[Carrier, tuple[int, ...], tuple[int, ...]]:
    """Rows along the dimensions to reduce; the shapes of the result without and with these."""
    given = range(x.ndim) if dim is None or dim == [] else dim
    axes = () if x.ndim == 0 else normalize_axis_tuple(given, x.ndim)
    kept = tuple(i for i in range(x.ndim) if i not in axes)
    shape = tuple(x.shape[i] for i in kept)
    length = math.prod(x.shape[i] for i in axes)
    rows = x.transpose(*kept, *axes).reshape(*shape, length)
    return rows, shape, tuple(1 if i in axes else x.shape[i] for i in range(x.ndim))


# --- sums, means, variances -----------------------------------------------------------------------


def _mean(steps: Steps, rows: Carrier) -> Any:
    """The mean of rows, the axis kept, in the format of results."""
    return _quotient(steps, steps.sums(rows), rows.shape[-1])


def _quotient(steps: Steps, sums: Any, count: int) -> Any:
    exact = np.float32 if sums.dtype == np.float32 and count <= 2**24 else np.float64
    return steps.divide(sums, np.asarray(count, exact))


def _variance(steps: Steps, rows: Carrier, correction: Any = 0) -> tuple[Any, Any, Any]:
    """The variance of rows, the axis kept; their mean and their distances from it."""
    mean = _mean(steps, rows)
    centered = steps.subtract(rows, mean)
    count = max(0, rows.shape[-1] - correction)
    return _quotient(steps, steps.sums_of_squares(centered), count), mean, centered


def _reduction(arithmetic: Arithmetic, x: Any, dim: Any, keepdim: bool, compute: Any) -> Any:
    """The tensors that a function of steps and rows gives, axis kept, in the shape of a result."""
    rows, shape, shape_kept = _rows(carrier(x), dim)
    results = compute(arithmetic.steps(x.dtype), rows)
    made = [tensor(each.reshape(shape_kept if keepdim else shape), x.dtype) for each in results]
    return made[0] if len(made) == 1 else tuple(made)


def _sum(
    arithmetic: Arithmetic, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    x = _input(x, dtype)
    if not x.is_floating_point():
        return NotImplemented
    return _reduction(
        arithmetic, x, dim, keepdim, lambda steps, rows: [arithmetic.stored(steps.sums(rows))]
    )


def _mean_of(
    arithmetic: Arithmetic, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    x = _input(x, dtype)
    if not x.is_floating_point():
        return NotImplemented
    return _reduction(arithmetic, x, dim, keepdim, lambda steps, rows: [_mean(steps, rows)])


def _spread(*, root: bool, with_mean: bool) -> Handler:
    """``var``, ``std``, ``var_mean``, ``std_mean``."""

    def handler(
        arithmetic: Arithmetic,
        x: Any,
        dim: Any = None,
        *,
        correction: Any = None,
        keepdim: bool = False,
    ) -> Any:
        if not x.is_floating_point():
            return NotImplemented

        def compute(steps: Steps, rows: Carrier) -> Any:
            variance, mean, _ = _variance(steps, rows, 1 if correction is None else correction)
            spread = steps.sqrt(variance) if root else variance
            return [spread, mean] if with_mean else [spread]

        return _reduction(arithmetic, x, dim, keepdim, compute)

    return handler


def _vector_norm(
    arithmetic: Arithmetic,
    x: Any,
    ord: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    """The 2-norm and the 1-norm; the largest and the smallest magnitude are exact."""
    norms = {
        2: lambda steps, rows: [steps.sqrt(steps.sums_of_squares(rows))],
        1: lambda steps, rows: [arithmetic.stored(steps.sums(np.abs(rows)))],
        math.inf: lambda steps, rows: [np.abs(rows).max(axis=-1, keepdims=True)],
        -math.inf: lambda steps, rows: [np.abs(rows).min(axis=-1, keepdims=True)],
    }
    x = _input(x, dtype)
    if not x.is_floating_point() or ord not in norms:
        return NotImplemented
    return _reduction(arithmetic, x, dim, keepdim, norms[ord])


def _scanned(products: bool) -> Handler:
    """``cumsum`` and ``cumprod``, in the order of the indices."""

    def handler(arithmetic: Arithmetic, x: Any, dim: int, *, dtype: Any = None) -> Any:
        x = _input(x, dtype)
        if not x.is_floating_point():
            return NotImplemented
        if x.ndim == 0 or not x.numel():
            return x.clone()
        moved = np.moveaxis(carrier(x), dim, -1)
        rows = moved.reshape(-1, moved.shape[-1])
        running = arithmetic.steps(x.dtype).scan(rows, products=products)
        return tensor_like(np.moveaxis(running.reshape(moved.shape), -1, dim), x.dtype, x)

    return handler


def _prod(
    arithmetic: Arithmetic, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    x = _input(x, dtype)
    if not x.is_floating_point():
        return NotImplemented

    def compute(steps: Steps, rows: Carrier) -> Any:
        if not rows.shape[-1]:
            return [np.ones((*rows.shape[:-1], 1), rows.dtype)]
        return [steps.scan(rows.reshape(-1, rows.shape[-1]), products=True)[:, -1]]

    return _reduction(arithmetic, x, None if dim is None else [dim], keepdim, compute)


def _average_pool(
    arithmetic: Arithmetic,
    x: Any,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Sums over windows, divided by the number of terms; the zeros of padding are terms."""
    dimensions = len(kernel_size)
    if ceil_mode:
        return NotImplemented
    steps, sizes = arithmetic.steps(x.dtype), [*kernel_size]
    numbers = carrier(x).reshape(-1, 1, *x.shape[-dimensions:])
    around = [*padding] * (dimensions if len(padding) == 1 else 1)

    def patches(each: Any) -> Any:
        found = windows(padded(each, around, around), sizes, stride or sizes, [1] * dimensions)
        return found.reshape(*found.shape[: 2 + dimensions], -1)

    sums = steps.sums(patches(numbers))[..., 0]
    count = np.asarray(divisor_override or math.prod(sizes), np.float64)
    if not (count_include_pad or divisor_override):
        count = patches(np.ones_like(numbers[:1])).sum(axis=-1)
    means = steps.divide(sums, count)
    return tensor(means.reshape(*x.shape[:-dimensions], *means.shape[2:]), x.dtype)


# --- sums by index --------------------------------------------------------------------------------


def _accumulated(steps: Steps, x: Carrier, places: Any, values: Any) -> Any:
    """Numbers with values added at places of a flat array, one after the other where these agree.

    Each round adds to every place the next of its values.
    """
    result = np.array(x).reshape(-1)
    order = np.argsort(places, kind="stable")
    ordered, values = places[order], values[order]
    first = np.searchsorted(ordered, ordered)
    rank = np.arange(len(ordered)) - first
    for number in range(rank.max(initial=-1) + 1):
        now = rank == number
        result[ordered[now]] = steps.add(result[ordered[now]], values[now])
    return result.reshape(x.shape)


def _numbered(x: Any) -> Any:
    return torch.arange(x.numel()).reshape(x.shape)


def _index_put(
    arithmetic: Arithmetic, x: Any, indices: Any, values: Any, accumulate: bool = False
) -> Any:
    if not accumulate or not x.is_floating_point():
        return EXACT
    places = _numbered(x)[tuple(slice(None) if each is None else each for each in indices)]
    spread = carrier(values.expand(places.shape).contiguous()).reshape(-1)
    flat = places.reshape(-1).numpy()
    return tensor(_accumulated(arithmetic.steps(x.dtype), carrier(x), flat, spread), x.dtype)


def _scatter_add(arithmetic: Arithmetic, x: Any, dim: int, index: Any, src: Any) -> Any:
    if not x.is_floating_point():
        return EXACT
    places = _numbered(x).gather(dim, index).reshape(-1).numpy()
    part = src[tuple(slice(length) for length in index.shape)]
    spread = carrier(part.contiguous()).reshape(-1)
    return tensor(_accumulated(arithmetic.steps(x.dtype), carrier(x), places, spread), x.dtype)


# --- softmax --------------------------------------------------------------------------------------


def _exponentials(steps: Steps, rows: Carrier) -> tuple[Any, Any, Any]:
    """``x - max(x)`` and its exponential, which is zero where x is -inf, and where that is."""
    largest = rows.max(axis=-1, keepdims=True)
    masked = rows == -np.inf
    differences = steps.subtract(np.where(masked, largest, rows), largest)
    exponentials = steps.function("exp", differences)
    exponentials[masked] = 0.0
    return differences, exponentials, masked


def _softmax_rows(steps: Steps, rows: Carrier) -> Any:
    _, exponentials, _ = _exponentials(steps, rows)
    return steps.divide(exponentials, steps.sums(exponentials))


def _log_softmax_rows(steps: Steps, rows: Carrier) -> Any:
    differences, exponentials, masked = _exponentials(steps, rows)
    differences[masked] = -np.inf
    return steps.subtract(differences, steps.function("log", steps.sums(exponentials)))


def _safe_softmax_rows(steps: Steps, rows: Carrier) -> Any:
    """Rows of -inf alone become zeros."""
    empty = (rows == -np.inf).all(axis=-1, keepdims=True)
    return np.where(empty, rows.dtype.type(0), _softmax_rows(steps, np.where(empty, 0, rows)))


def _along(compute: Any) -> Handler:
    """A handler of a function of steps and rows, along a dimension of a tensor."""

    def handler(arithmetic: Arithmetic, x: Any, dim: int, *further: Any, **options: Any) -> Any:
        # Softmax has a flag behind: half to float; the safe one an optional dtype.
        wide = any(each is True for each in further)
        x = _input(x, torch.float32 if wide else options.get("dtype"))
        if not x.is_floating_point() or not x.numel():
            return x.clone()
        numbers = np.atleast_1d(carrier(x))
        rows = np.ascontiguousarray(np.moveaxis(numbers, dim, -1))
        result = np.moveaxis(compute(arithmetic.steps(x.dtype), rows), -1, dim)
        return tensor_like(np.ascontiguousarray(result).reshape(x.shape), x.dtype, x)

    return handler


def _logsumexp(arithmetic: Arithmetic, x: Any, dim: Any, keepdim: bool = False) -> Any:
    if not x.is_floating_point() or not x.numel():
        return NotImplemented

    def compute(steps: Steps, rows: Carrier) -> Any:
        _, exponentials, _ = _exponentials(steps, rows)
        largest = rows.max(axis=-1, keepdims=True)
        sums = steps.add(steps.function("log", steps.sums(exponentials)), largest)
        return [np.where(np.isinf(largest), largest, sums)]

    return _reduction(arithmetic, x, dim, keepdim, compute)


# --- norms ----------------------------------------------------------------------------------------


def _factor(steps: Steps, variance: Any, epsilon: float) -> Any:
    """``1 / sqrt(variance + epsilon)``."""
    return steps.function("rsqrt", steps.add(variance, np.float64(epsilon)))


def _affine(steps: Steps, rows: Any, weight: Any, bias: Any) -> Any:
    if weight is not None:
        rows = steps.multiply(rows, weight)
    return rows if bias is None else steps.add(rows, bias)


def _numbers(x: Any, *shape: int) -> Any:
    return None if x is None else carrier(x).reshape(shape)


def _layer_norm(
    arithmetic: Arithmetic, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float
) -> Any:
    shape, length = x.shape[: x.ndim - len(normalized_shape)], math.prod(normalized_shape)
    kept = (*shape, *[1] * len(normalized_shape))
    if not x.numel():
        return x.clone(), x.new_zeros(kept), x.new_zeros(kept)
    steps = arithmetic.steps(x.dtype)
    rows = carrier(x).reshape(*shape, length)
    variance, mean, centered = _variance(steps, rows)
    factor = _factor(steps, variance, eps)
    normalized = steps.multiply(centered, factor)
    result = _affine(steps, normalized, _numbers(weight, length), _numbers(bias, length))
    results = (result.reshape(x.shape), mean.reshape(kept), factor.reshape(kept))
    return tuple(tensor(each, x.dtype) for each in results)


def _group_norm(
    arithmetic: Arithmetic,
    x: Any,
    weight: Any,
    bias: Any,
    batch: int,
    channels: int,
    places: int,
    groups: int,
    eps: float,
) -> Any:
    if not x.numel():
        return x.clone(), x.new_zeros(batch, groups), x.new_zeros(batch, groups)
    steps = arithmetic.steps(x.dtype)
    rows = carrier(x).reshape(batch, groups, -1)
    variance, mean, centered = _variance(steps, rows)
    factor = _factor(steps, variance, eps)
    normalized = steps.multiply(centered, factor).reshape(batch, channels, places)
    parameters = (_numbers(each, channels, 1) for each in (weight, bias))
    result = _affine(steps, normalized, *parameters).reshape(x.shape)
    results = (result, mean.reshape(batch, groups), factor.reshape(batch, groups))
    return tuple(tensor(each, x.dtype) for each in results)


def _batch_norm(
    arithmetic: Arithmetic,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """With the statistics that are given; in training torch takes the norm apart."""
    if training:
        return NotImplemented
    steps = arithmetic.steps(x.dtype)
    shape = (-1, *[1] * (x.ndim - 2))
    factor = _factor(steps, _numbers(variance, *shape), eps)
    normalized = steps.multiply(steps.subtract(carrier(x), _numbers(mean, *shape)), factor)
    result = _affine(steps, normalized, _numbers(weight, *shape), _numbers(bias, *shape))
    return tensor_like(result, x.dtype, x), x.new_empty(0), x.new_empty(0)


def _batch_norm_without_training(
    arithmetic: Arithmetic, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, *last: Any
) -> Any:
    return _batch_norm(arithmetic, x, weight, bias, mean, variance, False, *last)


SUMS: Final[dict[Any, Handler]] = {
    aten.sum: _sum,
    aten.mean: _mean_of,
    aten.var.correction: _spread(root=False, with_mean=False),
    aten.std.correction: _spread(root=True, with_mean=False),
    aten.var_mean.correction: _spread(root=False, with_mean=True),
    aten.std_mean.correction: _spread(root=True, with_mean=True),
    aten.linalg_vector_norm: _vector_norm,
    aten.cumsum: _scanned(products=False),
    aten.cumprod: _scanned(products=True),
    aten.prod: _prod,
    aten._softmax: _along(_softmax_rows),
    aten._log_softmax: _along(_log_softmax_rows),
    aten._safe_softmax: _along(_safe_softmax_rows),
    aten.logsumexp: _logsumexp,
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm_without_training,
    aten.avg_pool2d: _average_pool,
    aten.avg_pool3d: _average_pool,
    aten.index_put: _index_put,
    aten.scatter_add: _scatter_add,
}
