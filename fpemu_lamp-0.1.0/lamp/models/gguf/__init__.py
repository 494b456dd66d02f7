"""GGUF files: a Llama and its tokenizer in one file, as llama.cpp writes them, mostly quantized.

References
----------
The format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the order of the rows of
queries and keys is that of llama.cpp's ``convert_hf_to_gguf.py``.
"""

from lamp.models.gguf.model import architecture, load_config, load_tensors, settings
from lamp.models.gguf.vocabulary import end_tokens, load_tokenizer

__all__ = [
    "architecture",
    "end_tokens",
    "load_config",
    "load_tensors",
    "load_tokenizer",
    "settings",
]
