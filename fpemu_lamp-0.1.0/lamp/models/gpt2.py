"""GPT-2: its configuration and its weights.

References
----------
A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; the layout of the
weights is that of transformers' ``GPT2LMHeadModel``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from numpy.typing import NDArray

from lamp.machines import Hardware
from lamp.models.decoder import Decoder
from lamp.models.fields import check_activation, check_epsilon, check_flags, check_sizes
from lamp.models.layers import Matrix, Norm
from lamp.models.weights import Block, Shape, Tensors, Weights

__all__ = ["GPT2", "GPT2Config"]

_PREFIX: Final = "transformer."
_OWN: Final = ("wte.", "wpe.", "h.", "ln_f.", "lm_head.")
_CONSTANTS: Final = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
_NOT_IMPLEMENTED: Final = (
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "add_cross_attention",
)
_ALIASES: Final = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
"""Other names that transformers takes for the same fields."""


@dataclass(frozen=True)
class GPT2Config:
    """The configuration of a GPT-2, with transformers' names and default values.

    Parameters
    ----------
    vocab_size : int
        The number of tokens.
    n_positions : int
        The largest number of tokens in a text.
    n_embd : int
        The width of the residual stream.
    n_layer, n_head : int
        The numbers of layers, and of heads in each.
    n_inner : int, optional
        The width of the feed-forward layers; four times `n_embd` if left out.
    activation_function : str
        The activation of the feed-forward layers.
    layer_norm_epsilon : float
        The epsilon of every LayerNorm.
    scale_attn_weights : bool
        Whether scores are divided by the square root of the head dimension.
    tie_word_embeddings : bool
        Whether the head is the embedding; a checkpoint's own head is kept nevertheless.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        check_activation(self, "activation_function")
        check_sizes(self, ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"))
        if self.n_inner is None:
            object.__setattr__(self, "n_inner", 4 * self.n_embd)
        check_sizes(self, ("n_inner",))
        check_flags(self, ("scale_attn_weights", "tie_word_embeddings"))
        check_epsilon(self, "layer_norm_epsilon")
        if self.n_embd % self.n_head:
            raise ValueError(f"width {self.n_embd} does not divide into {self.n_head} heads")

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> GPT2Config:
        """The configuration in a transformers ``config.json``.

        Parameters
        ----------
        config : mapping
            Fields that are missing have transformers' default values.

        Returns
        -------
        GPT2Config

        Raises
        ------
        ValueError
            If a field is out of range, or asks for something that is not implemented.
        """
        for flag in _NOT_IMPLEMENTED:
            if config.get(flag):
                raise ValueError(f"{flag} is not implemented")
        values = {ours: config[theirs] for theirs, ours in _ALIASES.items() if theirs in config}
        values |= {field.name: config[field.name] for field in fields(cls) if field.name in config}
        return cls(**values)


class GPT2(Decoder):
    """A GPT-2 that runs on a simulated machine.

    Parameters
    ----------
    config : GPT2Config
        Its configuration.
    tensors : mapping of str to ndarray
        Its weights, under transformers' names.
    hardware : Hardware or str
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        The rules of look-ahead, at most one per place.
    source : Path, optional
        The checkpoint that the tokenizer is read from.

    Examples
    --------
    >>> import lamp
    >>> settings = lamp.LAMP(tau=1.2)
    >>> model = lamp.GPT2.from_pretrained("embedded", hardware="scores-ps4", lamp=settings)
    >>> model.forward(model.encode("What's in a name?")).logits.shape[1]
    2048
    """

    family = "gpt2"

    @staticmethod
    def _configure(config: Mapping[str, Any]) -> GPT2Config:
        return GPT2Config.from_mapping(config)

    @staticmethod
    def _shape(config: GPT2Config) -> Shape:
        return Shape(
            vocabulary=config.vocab_size,
            positions=config.n_positions,
            width=config.n_embd,
            inner=_inner(config),
            layers=config.n_layer,
            heads=config.n_head,
            key_heads=config.n_head,
            dimension=config.n_embd // config.n_head,
            activation=config.activation_function,
            epsilon=config.layer_norm_epsilon,
            scaled=config.scale_attn_weights,
        )

    @staticmethod
    def _load(
        tensors: Mapping[str, NDArray[Any]], config: GPT2Config, hardware: Hardware
    ) -> Weights:
        width, inner = config.n_embd, _inner(config)
        held = Tensors(tensors, _PREFIX, hardware)
        held.check_layers("h.", config.n_layer, "n_layer")

        def norm(of: Tensors, name: str) -> Norm:
            return Norm(of.take(f"{name}.weight", width), of.take(f"{name}.bias", width))

        def block(layer: int) -> Block:
            at, own = f"h.{layer}", held.of_layer(layer, config.n_layer)

            def matrix(name: str, inputs: int, outputs: int) -> Matrix:
                weight = own.take(f"{at}.{name}.weight", inputs, outputs)
                return own.matrix(weight, own.take(f"{at}.{name}.bias", outputs))

            return Block(
                norm_1=norm(own, f"{at}.ln_1"),
                qkv=matrix("attn.c_attn", width, 3 * width),
                attention_output=matrix("attn.c_proj", width, width),
                norm_2=norm(own, f"{at}.ln_2"),
                mlp_up=matrix("mlp.c_fc", width, inner),
                mlp_down=matrix("mlp.c_proj", inner, width),
            )

        tokens = held.take("wte.weight", config.vocab_size, width)
        weights = Weights(
            tokens=tokens,
            positions=held.take("wpe.weight", config.n_positions, width),
            blocks=tuple(block(layer) for layer in range(config.n_layer)),
            norm=norm(held, "ln_f"),
            head=held.matrix(held.head(tokens, tied=config.tie_word_embeddings).T),
        )
        held.check_rest(_OWN, _CONSTANTS)
        return weights


def _inner(config: GPT2Config) -> int:
    """The width of the feed-forward layers, which is known once a configuration is made."""
    assert config.n_inner is not None
    return config.n_inner
