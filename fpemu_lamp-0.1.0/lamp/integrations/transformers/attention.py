"""Attention on a machine: what transformers' interface calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fpemu
from lamp.integrations.transformers.fitting import Fitting
from lamp.integrations.transformers.running import Run, array, tensor
from lamp.machines import hardware
from lamp.models import attention as attentions

__all__ = ["attention", "errors"]

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
        masks = _masks(run, mask, _Asked(len(q), q.shape[2], k.shape[2], bool(asked), name))
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
        run.observe("heads", out[0].reshape(len(out[0]), -1))
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
    mask, bias = given.mask, given.bias
    if mask is not None:
        if not mask.pairs:
            return
        query = query[:, mask.rows]
        key, value = key[:, mask.keys], value[:, mask.keys]
        bias = None if bias is None else bias[:, mask.rows, mask.keys]
    heads, rows, _ = query.shape
    pairs = _causal_pairs(rows, key.shape[1]) if mask is None else mask.pairs
    run.multiply_adds += heads * pairs * (key.shape[2] + value.shape[2])
    variant = attentions.Variant(
        None if mask is None else mask.seen, given.scale, given.cap, bias, given.sinks
    )
    if run.observer is not None:
        run.variants[layer] = variant
    found = attentions.attention(
        *map(_by_rows, (query, key, value)),
        hardware=run.machine,
        lamp=run.rules.softmax,
        layer=layer,
        variant=variant,
        observe=None if run.observer is None else run.observe,
    )
    if run.look_ahead.softmax is not None:
        run.count("scores", found.recomputation)
    out[slice(None) if mask is None else mask.rows] = found.output.transpose(1, 0, 2)


def _by_rows(x: NDArray[Any]) -> NDArray[Any]:
    """Numbers whose heads are contiguous each; kept keys have room behind those of a head."""
    _, across, along = x.strides
    is_contiguous = (across, along) == (x.shape[2] * x.itemsize, x.itemsize)
    return x if is_contiguous else np.ascontiguousarray(x)


def errors(
    steps: Mapping[str, NDArray[Any]], variant: attentions.Variant
) -> dict[str, NDArray[np.float64]]:
    """Scores and probabilities of a layer minus those of its queries and keys in float64."""
    exact: dict[str, NDArray[Any]] = {}
    query, key = (steps[name].astype(np.float64) for name in ("query", "key"))
    attentions.attention(
        query, key, key, hardware=hardware("fp64"), variant=variant, observe=exact.__setitem__
    )
    return {name: steps[name] - exact[name] for name in ("scores", "probabilities")}


class _Given(NamedTuple):
    """What a text's attention is given beside its numbers."""

    mask: _Mask | None
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


class _Asked(NamedTuple):
    """What a module asks of attention."""

    texts: int
    rows: int
    tokens: int
    causal: bool
    name: str


class _Mask(NamedTuple):
    """What the rows of a text see.

    Parameters
    ----------
    rows : ndarray of bool
        Which rows see any key.
    keys : slice
        From the first key that one of them sees to the last.
    seen : ndarray of bool
        Which of these keys each of these rows sees.
    pairs : int
        How many pairs of rows and keys that they see there are.
    """

    rows: NDArray[np.bool_]
    keys: slice
    seen: NDArray[np.bool_]
    pairs: int


def _causal_pairs(rows: int, tokens: int) -> int:
    """How many pairs of rows and keys there are where each row sees the keys up to its own."""
    return rows * (tokens - rows) + rows * (rows + 1) // 2


def _masks(run: Run, mask: torch.Tensor | None, asked: _Asked) -> list[_Mask | None]:
    """What the rows of each text see; None if these are the keys up to their own."""
    # Many layers have the same mask.  It is kept, so that no other one gets its memory.
    which = None if mask is None else (mask.data_ptr(), mask.shape, mask.stride())
    key = which, asked[:-1]
    if key not in run.masks:
        run.masks[key] = mask, _read_masks(run, mask, asked)
    found: list[_Mask | None] = run.masks[key][1]
    return found


def _read_masks(run: Run, mask: torch.Tensor | None, asked: _Asked) -> list[_Mask | None]:
    texts, rows, tokens, causal, name = asked
    if mask is None and causal and rows == tokens:
        return [None] * texts
    if mask is None and (not causal or rows == 1):
        whole = np.ones((texts, rows, tokens), np.bool_)
    elif mask is None:
        raise ValueError(
            f"attention of {name} has {rows} queries, {tokens} keys and no mask: which keys each "
            "query sees is not known"
        )
    else:
        whole = _seen(mask, name)
        whole = np.broadcast_to(whole, (texts, rows, whole.shape[2]))[:, :, :tokens]
    known = np.tri(rows, tokens, tokens - rows, dtype=np.bool_)
    tiled = causal and rows <= tokens and run.hardware.attention is not None
    return [None if np.array_equal(each, known) else _of_text(each, tiled) for each in whole]


def _of_text(mask: NDArray[np.bool_], tiled: bool) -> _Mask:
    """A mask without the rows that see nothing, and the keys in front and behind.

    By tiles, causal rows see the keys up to their own.  One that does not see its own is padding
    behind a text, whose results nobody reads: it counts as one that sees nothing.
    """
    rows = np.asarray(mask.any(axis=1))
    if tiled:
        rows &= np.diagonal(mask, mask.shape[1] - mask.shape[0])
    seen = mask[rows]
    columns = np.flatnonzero(seen.any(axis=0))
    keys = slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0)
    return _Mask(rows, keys, seen[:, keys], int(np.count_nonzero(seen)))


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
