"""GGUF files: a Llama and its tokenizer in one file, as llama.cpp has them, mostly quantised.

The package ``gguf`` knows the types of tensors and undoes their quantisation.  Headers are read
here: its own reader makes several arrays of every word of the vocabulary (five seconds for 49152 of
them) and believes whatever length a broken file gives.

References
----------
The format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the names of tensors and the
order of the rows of queries and keys are those of llama.cpp's ``convert_hf_to_gguf.py``.
"""

from __future__ import annotations

import importlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lamp.models.rotary import Rotary
from lamp.models.tokenizer import Tokenizer, add_special_tokens

__all__ = ["load_config", "load_tensors", "load_tokenizer"]

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_ALIGNMENT: Final = 32
_MOST_DIMENSIONS: Final = 4
_STRING, _ARRAY = 8, 9
# What struct and numpy call the types of numbers in the metadata.
_NUMBERS: Final = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_PLAIN: Final = {"F32": "<f4", "F64": "<f8"}

_FAMILY: Final = "llama"
_EMBEDDING, _HEAD, _FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
_MODEL: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
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
"""The settings that are read; others change what a model computes, or have no effect on it."""
_WITHOUT_EFFECT: Final = (
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "tensor_data_layout",
    "vocab_size",
)
_USUAL: Final = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "use_parallel_residual": False,
}
_LLAMA_3: Final = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_DIVISOR_ERROR: Final = 2.0**-16  # they were computed in float32


# --- the file -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tensor:
    """A tensor as it lies in the file: its type, its shape and the bytes of its rows."""

    kind: Any
    shape: tuple[int, ...]
    rows: NDArray[np.uint8]


@dataclass(frozen=True)
class _File:
    """A file that is mapped into memory."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, _Tensor]

    def tensor(self, name: str) -> _Tensor:
        """A tensor by its name in the file."""
        if name not in self.tensors:
            raise ValueError(f"{self.path} has no tensor {name!r}")
        return self.tensors[name]

    def values(self, name: str) -> NDArray[np.floating[Any]]:
        """The numbers of a tensor; those of float32 and float64 stay in the file."""
        tensor = self.tensor(name)
        kind = tensor.kind.name
        if kind in _PLAIN:
            array = tensor.rows.view(_PLAIN[kind])
            return array if array.flags.aligned else array.copy()
        try:
            numbers: NDArray[np.float32] = _library().quants.dequantize(tensor.rows, tensor.kind)
        except NotImplementedError as error:
            raise ValueError(
                f"tensor {name!r} of {self.path} is of type {kind}, which the package gguf does "
                "not turn into numbers"
            ) from error
        return numbers

    def count(self, name: str, default: int | None = None) -> int:
        """A positive integer of the model's settings."""
        value = self.metadata.get(f"{_FAMILY}.{name}", default)
        if value is None:
            raise ValueError(f"{self.path} does not say {_FAMILY}.{name}")
        if type(value) is not int or value < 1:
            raise ValueError(
                f"{self.path} says {_FAMILY}.{name} = {value!r}, expected a positive integer"
            )
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number of the model's settings."""
        value = self.metadata.get(f"{_FAMILY}.{name}", default)
        if value is None:
            raise ValueError(f"{self.path} does not say {_FAMILY}.{name}")
        if type(value) not in (int, float):
            raise ValueError(f"{self.path} says {_FAMILY}.{name} = {value!r}, expected a number")
        return float(value)


class _Cursor:
    """A place in a file, which nothing is read behind the end of."""

    def __init__(self, path: Path, content: NDArray[np.uint8]) -> None:
        self.path, self.offset = path, 0
        self._content = content

    def take(self, count: int) -> NDArray[np.uint8]:
        """The next bytes, where they lie."""
        start, size = self.offset, len(self._content)
        if start + count > size:
            raise ValueError(
                f"{self.path} is cut short or broken: it has {size} bytes, but {count} are to be "
                f"read from byte {start} on"
            )
        self.offset += count
        return self._content[start : self.offset]

    def number(self, code: str) -> Any:
        """The next number."""
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)).tobytes())
        # Settings are written down in decimal: what was meant by a float32 is the shortest of the
        # decimals that it is nearest to, 1e-5 and not 9.999999747378752e-06.
        return float(str(np.float32(value))) if code == "f" else value

    def text(self) -> str:
        """The next string."""
        start = self.offset
        try:
            return self.take(self.number("Q")).tobytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path} is broken: the string at byte {start} is not UTF-8"
            ) from error

    def value(self) -> Any:
        """The next value of the metadata."""
        kind = self.number("I")
        if kind != _ARRAY:
            return self._single(kind)
        kind, count = self.number("I"), self.number("Q")
        if kind in _NUMBERS:
            code = "<" + _NUMBERS[kind]
            return self.take(count * struct.calcsize(code)).view(code).tolist()
        if kind != _STRING:
            raise ValueError(f"{self.path} is broken: it has an array of type {kind}")
        return [self.text() for _ in range(count)]

    def _single(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind not in _NUMBERS:
            raise ValueError(f"{self.path} is broken: it has a value of type {kind}")
        return self.number(_NUMBERS[kind])


def _library() -> Any:
    """The package gguf, imported when it is needed."""
    try:
        return importlib.import_module("gguf")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "GGUF files need the package gguf to be read: pip install 'fpemu-lamp[gguf]'"
        ) from error


def _opened(path: Path) -> _File:
    """A file, its header read and checked."""
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    # Copy-on-write: kernels are compiled for arrays that can be written to.
    cursor = _Cursor(path, np.asarray(np.memmap(path, np.uint8, "c")))
    if cursor.take(4).tobytes() != _MAGIC:
        raise ValueError(f"{path} is not a GGUF file")
    version = cursor.number("I")
    if version not in _VERSIONS:
        kind = "of big-endian numbers" if version % 2**16 == 0 else f"of version {version}"
        raise ValueError(f"{path} is a GGUF file {kind}, expected version 2 or 3, little-endian")
    tensors, settings = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(settings):
        key = cursor.text()
        if key in metadata:
            raise ValueError(f"{path} is broken: it says {key!r} twice")
        metadata[key] = cursor.value()
    parts = metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise ValueError(
            f"{path} is one of {parts!r} files of a split model: join them with "
            "llama-gguf-split --merge"
        )
    return _File(path, metadata, _tensors(cursor, tensors, metadata))


def _tensors(cursor: _Cursor, count: int, metadata: Mapping[str, Any]) -> dict[str, _Tensor]:
    """What the header says about tensors, each with its bytes."""
    entries: dict[str, tuple[Any, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = cursor.text()
        if name in entries:
            raise ValueError(f"{cursor.path} is broken: it has two tensors {name!r}")
        entries[name] = _entry(cursor, name)
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise ValueError(f"{cursor.path} is broken: general.alignment is {alignment!r}")
    start = -(-cursor.offset // alignment) * alignment
    tensors = {}
    for name, (kind, shape, offset) in entries.items():
        numbers, size = _library().GGML_QUANT_SIZES[kind]
        if shape[-1] % numbers:
            raise ValueError(
                f"{cursor.path} is broken: tensor {name!r} of shape {shape} does not divide into "
                f"blocks of {numbers}, as {kind.name} has"
            )
        outline = *shape[:-1], shape[-1] // numbers * size
        cursor.offset = start + offset
        tensors[name] = _Tensor(kind, shape, cursor.take(math.prod(outline)).reshape(outline))
    return tensors


def _entry(cursor: _Cursor, name: str) -> tuple[Any, tuple[int, ...], int]:
    """The type of the next tensor, its shape and its place."""
    dimensions = cursor.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise ValueError(f"{cursor.path} is broken: tensor {name!r} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]  # the last one lies together
    if not shape or 0 in shape:
        raise ValueError(f"{cursor.path} is broken: tensor {name!r} has shape {shape}")
    kind, offset = cursor.number("I"), cursor.number("Q")
    try:
        return _library().GGMLQuantizationType(kind), shape, offset
    except ValueError as error:
        raise ValueError(
            f"{cursor.path}: tensor {name!r} is of type {kind}, which the installed package gguf "
            "does not know"
        ) from error


# --- the model ------------------------------------------------------------------------------------


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
    ModuleNotFoundError
        If the package gguf is missing.
    """
    file = _llama(path)
    heads, dimension = file.count("attention.head_count"), _dimension(file)
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


def _llama(path: Path) -> _File:
    """A file that holds a Llama with no settings that are not known here."""
    file = _opened(path)
    architecture = file.metadata.get("general.architecture")
    if architecture != _FAMILY:
        raise ValueError(
            f"{path} holds a model of architecture {architecture!r}, expected {_FAMILY!r}"
        )
    for key, value in file.metadata.items():
        family, _, name = key.partition(".")
        if family != _FAMILY or name in _READ or name in _WITHOUT_EFFECT:
            continue
        if name not in _USUAL or value != _USUAL[name]:
            raise ValueError(f"{path} says {key} = {value!r}, which is not implemented")
    return file


def _dimension(file: _File) -> int:
    """The head dimension, that of all rotary pairs together."""
    size = file.count("embedding_length") // file.count("attention.head_count")
    dimension = file.count("attention.key_length", size)
    for name in ("attention.value_length", "rope.dimension_count"):
        if file.count(name, dimension) != dimension:
            raise ValueError(
                f"{file.path} says {_FAMILY}.{name} = {file.count(name)} with heads of "
                f"{dimension}, which is not implemented"
            )
    return dimension


def _rotary(file: _File, dimension: int) -> dict[str, Any]:
    """What transformers calls ``rope_parameters``."""
    theta = file.number("rope.freq_base", 10000.0)
    kind = file.metadata.get(f"{_FAMILY}.rope.scaling.type", "linear")
    factor = file.number("rope.scaling.factor", file.number("rope.scale_linear", 1.0))
    if kind == "linear" and factor in (0.0, 1.0):
        kind = "none"
    if kind == "none":
        return {"rope_theta": theta, **_stretched(file, dimension, theta)}
    if kind != "linear" or _FACTORS in file.tensors:
        beside = f" beside a tensor {_FACTORS!r}" if _FACTORS in file.tensors else ""
        raise ValueError(
            f"{file.path}: rotary positions of type {kind!r}{beside} are not implemented"
        )
    return {"rope_theta": theta, "rope_type": "linear", "factor": factor}


def _stretched(file: _File, dimension: int, theta: float) -> dict[str, Any]:
    """What the tensor of each frequency's divisor means, which Llama 3 has."""
    if _FACTORS not in file.tensors:
        return {"rope_type": "default"}
    divisors = file.values(_FACTORS)
    if divisors.shape == (dimension // 2,) and divisors.max() > 0.0:
        plain = Rotary(dimension, theta).frequencies()
        factor = float(f"{divisors.max():.6g}")  # of low frequencies
        numbers = tuple(float(number) for number in _LLAMA_3.values())
        stretched = Rotary(dimension, theta, "llama3", (factor, *numbers)).frequencies()
        expected = [float(a / b) for a, b in zip(plain, stretched, strict=True)]
        if np.allclose(divisors, expected, rtol=_DIVISOR_ERROR, atol=0.0):
            return {"rope_type": "llama3", "factor": factor, **_LLAMA_3}
    raise ValueError(f"{file.path}: the divisors in {_FACTORS!r} are not those of a Llama 3")


def load_tensors(path: Path) -> dict[str, NDArray[np.floating[Any]]]:
    """All tensors in a GGUF file, what is quantised as the float32 numbers that it stands for.

    Tensors of float32 are mapped into memory, not read, but for queries and keys: their rows are
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
        If the file is broken, holds another kind of model, lacks a tensor or has one that is no
        Llama's, or one of a type that is not known.
    ModuleNotFoundError
        If the package gguf is missing.
    """
    file = _llama(path)
    layers, heads = file.count("block_count"), file.count("attention.head_count")
    if layers > len(file.tensors):
        raise ValueError(f"{path} has {layers} layers in {len(file.tensors)} tensors")
    turned = {"attn_q": heads, "attn_k": file.count("attention.head_count_kv", heads)}
    names = _names(layers)
    for name in names:
        if name.endswith(".weight") and name != _HEAD:
            file.tensor(name)  # raises if it is missing
    tensors = {}
    for name in file.tensors:
        if name == _FACTORS:
            continue
        if name not in names:
            raise ValueError(
                f"{path} has a tensor {name!r}, which is none of a Llama of {layers} layers"
            )
        values, part = file.values(name), name.split(".")[-2]
        if part in turned:
            values = values[_order(file, name, turned[part])]
        tensors[names[name]] = values
    return tensors


def _names(layers: int) -> dict[str, str]:
    """The names of tensors in transformers, by those in the file."""
    stems = {**_MODEL, "output": "lm_head"}
    for layer in range(layers):
        stems |= {f"blk.{layer}.{a}": f"model.layers.{layer}.{b}" for a, b in _LAYER.items()}
    names = {f"{a}.weight": f"{b}.weight" for a, b in stems.items()}
    with_bias = {a: b for a, b in stems.items() if a.startswith("blk.") and "norm" not in a}
    return names | {f"{a}.bias": f"{b}.bias" for a, b in with_bias.items()}


def _order(file: _File, name: str, heads: int) -> NDArray[np.intp]:
    """Where the rows of queries or keys are.

    ggml turns component 2 i of a head with component 2 i + 1, transformers i with i + d/2.
    """
    rows = file.tensor(name).shape[0]
    if rows != heads * _dimension(file):
        raise ValueError(
            f"{file.path}: tensor {name!r} has {rows} rows, expected {heads * _dimension(file)}"
        )
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()


# --- the tokenizer --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Words:
    """How text is cut into the words that merges stay within.

    Parameters
    ----------
    pattern : str, optional
        What words look like; left out, GPT-2's pattern.
    digits : bool
        Whether every digit is a word.
    whole : bool
        Whether a word that is in the vocabulary is taken without a look at merges.
    begins : bool
        Whether a text begins with the token for that, where the file does not say it.
    """

    pattern: str | None = None
    digits: bool = False
    whole: bool = False
    begins: bool = False


_DIGITS: Final = _Words(digits=True)
_LLAMA_3_WORDS: Final = _Words(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    whole=True,
    begins=True,
)
_WORDS: Final = {
    "gpt-2": _Words(),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "llama-bpe": _LLAMA_3_WORDS,
}
_UNKNOWN, _CONTROL, _OF_USERS = 2, 3, 4
_SPECIAL: Final = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a GGUF file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Tokenizer
        Text decodes to itself, but for bytes that the vocabulary has no token for: they are left
        out, as transformers and llama.cpp do.

    Raises
    ------
    FileNotFoundError
        If the file holds no tokenizer.
    ValueError
        If the file is broken, or the tokenizer is of a kind that is not known.
    ModuleNotFoundError
        If the package gguf is missing.
    """
    file = _opened(path)
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise FileNotFoundError(f"{path} holds no tokenizer")
    if kind != "gpt2":
        raise ValueError(
            f"{path} holds a tokenizer of kind {kind!r}, expected 'gpt2', which is byte-level BPE"
        )
    words = file.metadata.get("tokenizer.ggml.pre")
    if words not in _WORDS:
        raise ValueError(
            f"{path} cuts text into words as {words!r} does, expected one of {', '.join(_WORDS)}"
        )
    try:
        return _wrapped(file, _WORDS[words])
    except Exception as error:  # tokenizers raises plain exceptions, transformers what it likes
        raise ValueError(f"the tokenizer of {path} cannot be read: {error!r}") from error


def _wrapped(file: _File, words: _Words) -> Tokenizer:
    """A tokenizer with the special tokens that it has names for, and its chat template."""
    tokens = file.metadata["tokenizer.ggml.tokens"]
    special = {
        f"{theirs}_token": tokens[number]
        for ours, theirs in _SPECIAL.items()
        if (number := file.metadata.get(f"tokenizer.ggml.{ours}_token_id")) is not None
    }
    backend = _byte_level(file.metadata, words)
    add_special_tokens(backend, special.values())
    return Tokenizer(backend, special, file.metadata.get("tokenizer.chat_template"))


def _byte_level(metadata: Mapping[str, Any], words: _Words) -> Any:
    """Byte-level BPE, by the package tokenizers."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
    )

    tokens = metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ValueError("two tokens of the vocabulary are the same")
    merges = [tuple(pair.split(" ")) for pair in metadata["tokenizer.ggml.merges"]]
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=words.whole)
    tokenizer = Tokenizer(model)
    cuts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if words.digits else []
    if words.pattern is not None:
        cuts.append(pre_tokenizers.Split(Regex(words.pattern), "isolated"))
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words.pattern is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, own])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata.get("tokenizer.ggml.token_type", [])
    for wanted, special in (((_UNKNOWN, _CONTROL), True), ((_OF_USERS,), False)):
        added = [
            AddedToken(token, special=special, normalized=False)
            for token, kind in zip(tokens, kinds, strict=bool(kinds))
            if kind in wanted
        ]
        tokenizer.add_tokens(added)
    first = _end(metadata, "bos", words.begins)
    last = _end(metadata, "eos", False)
    if first or last:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last],
            pair=[*first, "$A", *last, *first, "$B:1", *last],
            special_tokens=[(token, vocabulary[token]) for token in {*first, *last}],
        )
    return tokenizer


def _end(metadata: Mapping[str, Any], which: str, usual: bool) -> list[str]:
    """What is put before or behind every text."""
    if not metadata.get(f"tokenizer.ggml.add_{which}_token", usual):
        return []
    return [metadata["tokenizer.ggml.tokens"][metadata[f"tokenizer.ggml.{which}_token_id"]]]
