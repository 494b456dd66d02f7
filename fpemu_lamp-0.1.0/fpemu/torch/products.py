"""Matrix products and convolutions of tensors by an accumulator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from fpemu.carriers import Carrier
from fpemu.torch.arithmetic import Arithmetic
from fpemu.torch.dispatch import Handler
from fpemu.torch.tensors import carrier, tensor

__all__ = ["PRODUCTS", "padded", "windows"]

aten = torch.ops.aten


def _checked(a: Any, b: Any) -> tuple[Carrier, Carrier]:
    """The numbers of both operands, which torch wants of one dtype."""
    if a.dtype != b.dtype:
        raise TypeError(f"operands of a product must have one dtype, not {a.dtype} and {b.dtype}")
    return carrier(a), carrier(b)


def _product(arithmetic: Arithmetic, a: Any, b: Any) -> Any:
    """``mm``, ``bmm``, ``mv``, ``dot``."""
    if not a.is_floating_point():
        return NotImplemented
    return tensor(arithmetic.stored(arithmetic.product(*_checked(a, b))), a.dtype)


def _plus_product(
    arithmetic: Arithmetic, x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1
) -> Any:
    """``beta * x + alpha * a @ b``: the product is added before it is rounded otherwise."""
    if not a.is_floating_point():
        return NotImplemented
    steps = arithmetic.steps(a.dtype)
    product = arithmetic.product(*_checked(a, b))
    if alpha != 1:
        product = steps.multiply(product, steps.number(alpha))
    if beta == 0:
        return tensor(arithmetic.stored(product), a.dtype)
    added = carrier(x)
    if beta != 1:
        added = steps.multiply(added, steps.number(beta))
    return tensor(steps.add(product, added), a.dtype)


def _plus_products(arithmetic: Arithmetic, x: Any, a: Any, b: Any, **options: Any) -> Any:
    """The sum of the products of a batch: one inner product over all of it."""
    if not a.is_floating_point():
        return NotImplemented
    left, right = a.transpose(0, 1).flatten(1), b.flatten(0, 1)
    return _plus_product(arithmetic, x, left, right, **options)


def _grouped_product(
    arithmetic: Arithmetic,
    a: Any,
    b: Any,
    offs: Any = None,
    bias: Any = None,
    out_dtype: Any = None,
) -> Any:
    """The product of groups of rows, of which `offs` has the ends, with a matrix each."""
    rows_alone = a.ndim == 2 and b.ndim == 3 and offs is not None and bias is None
    if not rows_alone or out_dtype not in (None, a.dtype):
        return NotImplemented
    left, right = _checked(a, b)
    result = np.zeros((left.shape[0], right.shape[2]))
    ends = offs.tolist()
    for first, last, matrix in zip([0, *ends], ends, right, strict=False):
        result[first:last] = arithmetic.product(left[first:last], matrix)
    return tensor(arithmetic.stored(result), a.dtype)


# --- convolutions ---------------------------------------------------------------------------------


def _spread(x: Carrier, stride: Sequence[int]) -> Carrier:
    """Numbers with ``stride - 1`` zeros between neighbors, in all dimensions but the first two."""
    lengths = [
        (length - 1) * step + 1 if length else 0
        for length, step in zip(x.shape[2:], stride, strict=True)
    ]
    spread = np.zeros((*x.shape[:2], *lengths), x.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, step) for step in stride))] = x
    return spread


def padded(x: Carrier, before: Sequence[int], after: Sequence[int]) -> Any:
    """Numbers with zeros around them; negative widths cut numbers off."""
    widths = [(max(a, 0), max(b, 0)) for a, b in zip(before, after, strict=True)]
    padded = np.pad(x, ((0, 0), (0, 0), *widths))
    cut = [slice(max(-a, 0), -max(-b, 0) or None) for a, b in zip(before, after, strict=True)]
    return padded[(slice(None), slice(None), *cut)]


def _turned(weight: Carrier, groups: int) -> Any:
    """The kernel of the convolution that a transposed convolution is of its spread input."""
    inputs, outputs, *sizes = weight.shape
    grouped = weight.reshape(groups, inputs // groups, outputs, *sizes).swapaxes(1, 2)
    turned = grouped.reshape(groups * outputs, inputs // groups, *sizes)
    return np.flip(turned, axis=tuple(range(2, turned.ndim)))


def windows(x: Carrier, sizes: Sequence[int], stride: Sequence[int], dilation: Any) -> Any:
    """The numbers under a kernel at each place: (batch, channels, *places, *sizes), a view."""
    spans = [(size - 1) * step + 1 for size, step in zip(sizes, dilation, strict=True)]
    all_windows = sliding_window_view(x, spans, axis=tuple(range(2, x.ndim)))
    steps = [slice(None, None, step) for step in (*stride, *dilation)]
    return all_windows[(slice(None), slice(None), *steps)]


def _convolved(arithmetic: Arithmetic, patches: Carrier, weight: Carrier, groups: int) -> Any:
    """The products of windows with kernels: (batch, outputs, *places)."""
    outputs, channels, *sizes = weight.shape
    dimensions = len(sizes)
    batch, places = patches.shape[0], patches.shape[2 : 2 + dimensions]
    grouped = patches.reshape(batch, groups, channels, *places, *sizes)
    order = (1, 0, *range(3, 3 + dimensions), 2, *range(3 + dimensions, 3 + 2 * dimensions))
    terms = channels * math.prod(sizes)
    left = grouped.transpose(order).reshape(groups, batch * math.prod(places), terms)
    right = weight.reshape(groups, outputs // groups, terms).swapaxes(1, 2)
    product = arithmetic.product(left, right).reshape(groups, batch, *places, outputs // groups)
    moved = np.moveaxis(product, (1, 0, -1), (0, 1, 2))
    return moved.reshape(batch, outputs, *places)


def _convolution(
    arithmetic: Arithmetic,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """Every output is one inner product over input channels and then the places of the kernel.

    The zeros of padding, and those between the numbers of a transposed convolution, are terms.
    """
    if not x.is_floating_point():
        return NotImplemented
    numbers, kernel = _checked(x, weight)
    sizes = kernel.shape[2:]
    before, after = padding, padding
    if transposed:
        before = [
            (size - 1) * step - width
            for size, step, width in zip(sizes, dilation, padding, strict=True)
        ]
        after = [width + more for width, more in zip(before, output_padding, strict=True)]
        numbers, kernel = _spread(numbers, stride), _turned(kernel, groups)
        stride = [1] * len(sizes)
    patches = windows(padded(numbers, before, after), sizes, stride, dilation)
    product = _convolved(arithmetic, patches, kernel, groups)
    if bias is None:
        return tensor(np.ascontiguousarray(arithmetic.stored(product)), x.dtype)
    added = carrier(bias).reshape(-1, *[1] * len(sizes))
    return tensor(arithmetic.steps(x.dtype).add(product, added), x.dtype)


def _convolution_backward(
    arithmetic: Arithmetic,
    gradient: Any,
    x: Any,
    weight: Any,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> Any:
    """The gradients for the input, the weights and the bias: a convolution, a product, a sum."""
    how = (stride, padding, dilation)
    of_x = of_weight = of_bias = None
    if wanted[0]:
        more = [0] * len(stride)
        if not transposed:
            sizes = zip(x.shape[2:], gradient.shape[2:], weight.shape[2:], *how, strict=True)
            more = [n - (m - 1) * s + 2 * p - d * (k - 1) - 1 for n, m, k, s, p, d in sizes]
        of_x = _convolution(arithmetic, gradient, weight, None, *how, not transposed, more, groups)
    if wanted[1]:
        of_weight = _weights_gradient(
            arithmetic, *((gradient, x) if transposed else (x, gradient)), weight.shape, how, groups
        )
    if wanted[2]:
        steps = arithmetic.steps(gradient.dtype)
        rows = carrier(gradient).swapaxes(0, 1).reshape(gradient.shape[1], -1)
        of_bias = tensor(arithmetic.stored(steps.sums(rows)[:, 0]), gradient.dtype)
    return of_x, of_weight, of_bias


def _weights_gradient(
    arithmetic: Arithmetic, x: Any, gradient: Any, shape: Any, how: Any, groups: int
) -> Any:
    """Products of what each kernel met with the gradients there, summed over batch and places."""
    stride, padding, dilation = how
    patches = windows(padded(carrier(x), padding, padding), shape[2:], stride, dilation)
    batch, channels = patches.shape[:2]
    dimensions = len(stride)
    fitting = tuple(slice(length) for length in gradient.shape[2:])
    patches = patches[(slice(None), slice(None), *fitting)]
    grouped = patches.reshape(batch, groups, channels // groups, *patches.shape[2:])
    places = range(3, 3 + dimensions)
    kernel = range(3 + dimensions, 3 + 2 * dimensions)
    right = grouped.transpose(1, 0, *places, 2, *kernel)
    right = right.reshape(groups, batch * math.prod(gradient.shape[2:]), -1)
    left = carrier(gradient).swapaxes(0, 1).reshape(groups, shape[0] // groups, -1)
    product = arithmetic.stored(arithmetic.product(left, right))
    return tensor(product.reshape(tuple(shape)), gradient.dtype)


PRODUCTS: Final[dict[Any, Handler]] = {
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.mv.default: _product,
    aten.dot.default: _product,
    aten.addmm.default: _plus_product,
    aten.baddbmm.default: _plus_product,
    aten.addmv.default: _plus_product,
    aten.addbmm.default: _plus_products,
    aten._grouped_mm.default: _grouped_product,
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
}
