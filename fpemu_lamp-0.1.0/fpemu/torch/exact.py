"""The operations that round nothing: they select, move, compare or make numbers.

Conversions round, as IEEE 754 says; torch rounds twice on the way from float64 to less than
float32, and so these have handlers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch

from fpemu.torch.dispatch import EXACT, Handler
from fpemu.torch.tensors import carrier, tensor_like

__all__ = ["EXACT_OPERATIONS"]

_NAMES: Final = """
    eq ne lt le gt ge equal isnan isinf isfinite isposinf isneginf signbit isin is_nonzero
    logical_and logical_or logical_xor logical_not any all count_nonzero nonzero nonzero_static
    maximum minimum fmax fmin max min amax amin aminmax argmax argmin topk sort msort argsort
    kthvalue median nanmedian mode cummax cummin searchsorted bucketize unique_dim _unique2
    unique_consecutive histc bincount

    where masked_fill masked_select masked_scatter gather index index_select index_copy index_fill
    _unsafe_index take embedding scatter.src scatter.value clamp clamp_min clamp_max hardtanh relu
    relu6 threshold abs neg positive sign sgn floor ceil trunc round.default frac fmod copysign
    nextafter heaviside nan_to_num

    clone contiguous cat stack _stack _cat repeat repeat_interleave tile roll flip
    rot90 tril triu diag diag_embed constant_pad_nd reflection_pad1d reflection_pad2d
    reflection_pad3d replication_pad1d replication_pad2d replication_pad3d pixel_shuffle
    pixel_unshuffle channel_shuffle im2col max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool2d adaptive_max_pool3d max_unpool2d max_unpool3d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d diagonal_scatter slice_scatter select_scatter as_strided_scatter
    unsafe_split unsafe_split_with_sizes unsafe_chunk split_with_sizes_copy _unsafe_view
    _reshape_alias _reshape_copy view_copy lift lift_fresh lift_fresh_copy detach detach_
    resize resize_as set_ _local_scalar_dense view_as_real view_as_complex real imag unfold_copy
    _pack_padded_sequence _pad_packed_sequence

    zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_empty new_zeros
    new_ones new_full new_empty_strided empty_permuted fill zero uniform normal random exponential
    bernoulli multinomial normal_functional
""".split()  # noqa: SIM905 - a list of so many strings would be a page


def _operations() -> Iterator[Any]:
    for name in _NAMES:
        packet, _, overload = name.partition(".")
        found = getattr(torch.ops.aten, packet, None)
        if found is not None:  # by this version of torch
            yield getattr(found, overload) if overload else found


def _rounds_twice(source: Any, dtype: Any) -> bool:
    """Whether torch goes through float32."""
    narrow = dtype is not None and dtype.is_floating_point and dtype.itemsize < 4
    return bool(narrow and source.dtype == torch.float64)


def _to_copy(x: Any, *, dtype: Any = None, **options: Any) -> Any:
    if not _rounds_twice(x, dtype) or any(each is not None for each in options.values()):
        return EXACT
    return tensor_like(carrier(x), dtype, x)


def _copy(target: Any, source: Any, non_blocking: bool = False) -> Any:
    if not _rounds_twice(source, target.dtype):
        return EXACT
    return tensor_like(carrier(source), target.dtype).expand(target.shape)


EXACT_OPERATIONS: Final[dict[Any, Handler | str]] = {
    **dict.fromkeys(_operations(), EXACT),
    torch.ops.aten._to_copy: _to_copy,
    torch.ops.aten.copy: _copy,
}
"""The table of the operations that round nothing."""
