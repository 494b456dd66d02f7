"""The Llama in a GGUF file: its configuration and tensors under transformers' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from gguf import MODEL_ARCH, MODEL_TENSOR, TENSOR_NAMES
from numpy.typing import NDArray

from lamp.models.gguf.reader import File, open_file
from lamp.models.rotary import Rotary

__all__ = ["architecture", "load_config", "load_tensors", "settings"]

_FAMILY: Final = gguf.MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA]
_EMBEDDING: Final = f"{TENSOR_NAMES[MODEL_TENSOR.TOKEN_EMBD]}.weight"
_HEAD: Final = f"{TENSOR_NAMES[MODEL_TENSOR.OUTPUT]}.weight"
_DIVISORS: Final = f"{TENSOR_NAMES[MODEL_TENSOR.ROPE_FREQS]}.weight"
_MODEL: Final = ("model.embed_tokens", "model.norm", "lm_head")
_NORMS: Final = ("input_layernorm", "post_attention_layernorm")
_MATRICES: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""The tensors of a Llama and of each of its layers, by transformers' names."""
_READ: Final = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.type",
)
"""The settings that are read."""
_WITHOUT_EFFECT: Final = (
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "tensor_data_layout",
    "vocab_size",
)
"""Settings that do not change what a model computes."""
_USUAL: Final = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "use_parallel_residual": False,
}
"""The only values of further settings that are implemented."""
_LLAMA_3: Final = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_DIVISOR_ERROR: Final = 2.0**-16  # they were computed in float32


def load_config(path: Path) -> dict[str, Any]:
    """The configuration in a GGUF file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict
        Under transformers' names.  Numbers that are float32 in the file are the shortest decimals
        that round to them.

    Raises
    ------
    ValueError
        If the file is broken, holds another kind of model, or says something that is not
        implemented.
    """
    file = _open_llama(path)
    heads, dimension = file.count("attention.head_count"), _head_dimension(file)
    return {
        "model_type": "llama",
        "vocab_size": file.tensor(_EMBEDDING).shape[0],
        "hidden_size": file.count("embedding_length"),
        "intermediate_size": file.count("feed_forward_length"),
        "num_hidden_layers": file.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.count("attention.head_count_kv", heads),
        "head_dim": dimension,
        "max_position_embeddings": file.count("context_length"),
        "hidden_act": "silu",
        "rms_norm_eps": file.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rotary(file, dimension),
        "tie_word_embeddings": _HEAD not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
    }


def architecture(path: Path) -> str:
    """The type of model that a file names."""
    return str(open_file(path).architecture)


def settings(path: Path) -> dict[str, Any]:
    """What a file says of its model, without the name of the architecture in front."""
    file = open_file(path)
    prefix = f"{file.architecture}."
    return {
        key.removeprefix(prefix): value
        for key, value in file.metadata.items()
        if key.startswith(prefix)
    }


def _open_llama(path: Path) -> File:
    """A file that holds a Llama, with no settings that are not implemented."""
    file = open_file(path)
    if file.architecture != _FAMILY:
        raise ValueError(
            f"{path} holds a model of architecture {file.architecture!r}, expected {_FAMILY!r}"
        )
    for key, value in file.metadata.items():
        family, _, name = key.partition(".")
        if family != _FAMILY or name in _READ or name in _WITHOUT_EFFECT:
            continue
        if name not in _USUAL or value != _USUAL[name]:
            raise ValueError(f"{path} says {key} = {value!r}, which is not implemented")
    return file


def _head_dimension(file: File) -> int:
    """The dimension of a head; rotary positions must rotate all of it."""
    size = file.count("embedding_length") // file.count("attention.head_count")
    dimension = file.count("attention.key_length", size)
    for name in ("attention.value_length", "rope.dimension_count"):
        if file.count(name, dimension) != dimension:
            raise ValueError(
                f"{file.path} says {_FAMILY}.{name} = {file.count(name)} with heads of "
                f"{dimension}, which is not implemented"
            )
    return dimension


# --- rotary positions -----------------------------------------------------------------------------


def _rotary(file: File, dimension: int) -> dict[str, Any]:
    """The ``rope_parameters`` of transformers."""
    theta = file.number("rope.freq_base", 10000.0)
    kind = file.metadata.get(f"{_FAMILY}.rope.scaling.type", "linear")
    factor = file.number("rope.scaling.factor", file.number("rope.scale_linear", 1.0))
    if kind == "linear" and factor in (0.0, 1.0):
        kind = "none"
    if kind == "none":
        return {"rope_theta": theta, **_divided(file, dimension, theta)}
    if kind != "linear" or _DIVISORS in file.tensors:
        beside = f" beside a tensor {_DIVISORS!r}" if _DIVISORS in file.tensors else ""
        raise ValueError(
            f"{file.path}: rotary positions of type {kind!r}{beside} are not implemented"
        )
    return {"rope_theta": theta, "rope_type": "linear", "factor": factor}


def _divided(file: File, dimension: int, theta: float) -> dict[str, Any]:
    """Parameters of Llama 3, which has a tensor of divisors of the frequencies, or default ones."""
    if _DIVISORS not in file.tensors:
        return {"rope_type": "default"}
    divisors = file.values(_DIVISORS)
    if divisors.shape == (dimension // 2,) and divisors.max() > 0.0:
        plain = Rotary(dimension, theta).frequencies()
        factor = float(f"{divisors.max():.6g}")  # of low frequencies
        numbers = tuple(float(number) for number in _LLAMA_3.values())
        divided = Rotary(dimension, theta, "llama3", (factor, *numbers)).frequencies()
        expected = [float(a / b) for a, b in zip(plain, divided, strict=True)]
        if np.allclose(divisors, expected, rtol=_DIVISOR_ERROR, atol=0.0):
            return {"rope_type": "llama3", "factor": factor, **_LLAMA_3}
    raise ValueError(f"{file.path}: the divisors in {_DIVISORS!r} are not those of a Llama 3")


# --- tensors --------------------------------------------------------------------------------------


def load_tensors(path: Path) -> dict[str, NDArray[np.floating[Any]]]:
    """All tensors in a GGUF file, quantized ones as the float32 numbers that they stand for.

    Tensors of float32 are mapped into memory, not read, except queries and keys: their rows are
    put into transformers' order.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict
        transformers' name to array.

    Raises
    ------
    ValueError
        If the file is broken, holds another kind of model, lacks a tensor or has one that does not
        belong to a Llama, or one of a type that is not known.
    """
    file = _open_llama(path)
    layers, heads = file.count("block_count"), file.count("attention.head_count")
    if layers > len(file.tensors):
        raise ValueError(f"{path} has {layers} layers in {len(file.tensors)} tensors")
    rotated = {"q_proj": heads, "k_proj": file.count("attention.head_count_kv", heads)}
    names = _names(layers)
    for name in names:
        if name.endswith(".weight") and name != _HEAD:
            file.tensor(name)  # raises if it is missing
    tensors = {}
    for name in file.tensors:
        if name == _DIVISORS:
            continue
        if name not in names:
            raise ValueError(
                f"{path} has a tensor {name!r}, which is none of a Llama of {layers} layers"
            )
        values, part = file.values(name), names[name].split(".")[-2]
        if part in rotated:
            values = values[_row_order(file, name, rotated[part])]
        tensors[names[name]] = values
    return tensors


def _names(layers: int) -> dict[str, str]:
    """Names of tensors in transformers, by their names in the file."""
    parts = [f"{name}.weight" for name in _MODEL]
    for layer in range(layers):
        at = f"model.layers.{layer}."
        parts += [f"{at}{name}.weight" for name in (*_NORMS, *_MATRICES)]
        parts += [f"{at}{name}.bias" for name in _MATRICES]
    known = gguf.get_tensor_name_map(MODEL_ARCH.LLAMA, layers)
    return {str(known.get_name(name, (".weight", ".bias"))): name for name in parts}


def _row_order(file: File, name: str, heads: int) -> NDArray[np.intp]:
    """The rows of queries or keys in transformers' order.

    ggml rotates component 2 i of a head with component 2 i + 1, transformers i with i + d/2.
    """
    rows, expected = file.tensor(name).shape[0], heads * _head_dimension(file)
    if rows != expected:
        raise ValueError(f"{file.path}: tensor {name!r} has {rows} rows, expected {expected}")
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()
