"""Llama and its like: RMSNorm, rotary positions, a gated feed-forward layer, grouped queries.

References
----------
H. Touvron et al., "LLaMA: open and efficient foundation language models", arXiv 2302.13971; the
layout of the weights is that of transformers' ``LlamaForCausalLM``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamp._kernels import activations
from lamp.machines import Hardware
from lamp.models.decoder import Decoder
from lamp.models.layers import Matrix, Norm
from lamp.models.rotary import Rotary
from lamp.models.weights import Block, Shape, Tensors, Weights

__all__ = ["Llama", "LlamaConfig"]

_PREFIX = "model."
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama, under transformers' names.

    Parameters
    ----------
    vocab_size, hidden_size, intermediate_size, num_hidden_layers : int
        Sizes.
    num_attention_heads, num_key_value_heads, head_dim : int
        Every key head serves as many query heads as there are more of those.
    max_position_embeddings : int
        The most tokens in a text.
    hidden_act : str
        The activation of the gate.
    rms_norm_eps : float
        The epsilon of every norm.
    rotary : Rotary
        How queries and keys are turned.
    tie_word_embeddings : bool
        Whether the head is the embedding.
    attention_bias, mlp_bias : bool
        Whether the linear layers have biases.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    hidden_act: str
    rms_norm_eps: float
    rotary: Rotary
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        activations.activation(self.hidden_act)  # raises if there is none
        for name in _SIZES:
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}, expected a positive integer")
        if not 0.0 <= self.rms_norm_eps < np.inf:
            raise ValueError(
                f"rms_norm_eps is {self.rms_norm_eps!r}, expected a finite number that is not "
                "negative"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} heads do not share {self.num_key_value_heads} heads "
                "of keys"
            )
        if self.rotary.dimension != self.head_dim:
            raise ValueError(
                f"rotary positions are of dimension {self.rotary.dimension}, but head_dim is "
                f"{self.head_dim}"
            )

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> LlamaConfig:
        """The configuration in a transformers ``config.json``.

        Raises
        ------
        ValueError
            If it asks for something that is not implemented, or a size is missing.
        """
        values = {name: config.get(name) for name in _SIZES}
        heads, width = values["num_attention_heads"], values["hidden_size"]
        values["num_key_value_heads"] = values["num_key_value_heads"] or heads
        if values["head_dim"] is None and isinstance(heads, int) and isinstance(width, int):
            if heads < 1 or width % heads:
                raise ValueError(f"width {width} does not divide into {heads} heads")
            values["head_dim"] = width // heads
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        rope = {"rope_theta": config.get("rope_theta"), **rope}
        return cls(
            **values,  # type: ignore[arg-type]
            hidden_act=config.get("hidden_act", "silu"),
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            rotary=Rotary.from_mapping(values["head_dim"] or 2, rope),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
        )


class Llama(Decoder):
    """A Llama that runs on a simulated machine.

    Queries and keys are members of the output of qkv.  They are turned in float64, ``a c - b s``
    and ``b c + a s`` with every product and sum rounded, the cosines and sines within 3 units of
    2**-53, and what that gives is rounded into the output of qkv once more.  So it is rounded
    twice, as where a machine turns in one format and stores in another: it may differ from the
    exactly turned number rounded once where that lies next to the middle between two numbers of the
    output, or cancels to nearly nothing.

    The gate and what it gates are products of the step mlp_up.  The activated gate is rounded into
    the output of the activation, and so is its product with what it gates.  Look-ahead at the
    activation recomputes components of its argument, the gate; of what that gates it recomputes,
    and counts, those that overflowed.

    Parameters
    ----------
    config : LlamaConfig
        Its shape.
    tensors : mapping
        Its weights, under transformers' names.
    hardware : Hardware or str
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        What to recompute; several are for as many places.
    source : Path, optional
        The checkpoint that the tokenizer is taken from.
    """

    family = "llama"

    @staticmethod
    def _configure(config: Mapping[str, Any]) -> LlamaConfig:
        return LlamaConfig.from_mapping(config)

    @staticmethod
    def _shape(config: LlamaConfig) -> Shape:
        return Shape(
            vocabulary=config.vocab_size,
            positions=config.max_position_embeddings,
            width=config.hidden_size,
            inner=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            dimension=config.head_dim,
            activation=config.hidden_act,
            epsilon=config.rms_norm_eps,
            rotary=config.rotary,
        )

    @staticmethod
    def _load(
        tensors: Mapping[str, NDArray[Any]], config: LlamaConfig, hardware: Hardware
    ) -> Weights:
        width, inner = config.hidden_size, config.intermediate_size
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        held = Tensors(tensors, _PREFIX, hardware)
        held.check_layers("layers.", config.num_hidden_layers, "num_hidden_layers")

        def norm(name: str) -> Norm:
            return Norm(held.take(f"{name}.weight", width), centered=False)

        def matrix(name: str, inputs: int, outputs: int, has_bias: bool) -> Matrix:
            # transformers has these matrices the other way round.
            weight = held.take(f"{name}.weight", outputs, inputs).T
            return held.matrix(weight, held.take(f"{name}.bias", outputs) if has_bias else None)

        def block(at: str) -> Block:
            sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
            parts = [
                matrix(f"{at}.self_attn.{name}", width, size, config.attention_bias)
                for name, size in sizes.items()
            ]
            joined = np.concatenate([part.weight for part in parts], axis=1)
            biases = [part.bias for part in parts if part.bias is not None]
            return Block(
                norm_1=norm(f"{at}.input_layernorm"),
                qkv=held.matrix(joined, np.concatenate(biases) if biases else None),
                attention_output=matrix(
                    f"{at}.self_attn.o_proj", queries, width, config.attention_bias
                ),
                norm_2=norm(f"{at}.post_attention_layernorm"),
                gate=matrix(f"{at}.mlp.gate_proj", width, inner, config.mlp_bias),
                mlp_up=matrix(f"{at}.mlp.up_proj", width, inner, config.mlp_bias),
                mlp_down=matrix(f"{at}.mlp.down_proj", inner, width, config.mlp_bias),
            )

        tokens = held.take("embed_tokens.weight", config.vocab_size, width)
        head = tokens
        if not config.tie_word_embeddings:
            head = held.take("lm_head.weight", config.vocab_size, width, prefix=False)
        return Weights(
            tokens=tokens,
            positions=None,
            blocks=tuple(block(f"layers.{layer}") for layer in range(config.num_hidden_layers)),
            norm=norm("norm"),
            head=held.matrix(head.T),
        )
