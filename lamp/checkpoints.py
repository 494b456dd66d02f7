"""Weights, configurations, tokenizers and texts from disk.

A checkpoint is a directory as transformers writes it: ``config.json``, ``model.safetensors`` (or
shards with an index) and tokenizer files.  ``"embedded"`` is the model that ships with the package.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["EMBEDDED", "directory", "load_config", "load_tensors", "load_tokenizer", "read_text"]

EMBEDDED: Final = Path(__file__).parent / "embedded"
"""The directory of the embedded model."""

_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_NUMPY_TYPES: Final = ("F16", "F32", "F64")


def directory(path_or_name: str | os.PathLike[str]) -> Path:
    """The directory of a checkpoint.

    Parameters
    ----------
    path_or_name : str or path-like
        A directory, or ``"embedded"``.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If there is no such directory, or it holds no ``config.json``.
    """
    if path_or_name == "embedded":
        return EMBEDDED
    path = Path(path_or_name)
    if not path.is_dir():
        raise FileNotFoundError(
            f"no model {str(path_or_name)!r}: expected 'embedded' or a transformers directory"
        )
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is no checkpoint: it holds no config.json")
    return path


def load_config(path: Path) -> Mapping[str, Any]:
    """The configuration of a GPT-2 checkpoint, with transformers' defaults for what it omits.

    Parameters
    ----------
    path : Path
        The directory.

    Returns
    -------
    mapping

    Raises
    ------
    ValueError
        If ``config.json`` is no JSON object or describes another kind of model.
    """
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
        kind = found.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path / 'config.json'} is not a model configuration: {error}") from error
    if kind != "gpt2":
        raise ValueError(f"{path} holds a model of type {kind!r}, expected 'gpt2'")
    try:
        config: Mapping[str, Any] = _transformers().GPT2Config.from_dict(found).to_dict()
    except Exception as error:  # transformers' own checks raise what they like
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path / 'config.json'} is not a GPT-2 configuration: {reason}"
        ) from error
    return config


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a checkpoint.

    Parameters
    ----------
    path : Path
        The directory.

    Returns
    -------
    transformers.PreTrainedTokenizerBase

    Raises
    ------
    FileNotFoundError
        If the directory holds no tokenizer.
    ValueError
        If its files cannot be read.
    """
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(f"{path} holds no tokenizer (tokenizer.json or vocab.json)")
    try:
        return _transformers().AutoTokenizer.from_pretrained(path)
    except Exception as error:  # JSON, key and other errors, by version of transformers
        raise ValueError(f"the tokenizer of {path} cannot be read: {error!r}") from error


def _transformers() -> ModuleType:
    """transformers, imported when it is needed and without its advice to install PyTorch."""
    quiet = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(quiet)
    os.environ[quiet] = "1"
    try:
        return importlib.import_module("transformers")
    finally:
        if before is None:
            del os.environ[quiet]
        else:
            os.environ[quiet] = before


def load_tensors(path: Path) -> dict[str, NDArray[np.floating[Any]]]:
    """All floating-point tensors of a checkpoint; half-precision ones are widened to float32.

    Parameters
    ----------
    path : Path
        The directory.

    Returns
    -------
    dict
        Tensor name to array of float32 or float64.

    Raises
    ------
    FileNotFoundError
        If there are no weights, or a shard is missing.
    ValueError
        If a file is no safetensors file, or the index of shards is broken.
    """
    tensors: dict[str, NDArray[np.floating[Any]]] = {}
    for file in _weight_files(path):
        tensors.update(_read_safetensors(file))
    return tensors


def _weight_files(path: Path) -> list[Path]:
    if (path / _SINGLE).is_file():
        return [path / _SINGLE]
    if not (path / _INDEX).is_file():
        raise FileNotFoundError(f"{path} holds no weights: expected {_SINGLE} or {_INDEX}")
    try:
        index = json.loads((path / _INDEX).read_text(encoding="utf-8"))
        files = [path / name for name in sorted(set(index["weight_map"].values()))]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path / _INDEX} is broken: expected an object whose 'weight_map' gives each tensor's "
            f"file ({error!r})"
        ) from error
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{path / _INDEX} names {file.name}, which is missing")
    return files


def _read_safetensors(file: Path) -> Iterator[tuple[str, NDArray[np.floating[Any]]]]:
    import safetensors

    try:
        with safetensors.safe_open(file, framework="np") as tensors:
            kinds = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
            for name, kind in kinds.items():
                if kind in _NUMPY_TYPES:
                    yield name, _widened(tensors.get_tensor(name))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file: {error}") from error
    if "BF16" in kinds.values():
        yield from _read_bfloat16(file)


def _read_bfloat16(file: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The bfloat16 tensors, which numpy has no type for: the upper halves of float32 numbers."""
    import safetensors

    deserialize: Any = safetensors.deserialize
    for name, tensor in deserialize(file.read_bytes()):
        if tensor["dtype"] == "BF16":
            halves = np.frombuffer(tensor["data"], "<u2").astype(np.uint32)
            yield name, (halves << 16).view(np.float32).reshape(tensor["shape"])


def _widened(array: NDArray[Any]) -> NDArray[np.floating[Any]]:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def read_text(path: Path | None = None) -> str:
    """A text to run a model on.

    Parameters
    ----------
    path : Path, optional
        A UTF-8 file; left out, the held-out sample of the embedded model.

    Returns
    -------
    str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is empty or not UTF-8.
    """
    path = EMBEDDED / "held_out.txt" if path is None else path
    if not path.is_file():
        raise FileNotFoundError(f"no text file {str(path)!r}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text
