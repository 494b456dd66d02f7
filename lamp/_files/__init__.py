"""TOML documents with line numbers; files written whole or not at all."""

from lamp._files import writing
from lamp._files.documents import Document

__all__ = [
    "Document",
    "writing",
]
