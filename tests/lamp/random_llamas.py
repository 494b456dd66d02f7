"""Checkpoints of random models, as transformers writes them, and transformers' own logits."""

import contextlib
import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

GPT2_SHAPE = {"vocab_size": 61, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
LLAMA_SHAPE = {
    "vocab_size": 61,
    "max_position_embeddings": 24,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


class Float64(TorchFunctionMode):
    """transformers' Llama in float64 throughout, if it is built and run under this mode.

    Whatever the type of its weights, it makes rotary tables, mean squares and softmax in float32:
    this puts float64 wherever it asks for that.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def wide(x):
            return torch.float64 if x is torch.float32 else x

        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(wide, args), **{k: wide(v) for k, v in (kwargs or {}).items()})


def random_checkpoint(path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **options):
    """Save a random GPT-2; its weights are large enough for attention to be peaked."""
    config = GPT2Config(**{**GPT2_SHAPE, "initializer_range": 0.3, **options})
    return _save(GPT2LMHeadModel, config, path, seed, dtype)


def random_llama_checkpoint(
    path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **options
):
    """Save a random Llama, likewise."""
    config = LlamaConfig(**{**LLAMA_SHAPE, "initializer_range": 0.3, **options})
    return _save(LlamaForCausalLM, config, path, seed, dtype)


def _save(kind, config, path: Path, seed: int, dtype: torch.dtype):
    files, state = _saved(kind, config.to_json_string(), seed, dtype)
    Path(path).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        Path(path, name).write_bytes(content)
    torch.set_rng_state(state)  # as if it had just been drawn
    return path


@functools.lru_cache(64)
def _saved(kind, config: str, seed: int, dtype: torch.dtype):
    """The files of a checkpoint, which many tests ask for again, and where torch draws on."""
    torch.manual_seed(seed)
    model = kind(kind.config_class.from_dict(json.loads(config)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms, which begin as zeros and ones
                parameter += 0.1 * torch.randn_like(parameter)
    with tempfile.TemporaryDirectory() as folder:
        model.to(dtype).save_pretrained(folder)
        files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    return files, torch.get_rng_state()


def transformers_model(path: Path, dtype: torch.dtype):
    """transformers' own model of a checkpoint of any family."""
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation="eager"
    ).eval()


def transformers_logits(path: Path, tokens, dtype: torch.dtype):
    """transformers' own logits of one text or several; in float64 every step of theirs is."""
    with _throughout(dtype):
        return _logits(transformers_model(path, dtype), tokens)


def gpt2_logits(path: Path, tokens):
    """The same of a GPT-2 in float64 and in float32, read once: it holds nothing but weights."""
    model = transformers_model(path, torch.float32)
    single = _logits(model, tokens)
    with _throughout(torch.float64):
        return _logits(model.double(), tokens), single


def _throughout(dtype: torch.dtype):
    return Float64() if dtype == torch.float64 else contextlib.nullcontext()


@torch.no_grad()
def _logits(model, tokens):
    logits = model(torch.atleast_2d(torch.as_tensor(tokens))).logits.numpy()
    return logits if np.ndim(tokens) == 2 else logits[0]
