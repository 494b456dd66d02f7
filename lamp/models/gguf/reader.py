"""The contents of a GGUF file: settings, and tensors that are mapped into memory.

The package ``gguf`` knows the types of values and tensors and dequantizes tensors.  The header is
read here: the package's own reader makes several arrays of every word of the vocabulary, which
takes seconds, and believes whatever length a broken file gives.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

__all__ = ["File", "Tensor", "open_file"]

_MAGIC: Final = struct.pack("<I", gguf.GGUF_MAGIC)
_VERSIONS: Final = (2, 3)
_LENGTH: Final = struct.Struct("<Q")  # of a string
_MOST_DIMENSIONS: Final = 4
_PLAIN: Final = {GGMLQuantizationType.F32: "<f4", GGMLQuantizationType.F64: "<f8"}
_CODES: Final = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
"""The names of the types of numbers in struct and numpy."""


# --- the contents ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """A tensor as it is stored.

    Parameters
    ----------
    kind : gguf.GGMLQuantizationType
    shape : tuple of int
        The shape of its numbers.
    rows : ndarray of uint8
        The bytes of each row.
    """

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    rows: NDArray[np.uint8]


@dataclass(frozen=True)
class File:
    """A GGUF file.

    Parameters
    ----------
    path : Path
    metadata : mapping
        Settings by their keys.
    tensors : mapping of str to Tensor
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def architecture(self) -> Any:
        """The kind of model, which the keys of its settings begin with."""
        return self.metadata.get("general.architecture")

    def tensor(self, name: str) -> Tensor:
        """A tensor by its name in the file.

        Raises
        ------
        ValueError
            If there is no such tensor.
        """
        if name not in self.tensors:
            raise ValueError(f"{self.path} has no tensor {name!r}")
        return self.tensors[name]

    def values(self, name: str) -> NDArray[np.floating[Any]]:
        """The numbers of a tensor; those of float32 and float64 stay in the file.

        Raises
        ------
        ValueError
            If there is no such tensor, or the package gguf cannot dequantize it.
        """
        tensor = self.tensor(name)
        if tensor.kind in _PLAIN:
            array = tensor.rows.view(_PLAIN[tensor.kind])
            return array if array.flags.aligned else array.copy()
        try:
            return gguf.quants.dequantize(tensor.rows, tensor.kind)
        except NotImplementedError as error:
            raise ValueError(
                f"tensor {name!r} of {self.path} is of type {tensor.kind.name}, which the package "
                "gguf does not turn into numbers"
            ) from error

    def count(self, name: str, default: int | None = None) -> int:
        """A positive integer among the settings of the model.

        Raises
        ------
        ValueError
            If it is missing without a default, or not a positive integer.
        """
        key, value = self._setting(name, default)
        if type(value) is not int or value < 1:
            raise ValueError(f"{self.path} says {key} = {value!r}, expected a positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number among the settings of the model.

        Raises
        ------
        ValueError
            If it is missing without a default, or not a number.
        """
        key, value = self._setting(name, default)
        if type(value) not in (int, float):
            raise ValueError(f"{self.path} says {key} = {value!r}, expected a number")
        return float(value)

    def _setting(self, name: str, default: Any) -> tuple[str, Any]:
        key = f"{self.architecture}.{name}"
        value = self.metadata.get(key, default)
        if value is None:
            raise ValueError(f"{self.path} does not say {key}")
        return key, value


def open_file(path: Path) -> File:
    """Read and check the header of a GGUF file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    File
        Its tensors are mapped into memory; what is written to them does not reach the file.

    Raises
    ------
    ValueError
        If the file is not a GGUF file, broken, or a part of a split model.
    """
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
    metadata = _metadata(cursor, settings)
    parts = metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise ValueError(
            f"{path} is one of {parts!r} files of a split model: join them with "
            "llama-gguf-split --merge"
        )
    return File(path, metadata, _tensors(cursor, tensors, metadata))


# --- the header -----------------------------------------------------------------------------------


class _Cursor:
    """A position in a file; reading beyond the end of the file is an error.

    Parameters
    ----------
    path : Path
    content : ndarray of uint8
        All bytes of the file.
    """

    def __init__(self, path: Path, content: NDArray[np.uint8]) -> None:
        self.path, self.offset = path, 0
        self._content = content

    def take(self, count: int) -> NDArray[np.uint8]:
        """The next bytes, a view of the file."""
        start, size = self.offset, len(self._content)
        if start + count > size:
            raise ValueError(
                f"{self.path} is cut short or broken: it has {size} bytes, but {count} are to be "
                f"read from byte {start} on"
            )
        self.offset += count
        return self._content[start : self.offset]

    def number(self, code: str) -> Any:
        """The next number, of a type by its name in struct."""
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)).tobytes())
        # Settings are written in decimal: a float32 stands for the shortest decimal that rounds to
        # it, 1e-5 and not 9.999999747378752e-06.
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

    def texts(self, count: int) -> list[str]:
        """The next strings, which are most of a file's header: the words of a vocabulary."""
        found, content, offset = [], self._content.data, self.offset
        with contextlib.suppress(struct.error, UnicodeDecodeError):
            for _ in range(count):
                (length,) = _LENGTH.unpack_from(content, offset)
                start, offset = offset + _LENGTH.size, offset + _LENGTH.size + length
                if offset > len(content):
                    break
                found.append(str(content[start:offset], "utf-8"))
        if len(found) < count:  # reading one after the other says what is wrong
            return [self.text() for _ in range(count)]
        self.offset = offset
        return found

    def value(self) -> Any:
        """The next value of a setting."""
        kind = self.number("I")
        if kind != GGUFValueType.ARRAY:
            return self._single(kind)
        kind, count = self.number("I"), self.number("Q")
        if kind in _CODES:
            code = "<" + _CODES[kind]
            return self.take(count * struct.calcsize(code)).view(code).tolist()
        if kind != GGUFValueType.STRING:
            raise ValueError(f"{self.path} is broken: it has an array of type {kind}")
        return self.texts(count)

    def _single(self, kind: int) -> Any:
        if kind == GGUFValueType.STRING:
            return self.text()
        if kind not in _CODES:
            raise ValueError(f"{self.path} is broken: it has a value of type {kind}")
        return self.number(_CODES[GGUFValueType(kind)])


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    """The settings of a header."""
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text()
        if key in metadata:
            raise ValueError(f"{cursor.path} is broken: it says {key!r} twice")
        metadata[key] = cursor.value()
    return metadata


class _Entry(NamedTuple):
    """A tensor in a header: its type, its shape, and where it begins among the tensors."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int


def _tensors(cursor: _Cursor, count: int, metadata: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that a header lists, with their bytes."""
    entries: dict[str, _Entry] = {}
    for _ in range(count):
        name = cursor.text()
        if name in entries:
            raise ValueError(f"{cursor.path} is broken: it has two tensors {name!r}")
        entries[name] = _entry(cursor, name)
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(
            f"{cursor.path} is broken: general.alignment is {alignment!r}, expected a power of two"
        )
    start = -(-cursor.offset // alignment) * alignment
    tensors, end, last = {}, 0, ""
    for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
        if entry.offset % alignment:
            raise ValueError(
                f"{cursor.path} is broken: tensor {name!r} begins at byte {entry.offset} of the "
                f"tensors, expected a multiple of {alignment}"
            )
        if entry.offset < end:
            raise ValueError(f"{cursor.path} is broken: tensors {last!r} and {name!r} overlap")
        tensors[name] = _tensor(cursor, name, entry, start)
        end, last = cursor.offset - start, name
    return {name: tensors[name] for name in entries}


def _entry(cursor: _Cursor, name: str) -> _Entry:
    """The next tensor of a header."""
    dimensions = cursor.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise ValueError(f"{cursor.path} is broken: tensor {name!r} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]  # C order
    if not shape or 0 in shape:
        raise ValueError(f"{cursor.path} is broken: tensor {name!r} has shape {shape}")
    kind, offset = cursor.number("I"), cursor.number("Q")
    try:
        return _Entry(GGMLQuantizationType(kind), shape, offset)
    except ValueError as error:
        raise ValueError(
            f"{cursor.path}: tensor {name!r} is of type {kind}, which the installed package gguf "
            "does not know"
        ) from error


def _tensor(cursor: _Cursor, name: str, entry: _Entry, start: int) -> Tensor:
    """A tensor with its bytes; `start` is where the tensors begin."""
    kind, shape, offset = entry
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % numbers:
        raise ValueError(
            f"{cursor.path} is broken: tensor {name!r} of shape {shape} does not divide into "
            f"blocks of {numbers}, as {kind.name} has"
        )
    stored = *shape[:-1], shape[-1] // numbers * size
    cursor.offset = start + offset
    return Tensor(kind, shape, cursor.take(math.prod(stored)).reshape(stored))
