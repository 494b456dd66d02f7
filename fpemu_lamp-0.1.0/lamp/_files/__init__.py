"""TOML documents with line numbers, JSON objects, texts; files written whole or not at all."""

from fpemu import _writing as writing
from lamp._files.documents import Document, blamed, where
from lamp._files.objects import read_object
from lamp._files.streams import Stream

__all__ = [
    "Document",
    "Stream",
    "blamed",
    "read_object",
    "where",
    "writing",
]
