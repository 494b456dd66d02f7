"""Attention on a machine: what transformers' interface calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fpemu
from lamp.integrations.transformers.fitting import Fitting
from lamp.integrations.transformers.running import Run, array, tensor
from lamp.models import attention as attentions

__all__ = ["attention"]

_IGNORED: Final = frozenset(
    {
        "position_ids",
        "use_cache",
        "cache",
        "cache_position",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "num_items_in_batch",
        "return_dict",
        "dropout",
        "sliding_window",
        "training",
    }
)
"""What models hand on to attention that changes none of its numbers: windows are in the mask."""


def attention(fitting: Fitting, name: str, layer: int) -> Callable[..., Any]:
    """What transformers' interface calls."""
    run = fitting.run
    causal = run.look_ahead.is_causal_on(run.hardware)

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        is_causal: bool | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        unknown = [k for k, v in others.items() if v is not None and k not in _IGNORED]
        if unknown:
            raise ValueError(
                f"attention of {name} is asked for {', '.join(sorted(unknown))}, which is not "
                "known here"
            )
        if others.get("dropout"):
            raise ValueError(f"attention of {name} drops out: call eval() on the model")
        run.calls[layer] = run.calls.get(layer, 0) + 1
        run.place = "attention_output"
        q, k, v = (_queries(x, run) for x in (query, key, value))
        if run.observer is not None:
            for part, numbers in (("query", q), ("key", k), ("value", v)):
                run.observe(part, numbers[0])
        asked = getattr(module, "is_causal", True) if is_causal is None else is_causal
        masks = _masks(mask, len(q), q.shape[2], k.shape[2], bool(asked), name)
        if not causal and asked and q.shape[2] < k.shape[2]:
            raise ValueError(
                "keys and values of earlier tokens are kept, but on this machine and by these "
                "rules earlier tokens depend on later ones: pass use_cache=False"
            )
        bias = None if position_bias is None else array(position_bias)
        scale = q.shape[3] ** -0.5 if scaling is None else float(scaling)
        out = np.zeros((len(q), q.shape[2], q.shape[1], v.shape[3]), q.dtype)
        for text in range(len(q)):
            given = _Given(
                masks[text],
                None if scale == q.shape[3] ** -0.5 else scale,
                softcap,
                None if bias is None else bias[min(text, len(bias) - 1)],
                None if s_aux is None else array(s_aux).astype(q.dtype),
            )
            _attend_text(run, q[text], k[text], v[text], given, layer, out[text])
        return tensor(out), None

    return attend


def _attend_text(
    run: Run,
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    given: _Given,
    layer: int,
    out: NDArray[Any],
) -> None:
    """Attention of a text: rows that see no key give zeros, and unseen keys are cut off."""
    mask, seeing, bias = None, None, given.bias
    if given.mask is not None:
        mask, seeing = given.mask
        query = query[:, seeing]
        seen = np.flatnonzero(mask.any(axis=0))
        if not len(seen):
            return
        keys = slice(int(seen[0]), int(seen[-1]) + 1)
        mask, key, value = mask[:, keys], key[:, keys], value[:, keys]
        bias = None if bias is None else bias[:, seeing, keys]
    variant = attentions.Variant(mask, given.scale, given.cap, bias, given.sinks)
    found = attentions.attention(
        *(np.ascontiguousarray(x) for x in (query, key, value)),
        hardware=run.machine,
        lamp=run.look_ahead.softmax,
        layer=layer,
        variant=variant,
        observe=None if run.observer is None else run.observe,
    )
    heads = query.shape[0]
    run.multiply_adds += (
        heads * _pairs(mask, query.shape[1], key.shape[1]) * (key.shape[2] + value.shape[2])
    )
    if run.look_ahead.softmax is not None:
        run.count("scores", found.recomputation)
    joined = found.output.transpose(1, 0, 2)
    if seeing is None:
        out[:] = joined
    else:
        out[seeing] = joined


class _Given(NamedTuple):
    """What a text's attention is given beside its numbers."""

    mask: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None
    scale: float | None
    cap: float | None
    bias: NDArray[Any] | None
    sinks: NDArray[Any] | None


# --- queries and masks ----------------------------------------------------------------------------


def _queries(x: torch.Tensor, run: Run) -> NDArray[Any]:
    """Queries, keys or values in the carrier; wide ones are rounded as the step qkv is."""
    numbers, carrier = array(x), run.carrier
    step = run.machine.qkv
    if numbers.dtype == carrier and (
        carrier == np.float32 or step.output == fpemu.format("float64")
    ):
        return numbers
    return np.asarray(fpemu.round(numbers, step.output, step.rounding)).astype(carrier, copy=False)


def _pairs(mask: NDArray[np.bool_] | None, rows_: int, tokens: int) -> int:
    """How many pairs of rows and keys there are."""
    if mask is not None:
        return int(np.count_nonzero(mask))
    return rows_ * (tokens - rows_) + rows_ * (rows_ + 1) // 2


def _masks(
    mask: torch.Tensor | None, texts: int, rows_: int, tokens: int, causal: bool, name: str
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]] | None]:
    """The keys that the rows of each text see, and which rows see any; None if causal."""
    if mask is None and causal and rows_ == tokens:
        return [None] * texts
    if mask is None and (not causal or rows_ == 1):
        whole = np.ones((texts, rows_, tokens), np.bool_)
    elif mask is None:
        raise ValueError(
            f"attention of {name} has {rows_} queries, {tokens} keys and no mask: which keys each "
            "query sees is not known"
        )
    else:
        whole = _seen(mask, name)
        whole = np.broadcast_to(whole, (texts, rows_, whole.shape[2]))[:, :, :tokens]
    known = np.tri(rows_, tokens, tokens - rows_, dtype=np.bool_)
    return [None if np.array_equal(each, known) else _of_text(each) for each in whole]


def _of_text(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The rows of a mask that see a key, and which these are."""
    seeing = np.asarray(mask.any(axis=1))
    return mask[seeing], seeing


def _seen(mask: torch.Tensor, name: str) -> NDArray[np.bool_]:
    """A mask of shape (texts, rows, tokens), True where a row sees a key."""
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(
            f"the mask of {name} has shape {tuple(mask.shape)}, expected (texts, 1, rows, keys)"
        )
    numbers = array(mask)[:, 0]
    if numbers.dtype == np.bool_:
        return numbers
    seen = np.asarray(numbers == 0)
    if not (seen | (numbers <= np.finfo(np.float16).min)).all():
        raise ValueError(f"the mask of {name} adds numbers to scores, expected 0 or -inf")
    return seen
