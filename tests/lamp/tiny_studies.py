"""A study that takes a moment: a random GPT-2 that knows letters, a text, some machines."""

import json
from dataclasses import replace
from pathlib import Path

from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from lamp import Study
from lamp.models.gpt2 import GPT2Config
from tests.lamp.tiny_models import gpt2_tensors

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,;:!?\n"
VOCABULARY = len(_LETTERS) + 1
_CONFIG = GPT2Config(
    vocab_size=VOCABULARY,
    n_positions=24,
    n_embd=8,
    n_layer=2,
    n_head=2,
    n_inner=16,
    activation_function="gelu_new",
    layer_norm_epsilon=1e-5,
)
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}
TEXT = "The quick brown fox jumps over the lazy dog; so what? Nothing, said the dog.\n"
GRID = {"mu": [1, 2, 3, 4, 5], "tau": [1.5, 1.2, 1.05]}
HARDWARE = ["fp32", "bf16", "scores-ps{mu}"]
LAMP = ["none", "softmax:normwise:{tau}", "softmax:tv:1%+norm:norm:2%"]


def save_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A random GPT-2 that knows letters."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(gpt2_tensors(_CONFIG, seed), folder / "model.safetensors")
    config = {name: getattr(_CONFIG, name) for name in _CONFIG.__dataclass_fields__}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2", **_ENDS}))
    vocabulary = {letter: number for number, letter in enumerate("\0" + _LETTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "\0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    # GPT-2's own class, which a configuration means by default, would need transformers.
    general = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(general))
    return folder


def study(folder: Path, **changes) -> Study:
    """35 runs on a model and a text that are put into a folder, if they are not there."""
    if not (folder / "model").is_dir():
        save_checkpoint(folder / "model")
        (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    text = {"source": "text.txt", "tokens": 40, "length": 16, "stride": 12}
    settings = {
        "models": ["model"],
        "texts": [text],
        "hardware": HARDWARE,
        "lamp": LAMP,
        "grid": GRID,
        "folder": folder,
        **changes,
    }
    return Study("tiny", **settings)


def results(runs):
    """What a sweep must give again and again: everything but times and places."""
    return [
        replace(run, seconds=None, started_at=None, finished_at=None, environment=None)
        for run in runs
    ]
