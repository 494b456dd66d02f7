"""Attention modules that do not call transformers' ``AttentionInterface``, made to call it.

A class in the table is replaced by a subclass that splits, keeps and merges its numbers by the
module's own methods and leaves what lies between to the interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bloom.modeling_bloom import BloomAttention
from transformers.models.falcon.modeling_falcon import FalconAttention, apply_rotary_pos_emb

from lamp.integrations.transformers.structure import ATTENTION

__all__ = ["stand_in"]


def stand_in(module: nn.Module) -> None:
    """Give a module the class that calls the interface, if its own does not.

    Parameters
    ----------
    module : torch.nn.Module
        It is changed.
    """
    module.__class__ = _STAND_INS.get(type(module), type(module))


def _attended(
    module: nn.Module,
    heads: tuple[torch.Tensor, ...],
    kept: Any,
    mask: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """What the interface makes of queries, keys and values, all heads beside each other."""
    query, key, value = heads
    if kept is not None:
        key, value = kept.update(key, value, module.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS[ATTENTION]
    found, _ = attend(module, query, key, value, mask, position_bias=bias)
    merged: torch.Tensor = found.flatten(2)
    return merged


class _Bloom(BloomAttention):
    """Attention with a bias that is linear in the key's position; it adds the residual stream."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        residual: torch.Tensor,
        alibi: torch.Tensor,
        attention_mask: torch.Tensor | None,
        layer_past: Any = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        heads = self._reshape(self.query_key_value(hidden_states))
        rows = hidden_states.shape[1]
        bias = alibi.unflatten(0, (-1, self.num_heads)).expand(-1, -1, rows, -1)
        found = _attended(self, heads, layer_past, attention_mask, bias)
        return residual + self.dense(found), None


class _Falcon(FalconAttention):
    """Rotary positions, or a bias that is linear in the key's and stands in the mask."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        alibi: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        layer_past: Any = None,
        position_embeddings: Any = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        split = self._split_heads(self.query_key_value(hidden_states))
        query, key, value = (x.transpose(1, 2) for x in split)
        mask, bias = attention_mask, None
        if alibi is None:
            rotate: Any = apply_rotary_pos_emb
            query, key = rotate(query, key, *position_embeddings)
        elif attention_mask is not None:
            unseen = attention_mask == torch.finfo(attention_mask.dtype).min
            mask, bias = ~unseen[:, :1], attention_mask.masked_fill(unseen, 0.0)
        found = _attended(self, (query, key, value), layer_past, mask, bias)
        return self.dense(found), None


_STAND_INS: Final[Mapping[type[nn.Module], type[nn.Module]]] = {
    BloomAttention: _Bloom,
    FalconAttention: _Falcon,
}
