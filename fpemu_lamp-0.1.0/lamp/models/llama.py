"""Llama and its like: RMSNorm, rotary positions, a gated feed-forward layer, grouped queries.

References
----------
H. Touvron et al., "LLaMA: open and efficient foundation language models", arXiv 2302.13971; the
layout of the weights is that of transformers' ``LlamaForCausalLM``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lamp.machines import Hardware
from lamp.models.decoder import Decoder
from lamp.models.fields import check_activation, check_epsilon, check_flags, check_sizes
from lamp.models.layers import Matrix, Norm
from lamp.models.rotary import Rotary
from lamp.models.weights import Block, Shape, Tensors, Weights

__all__ = ["Llama", "LlamaConfig"]

_PREFIX: Final = "model."
_OWN: Final = ("embed_tokens.", "layers.", "norm.", "lm_head.")
_CONSTANTS: Final = re.compile(r"(layers\.\d+\.self_attn\.)?rotary_emb\.(\w+_)?inv_freq")
_SIZES: Final = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
_FLAGS: Final = ("tie_word_embeddings", "attention_bias", "mlp_bias")
_ROTARY: Final = ("rope_theta", "partial_rotary_factor")
_DEFAULTS: Final[dict[str, Any]] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
"""The values that transformers gives to fields which are missing."""


@dataclass(frozen=True)
class LlamaConfig:
    """The configuration of a Llama, under transformers' names.

    Parameters
    ----------
    vocab_size : int
        The number of tokens.
    hidden_size : int
        The width of the residual stream.
    intermediate_size : int
        The width of the feed-forward layers.
    num_hidden_layers : int
        The number of layers.
    num_attention_heads, num_key_value_heads : int
        The numbers of heads of queries, and of keys and values, in each layer: every key head
        serves ``num_attention_heads // num_key_value_heads`` heads.
    head_dim : int
        The dimension of a head.
    max_position_embeddings : int
        The largest number of tokens in a text.
    hidden_act : str
        The activation of the gate.
    rms_norm_eps : float
        The epsilon of every norm.
    rotary : Rotary
        How queries and keys are rotated.
    tie_word_embeddings : bool
        Whether the head is the embedding; a checkpoint's own head is kept nevertheless.
    attention_bias, mlp_bias : bool
        Whether the linear layers have biases.

    Raises
    ------
    ValueError
        If a field is out of range.
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
        check_activation(self, "hidden_act")
        check_sizes(self, _SIZES)
        check_flags(self, _FLAGS)
        check_epsilon(self, "rms_norm_eps")
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

        Parameters
        ----------
        config : mapping
            Fields that are missing have transformers' default values.

        Returns
        -------
        LlamaConfig

        Raises
        ------
        ValueError
            If a field is out of range, or asks for something that is not implemented.
        """
        values = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
        heads, width = values["num_attention_heads"], values["hidden_size"]
        if values["num_key_value_heads"] is None:
            values["num_key_value_heads"] = heads
        if values["head_dim"] is None and all(
            isinstance(x, (int, np.integer)) for x in (heads, width)
        ):
            if heads < 1 or width % heads:
                raise ValueError(f"width {width} does not divide into {heads} heads")
            values["head_dim"] = width // heads
        return cls(**values, rotary=_rotary(config, values))


def _rotary(config: Mapping[str, Any], values: Mapping[str, Any]) -> Rotary:
    """The rotary positions in a ``config.json``, by transformers 5 or before it."""
    given = {name: config[name] for name in _ROTARY if config.get(name) is not None}
    named = (config.get(name) for name in ("rope_scaling", "rope_parameters"))
    parameters: Any = next((found for found in named if found is not None), {})
    if not isinstance(parameters, Mapping):
        raise ValueError(f"rope_parameters is {parameters!r}, expected an object")
    given |= parameters
    given.setdefault("original_max_position_embeddings", values["max_position_embeddings"])
    # Without a dimension, or with 0, the configuration is refused by the check of its sizes.
    return Rotary.from_mapping(values["head_dim"] or 2, given)


class Llama(Decoder):
    """A Llama that runs on a simulated machine.

    Queries and keys are members of the output of the step qkv.  They are rotated in float64,
    ``a c - b s`` and ``b c + a s`` with every product and sum rounded and the cosines and sines
    within 3 units of 2**-53, and the result is rounded into the output of qkv again.  This is
    double rounding, as on a machine that rotates in one format and stores in another: the result
    may differ from the exactly rotated number rounded once if that lies close to the midpoint of
    two members of the output, or cancels to almost nothing.

    The gate and the factor of the activated gate are both products of the step mlp_up.  The
    activated gate is rounded into the output of the step activation, and so is its product with
    the factor.  Look-ahead at the activation recomputes components of its argument, the gate; of
    the factor it recomputes, and counts, the components that overflowed.

    Parameters
    ----------
    config : LlamaConfig
        Its configuration.
    tensors : mapping of str to ndarray
        Its weights, under transformers' names.
    hardware : Hardware or str
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        The rules of look-ahead, at most one per place.
    source : Path, optional
        The checkpoint that the tokenizer is read from.
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
            gated=True,
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

        def norm(of: Tensors, name: str) -> Norm:
            return Norm(of.take(f"{name}.weight", width), centered=False)

        def block(layer: int) -> Block:
            at, own = f"layers.{layer}", held.of_layer(layer, config.num_hidden_layers)

            def taken(name: str, inputs: int, outputs: int, has_bias: bool) -> Any:
                # transformers stores these matrices transposed.
                weight = own.take(f"{at}.{name}.weight", outputs, inputs).T
                return weight, own.take(f"{at}.{name}.bias", outputs) if has_bias else None

            def matrix(name: str, inputs: int, outputs: int, has_bias: bool) -> Matrix:
                return own.matrix(*taken(name, inputs, outputs, has_bias))

            sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
            parts = [
                taken(f"self_attn.{name}", width, size, config.attention_bias)
                for name, size in sizes.items()
            ]
            joined = np.concatenate([weight for weight, _ in parts], axis=1)
            biases = [bias for _, bias in parts if bias is not None]
            return Block(
                norm_1=norm(own, f"{at}.input_layernorm"),
                qkv=own.matrix(joined, np.concatenate(biases) if biases else None),
                attention_output=matrix("self_attn.o_proj", queries, width, config.attention_bias),
                norm_2=norm(own, f"{at}.post_attention_layernorm"),
                gate=matrix("mlp.gate_proj", width, inner, config.mlp_bias),
                mlp_up=matrix("mlp.up_proj", width, inner, config.mlp_bias),
                mlp_down=matrix("mlp.down_proj", inner, width, config.mlp_bias),
            )

        tokens = held.take("embed_tokens.weight", config.vocab_size, width)
        weights = Weights(
            tokens=tokens,
            positions=None,
            blocks=tuple(block(layer) for layer in range(config.num_hidden_layers)),
            norm=norm(held, "norm"),
            head=held.matrix(held.head(tokens, tied=config.tie_word_embeddings).T),
        )
        held.check_rest(_OWN, _CONSTANTS)
        return weights
