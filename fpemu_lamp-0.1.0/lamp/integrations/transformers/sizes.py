"""What configurations say of models: their sizes, and whether they continue texts."""

from __future__ import annotations

from typing import Any, Final

from lamp.integrations.transformers.structure import Structure
from lamp.models import Shape

__all__ = ["continues", "sizes"]

_KEY_HEADS: Final = ("num_key_value_heads", "num_kv_heads")
_MANY: Final = 2**31 - 1  # positions of a model that has no limit


def sizes(configuration: Any, structure: Structure | None = None) -> Shape:
    """The sizes of a model, as far as its configuration names them.

    Parameters
    ----------
    configuration : transformers.PretrainedConfig
    structure : Structure, optional
        What its modules are, if it has been watched.

    Returns
    -------
    Shape
    """
    config = configuration.get_text_config()

    def size(*names: str, default: int) -> int:
        found = (getattr(config, name, None) for name in names)
        return int(next((each for each in found if each), default))

    heads = size("num_attention_heads", default=1)
    width = size("hidden_size", default=1)
    norms = [] if structure is None else list(structure.norms.values())
    activations = [] if structure is None else list(structure.activations.values())
    layers = size("num_hidden_layers", default=0) if structure is None else len(structure.layers)
    return Shape(
        vocabulary=size("vocab_size", default=1),
        positions=size("max_position_embeddings", default=_MANY),
        width=width,
        inner=size("intermediate_size", "n_inner", "d_ff", "ffn_dim", default=4 * width),
        layers=layers,
        heads=heads,
        key_heads=1 if _shares_keys(config) else size(*_KEY_HEADS, default=heads),
        dimension=size("head_dim", default=width // heads),
        activation=activations[-1] if activations else "",
        epsilon=norms[-1].epsilon if norms else 0.0,
    )


def _shares_keys(config: Any) -> bool:
    """Whether all heads have one head of keys: Falcon and GPTBigCode name no number then."""
    several = getattr(config, "new_decoder_architecture", False)  # Falcon's, whatever else it says
    return bool(getattr(config, "multi_query", False)) and not several


def continues(configuration: Any, kind: Any) -> bool:
    """Whether models of a class read one text, and say at each token what the next one is.

    Parameters
    ----------
    configuration : transformers.PretrainedConfig
    kind : type
        The class of the model, or transformers' one for causal models of any family.

    Returns
    -------
    bool
    """
    generates = getattr(kind, "can_generate", None)
    reads_two = getattr(configuration, "is_encoder_decoder", False)
    return not reads_two and (generates is None or generates())
