"""TOML documents with line numbers, JSON objects; files written whole or not at all."""

from lamp._files import writing
from lamp._files.documents import Document
from lamp._files.objects import read_object

__all__ = [
    "Document",
    "read_object",
    "writing",
]
