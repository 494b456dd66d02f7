"""GPT-2: its configuration and its weights.

References
----------
A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; the layout of the
weights is that of transformers' ``GPT2LMHeadModel``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamp._kernels import activations
from lamp.machines import Hardware
from lamp.models.decoder import Decoder
from lamp.models.layers import Matrix, Norm
from lamp.models.weights import Block, Shape, Tensors, Weights

__all__ = ["GPT2", "GPT2Config"]

_PREFIX = "transformer."


@dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2, under transformers' names.

    Parameters
    ----------
    vocab_size, n_positions, n_embd, n_layer, n_head, n_inner : int
        Sizes.
    activation_function : str
        The activation of the feed-forward layers.
    layer_norm_epsilon : float
        The epsilon of every LayerNorm.
    scale_attn_weights : bool
        Whether scores are divided by the square root of the head dimension.
    """

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    activation_function: str
    layer_norm_epsilon: float
    scale_attn_weights: bool = True

    def __post_init__(self) -> None:
        activations.activation(self.activation_function)  # raises if there is none
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}, expected a positive integer")
        if not 0.0 <= self.layer_norm_epsilon < np.inf:
            raise ValueError(
                f"layer_norm_epsilon is {self.layer_norm_epsilon!r}, expected a finite number "
                "that is not negative"
            )
        if self.n_embd % self.n_head:
            raise ValueError(f"width {self.n_embd} does not divide into {self.n_head} heads")

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> GPT2Config:
        """The configuration in a transformers ``config.json``.

        Raises
        ------
        ValueError
            If it asks for something that is not implemented.
        """
        for flag in (
            "scale_attn_by_inverse_layer_idx",
            "reorder_and_upcast_attn",
            "add_cross_attention",
        ):
            if config.get(flag):
                raise ValueError(f"{flag} is not implemented")
        if not config.get("tie_word_embeddings", True):
            raise ValueError("a head that is not tied to the embedding is not implemented")
        values = {f.name: config[f.name] for f in fields(cls)}
        if values["n_inner"] is None:
            values["n_inner"] = 4 * values["n_embd"]
        return cls(**values)


class GPT2(Decoder):
    """A GPT-2 that runs on a simulated machine.

    Parameters
    ----------
    config : GPT2Config
        Its shape.
    tensors : mapping
        Its weights, under transformers' names.
    hardware : Hardware or str
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        What to recompute; several are for as many places.
    source : Path, optional
        The checkpoint that the tokenizer is taken from.

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
            inner=config.n_inner,
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
        width, inner = config.n_embd, config.n_inner
        prefix = "" if "wte.weight" in tensors else _PREFIX
        held = Tensors(tensors, prefix, hardware)
        held.check_layers("h.", config.n_layer, "n_layer")

        def norm(name: str) -> Norm:
            return Norm(held.take(f"{name}.weight", width), held.take(f"{name}.bias", width))

        def matrix(name: str, inputs: int, outputs: int) -> Matrix:
            weight = held.take(f"{name}.weight", inputs, outputs)
            return held.matrix(weight, held.take(f"{name}.bias", outputs))

        def block(at: str) -> Block:
            return Block(
                norm_1=norm(f"{at}.ln_1"),
                qkv=matrix(f"{at}.attn.c_attn", width, 3 * width),
                attention_output=matrix(f"{at}.attn.c_proj", width, width),
                norm_2=norm(f"{at}.ln_2"),
                mlp_up=matrix(f"{at}.mlp.c_fc", width, inner),
                mlp_down=matrix(f"{at}.mlp.c_proj", inner, width),
            )

        tokens = held.take("wte.weight", config.vocab_size, width)
        return Weights(
            tokens=tokens,
            positions=held.take("wpe.weight", config.n_positions, width),
            blocks=tuple(block(f"h.{layer}") for layer in range(config.n_layer)),
            norm=norm("ln_f"),
            head=held.matrix(tokens.T),
        )
