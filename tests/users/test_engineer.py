"""The engineer, who has two checkpoints and asks what other hardware does to them.

They have the shapes of GPT-2 small and of Qwen2 0.5B, one layer each and few tokens, and random
weights.  Only what README.md and docs/your-model.md show is used.  The judge is transformers itself
in float64.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import lamp

TEXT = "the quick brown fox jumps"


def save(folder, model):
    """A checkpoint as transformers writes it, with a tokenizer that knows letters."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz ?")}
    splitter = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, "?"))
    splitter.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=splitter).save_pretrained(folder)
    model.save_pretrained(folder)


def checkpoint(kind):
    """A random model of a kind."""
    import torch
    import transformers

    common = {"vocab_size": 28, "bos_token_id": None, "eos_token_id": None}
    if kind == "gpt2":  # its default sizes are those of GPT-2 small
        config = transformers.GPT2Config(n_layer=1, n_positions=64, **common)
    else:
        config = transformers.Qwen2Config(
            num_hidden_layers=1,
            hidden_size=896,
            intermediate_size=4864,
            num_attention_heads=14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            **common,
        )
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_a_checkpoint_on_other_hardware(shell, kind):
    pytest.importorskip("transformers")
    import torch

    loaded = checkpoint(kind)
    save("model", loaded)
    Path("text.txt").write_text(TEXT)
    found = json.loads(shell("lamp run --model model --hardware fp32 --text text.txt --json"))
    model = lamp.from_pretrained("model", hardware="hopper-fp8")
    tokens = model.encode(TEXT)
    assert len(tokens) == len(TEXT)
    with torch.no_grad():
        logits = loaded.double()(torch.from_numpy(tokens)[None]).logits[0].numpy()
    exact = log_softmax(logits)
    # Norms and angles of Qwen2 are in float32 in transformers, whatever the model is in.
    loss = -exact[np.arange(len(tokens) - 1), tokens[1:]].mean()
    assert math.isclose(found["metrics"]["reference_perplexity"], math.exp(loss), rel_tol=1e-6)
    assert 0 <= found["metrics"]["kl"] < 1e-10
    line = "lamp compare bf16 hopper-fp8 --model model --text text.txt --json"
    bf16, fp8 = (run["metrics"]["kl"] for run in json.loads(shell(line))["runs"])
    machine = log_softmax(model.logits(tokens).astype(float))
    assert math.isclose(fp8, (np.exp(exact) * (exact - machine)).sum(axis=1).mean(), rel_tol=1e-3)
    assert 1e-8 < bf16 < fp8 < 1
