"""TOML documents with line numbers; files written whole or not at all."""

from fpemu import _writing as writing
from lamp._files.documents import Document

__all__ = [
    "Document",
    "writing",
]
