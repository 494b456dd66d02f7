"""Mutated model files: each is read, or refused by an error that names it.

    python analysis/fuzz_files.py [--cases 4000] [--seed 0] [--only KIND]

A case takes one of a few tiny models, changes one of its files (bytes, or a value in JSON), and
loads the model, its tokenizer and its chat template, and runs it.  What may come of it are results,
or a ValueError, TypeError or OSError that names the file or its folder, within 5 seconds and 1 GB
of memory.  Exits with 1 if anything else does; a case is repeated by --first NUMBER --cases 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import lamp

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.lamp.tiny_models import LLAMA_CONFIG, gpt2_tensors, llama_tensors

SECONDS = 5
MEMORY = 2**30  # bytes
ALLOWED = (ValueError, TypeError, OSError)
TEXT = "the king's 12 <s>\n Gr\u00fc\u00dfe"
MESSAGES = [{"role": "user", "content": "the"}]
TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m['content'] | trim }}{% endfor %}"
VOCABULARY = 300
JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**64, -(2**63), 10**400, 0.0, -0.0, 0.5, 1e308,
    float("nan"), float("inf"), "", "x", "\ud800", "a" * 10**5, "../../x", [], [1], [[]] * 100,
    {}, {"a": {}},
)  # fmt: skip
NUMBERS = (0, 1, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64 - 1)
BYTES = (0, 1, 2, 9, 10, 34, 44, 58, 91, 93, 123, 125, 127, 128, 254, 255)


# --- models ---------------------------------------------------------------------------------------


def llama_json() -> dict[str, Any]:
    rotary = LLAMA_CONFIG.rotary
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    rope = dict(zip(names, rotary.factors, strict=True))
    sizes = {
        name: getattr(LLAMA_CONFIG, name)
        for name in LLAMA_CONFIG.__dataclass_fields__
        if name != "rotary"
    }
    return {
        "model_type": "llama",
        **sizes,
        "vocab_size": VOCABULARY,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": rotary.theta, **rope},
    }


def widened(tensors: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    """Tensors with an embedding, and a head, of a larger vocabulary."""
    return tensors | {name: np.resize(tensors[name], (VOCABULARY, 18)) for name in names}


def write_llama(folder: Path) -> None:
    """A Llama in shards, with a byte-level tokenizer."""
    tensors = widened(llama_tensors(), "model.embed_tokens.weight", "lm_head.weight")
    names = sorted(tensors)
    places = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(names)}
    for place in set(places.values()):
        part = {name: tensors[name] for name in names if places[name] == place}
        safetensors.numpy.save_file(part, folder / place)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(llama_json()))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "</s>", *letters, "th", "the"]
    model = models.BPE({w: n for n, w in enumerate(words)}, [("t", "h"), ("th", "e")])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    settings |= {"eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))


def write_gpt2(folder: Path) -> None:
    """A GPT-2 in one file, with a tokenizer of SentencePiece."""
    safetensors.numpy.save_file(gpt2_tensors(), folder / "model.safetensors")
    sizes = {"vocab_size": 7, "n_positions": 6, "n_embd": 18, "n_layer": 2, "n_head": 2}
    config = {"model_type": "gpt2", **sizes, "n_inner": 36, "tokenizer_class": "LlamaTokenizer"}
    (folder / "config.json").write_text(json.dumps(config))
    pieces = Path(__file__).parents[1] / "tests/lamp/models/sentencepiece_models/plain.model"
    shutil.copy(pieces, folder / "tokenizer.model")


def write_gguf(folder: Path, kind: str) -> None:
    """A Llama in a GGUF file, with one of the two kinds of tokenizers."""
    import gguf

    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    config = llama_json()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    tensors = widened(llama_tensors(), "model.embed_tokens.weight", "lm_head.weight")
    for name, array in tensors.items():
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), array)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    words = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([2, 3, 3, *(1 for _ in words[3:])])
    writer.add_token_scores([-float(number) for number in range(len(words))])
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


KINDS: dict[str, Callable[[Path], None]] = {
    "llama": write_llama,
    "gpt2": write_gpt2,
    "gguf": lambda folder: write_gguf(folder, "gpt2"),
    "gguf-sentencepiece": lambda folder: write_gguf(folder, "llama"),
}


# --- mutants --------------------------------------------------------------------------------------


def mutate(folder: Path, generator: np.random.Generator) -> str:
    """Change a file of a model; says what was done."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    file = files[int(generator.integers(len(files)))]
    if file.suffix == ".json" and generator.random() < 0.7:
        return f"{file.name}: {mutate_json(file, generator)}"
    content = bytearray(file.read_bytes())
    done = [mutate_bytes(content, generator) for _ in range(int(generator.integers(1, 4)))]
    file.write_bytes(content)
    return f"{file.name}: {', '.join(done)}"


def mutate_bytes(content: bytearray, generator: np.random.Generator) -> str:
    """Change, cut, repeat or put in bytes, more often where headers are."""
    size = max(1, len(content))
    reach = size if generator.random() < 0.4 else min(size, int(2 ** generator.uniform(3, 13)))
    at, length = int(generator.integers(reach)), int(generator.integers(1, 9))
    way = int(generator.integers(6))
    if way == 0:
        del content[at:]
    elif way == 1:
        content[at : at + length] = generator.bytes(length)
    elif way == 2:
        content[at : at + length] = bytes([int(generator.choice(BYTES))]) * length
    elif way == 3:
        del content[at : at + length]
    elif way == 4:
        content[at:at] = content[at : at + 8 * length]
    else:
        number = NUMBERS[int(generator.integers(len(NUMBERS)))]
        content[at : at + 8] = number.to_bytes(8, "little")
    return f"way {way} at {at}"


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All containers in a JSON value, with the keys in them."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def mutate_json(file: Path, generator: np.random.Generator) -> str:
    """Put junk in the place of a value, or of the whole."""
    value = json.loads(file.read_text())
    found = list(places(value))
    # Near the root more often: there are many words of a vocabulary.
    reach = min(len(found), int(2 ** generator.uniform(1, 12)))
    if generator.random() < 0.05 or not found:
        depth = int(generator.choice([10, 10**3, 10**5]))
        file.write_text(("[" if generator.random() < 0.5 else '{"a":') * depth)
        return f"nested {depth} deep"
    container, key = found[int(generator.integers(reach))]
    if generator.random() < 0.15:
        del container[key]
        done = f"{key!r:.40} deleted"
    else:
        container[key] = JUNK[int(generator.integers(len(JUNK)))]
        done = f"{key!r:.40} = {container[key]!r:.40}"
    file.write_text(json.dumps(value))
    return done


# --- cases ----------------------------------------------------------------------------------------


def examine(number: int, seed: int, only: str = "") -> tuple[str, str]:
    """A case by its number: what was done, and what is wrong; empty if nothing is."""
    generator = np.random.default_rng([seed, number])
    names = [name for name in KINDS if only in ("", name)]
    with tempfile.TemporaryDirectory(prefix="mutant") as name:
        folder = Path(name)
        kind = names[number % len(names)]
        KINDS[kind](folder)
        done = f"{kind}, {mutate(folder, generator)}"
        return done, judged(folder, lambda: use(folder))


def use(folder: Path) -> None:
    """Load a model, and do with it what commands do."""
    path = next(iter(sorted(folder.glob("*.gguf"))), folder)
    model = lamp.from_pretrained(path)
    model.logits([1])
    tokens = model.encode(TEXT)
    model.tokenizer.decode(tokens.tolist())
    assert all(type(number) is int for number in model.end_tokens)
    if model.tokenizer.chat_template is not None:
        try:
            model.tokenizer.apply_chat_template(MESSAGES)
        except Exception as error:  # a template is a program
            raise ValueError(f"the chat template of {path} fails") from error


def judged(folder: Path, work: Callable[[], None]) -> str:
    """What is wrong with how work on a folder ends; empty if nothing is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
    except ALLOWED as error:
        return "" if folder.name in str(error) else f"no file is named: {error!r:.300}"
    except BaseException:
        return traceback.format_exc()
    return ""


def serve(connection: Any, seed: int, only: str) -> None:
    """Do the cases that are asked for, in little memory."""
    # What takes time and memory once is compiled and imported before.
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            KINDS[kind](Path(name))
            use(Path(name))
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("transformers").AutoTokenizer  # noqa: B018  (imports it)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    connection.send(None)
    while (number := connection.recv()) is not None:
        connection.send(examine(number, seed, only))


class Worker:
    """A process that does cases, and is replaced if one hangs."""

    def __init__(self, seed: int, only: str) -> None:
        self.arguments = seed, only
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.connection.recv()

    def examine(self, number: int) -> tuple[str, str]:
        """A case, within its time."""
        self.connection.send(number)
        if self.connection.poll(SECONDS):
            try:
                done, wrong = self.connection.recv()
                return str(done), str(wrong)
            except (EOFError, ConnectionError):
                wrong = "the process has died"
        else:
            wrong = f"it takes more than {SECONDS} seconds"
        self.process.kill()
        self.start()
        return "", wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=4000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, default="")
    options = parser.parse_args()
    worker, failures = Worker(options.seed, options.only), 0
    for number in range(options.first, options.first + options.cases):
        done, wrong = worker.examine(number)
        if wrong:
            failures += 1
            print(f"case {number}: {done}\n{wrong}\n", flush=True)
    worker.connection.send(None)
    print(f"{options.cases} mutated models, {failures} failures")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
