"""Texts that are read as far as they are needed: files, pipes, standard input."""

from __future__ import annotations

import codecs
import importlib
import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Self

__all__ = ["Stream"]

_CHUNK: Final = 2**16  # bytes that are read at once
_MOST: Final = 2**26  # characters of a source without an end of its own
_LONGEST: Final = 2**24  # characters of a line
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "lzma"}
"""What compressed files begin with, and the modules that read them."""
_MARKS: Final = {
    codecs.BOM_UTF32_LE: ("utf-32", 4),  # it begins as the mark of UTF-16 does
    codecs.BOM_UTF32_BE: ("utf-32", 4),
    codecs.BOM_UTF16_LE: ("utf-16", 2),
    codecs.BOM_UTF16_BE: ("utf-16", 2),
}
"""Byte-order marks, the encodings that they stand for, and the bytes of most characters."""


class Stream:
    """A text whose lines end with a line feed, whatever they end with where it is from.

    It is in UTF-8, with or without a byte-order mark, or in the encoding of its mark: UTF-16 or
    UTF-32.

    Parameters
    ----------
    name : str
        What error messages call it.
    opened : binary file
        What is read.
    size : int, optional
        The number of bytes in it, if that is known; without it, at most 2**26 characters are read.
    keep : bool
        Whether what :meth:`lines` has given is kept, to be read again.

    Raises
    ------
    ValueError
        While it is read: if it is not text, or goes on without an end.
    """

    def __init__(
        self, name: str, opened: IO[bytes], size: int | None = None, *, keep: bool = True
    ) -> None:
        self.name, self.size, self.keep = name, size, keep
        self._opened, self._owned = opened, False
        self._outer: IO[bytes] | None = None  # the file that a decompressor reads
        self._encoding = "UTF-8"
        self._decoder: io.IncrementalNewlineDecoder | None = None  # made from the first bytes
        self._chunks: list[str] = []
        self._length = 0
        self._ended = False

    @classmethod
    def open(cls, path: Path, *, keep: bool = True) -> Self:
        """Open a file, a pipe or a device; one of gzip, bzip2 or xz is decompressed.

        Parameters
        ----------
        path : Path
        keep : bool
            As for the class.

        Returns
        -------
        Stream

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        """
        if path.is_dir() or not path.exists():  # not is_file: a pipe is read, too
            raise FileNotFoundError(f"no text file {str(path)!r}")
        state = path.stat()
        size = state.st_size if stat.S_ISREG(state.st_mode) and state.st_size else None
        opened = path.open("rb")
        beginning = opened.peek(max(map(len, _COMPRESSED)))
        modules = [name for mark, name in _COMPRESSED.items() if beginning.startswith(mark)]
        if modules:
            unpacked = importlib.import_module(modules[0]).open(opened)
            stream = cls(str(path), unpacked, keep=keep)
            stream._outer = opened
        else:
            stream = cls(str(path), opened, size, keep=keep)
        stream._owned = True
        return stream

    @classmethod
    def of(cls, text: str, name: str = "the text") -> Self:
        """A text that is there already, which is taken as it is.

        Parameters
        ----------
        text : str
        name : str

        Returns
        -------
        Stream
        """
        stream = cls(name, io.BytesIO(), 0)
        stream._chunks, stream._length, stream._ended = [text], len(text), True
        return stream

    def close(self) -> None:
        """Close the file, if it was opened here; what has been read of it is kept."""
        if self._owned:
            self._opened.close()
            if self._outer is not None:
                self._outer.close()

    def head(self, size: int | None = None) -> str:
        """The first characters.

        Parameters
        ----------
        size : int, optional
            How many; all by default.

        Returns
        -------
        str
            Fewer characters if there are no more.
        """
        while (size is None or self._length < size) and self._read():
            pass
        if len(self._chunks) > 1:
            self._chunks = ["".join(self._chunks)]
        whole = self._chunks[0] if self._chunks else ""
        return whole if size is None else whole[:size]

    def is_longer(self, size: int) -> bool:
        """Whether there are more characters than `size`."""
        return len(self.head(size + 1)) > size

    def is_blank(self) -> bool:
        """Whether there is nothing but white space."""
        size = _CHUNK
        while not self.head(size).strip():
            if not self.is_longer(size):
                return True
            size *= 2
        return False

    def lines(self) -> Iterator[str]:
        """Iterate over the lines, without what ends them.

        Yields
        ------
        str
        """
        rest: list[str] = []  # parts of a line that is not read to its end
        size = read = 0
        while True:
            if read < len(self._chunks):
                first, *more = self._chunks[read].split("\n")
                if not self.keep:
                    self._chunks[read] = ""
                read += 1
                rest.append(first)
                size += len(first)
                if more:
                    yield "".join(rest)
                    yield from more[:-1]
                    rest, size = more[-1:], len(more[-1])
            elif size > _LONGEST:
                raise ValueError(f"{self.name} has a line of more than {_LONGEST} characters")
            elif not self._read() and read == len(self._chunks):
                break
        if last := "".join(rest):
            yield last

    def _read(self) -> bool:
        """Read on, if there is more."""
        if self._ended:
            return False
        try:
            chunk = self._next_chunk()
        except BaseException:
            self.close()
            raise
        self._chunks.append(chunk)
        self._length += len(chunk)
        return not self._ended

    def _next_chunk(self) -> str:
        """The next characters; fewer than usual at the end."""
        if self.size is None and self._length > _MOST:
            raise ValueError(
                f"{self.name} goes on after {_MOST} characters: say how many tokens are to be read"
            )
        try:
            content = self._opened.read(_CHUNK)
        except Exception as error:  # each of the modules has errors of its own
            if self._outer is None:
                raise
            raise ValueError(f"{self.name} is a compressed file, but broken: {error}") from error
        self._ended = not content
        if self._decoder is None:
            self._decoder = self._decoder_of(content)
        try:
            chunk = self._decoder.decode(content, final=self._ended)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.name} is not {self._encoding} text: {error}") from error
        if "\0" in chunk:
            raise ValueError(f"{self.name} is not {self._encoding} text: it holds null characters")
        return chunk

    def _decoder_of(self, beginning: bytes) -> io.IncrementalNewlineDecoder:
        """The decoder of the encoding that a text's first bytes tell."""
        name = "utf-8-sig"
        for mark, (encoding, width) in _MARKS.items():
            if beginning.startswith(mark):
                name, self._encoding = encoding, encoding.upper()
                # Shares are counted in bytes of UTF-8, which has one for most characters.
                self.size = None if self.size is None else self.size // width
                break
        return io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(name)(), translate=True)
