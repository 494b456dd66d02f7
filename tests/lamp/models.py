"""Checkpoints of random GPT-2 models, as transformers writes them."""

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def random_checkpoint(path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **options):
    """Save a random model; its weights are large enough for attention to be peaked."""
    shape = {"vocab_size": 61, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
    torch.manual_seed(seed)
    config = GPT2Config(**{**shape, "initializer_range": 0.3, **options})
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms, which begin as zeros and ones
                parameter += 0.1 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(path)
    return path


def transformers_logits(path: Path, tokens, dtype: torch.dtype):
    """The logits of transformers' own GPT-2."""
    model = GPT2LMHeadModel.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.as_tensor(tokens)[None]).logits[0].numpy()
