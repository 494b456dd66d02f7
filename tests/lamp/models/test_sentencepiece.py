"""SentencePiece: the tokens of its own library, from its files and from GGUF files."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest

import lamp
from lamp import checkpoints
from lamp.models import sentencepiece
from tests.lamp.models.test_gguf import write

DATA = Path(__file__).parent / "sentencepiece_models"
EXPECTED = json.loads((DATA / "tokens.json").read_text(encoding="utf-8"))
LLAMA = {"tokenizer_class": "LlamaTokenizer"}


def save(folder, name="bpe", **settings):
    """A directory of a Llama with a ``tokenizer.model`` and nothing else."""
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    shutil.copy(DATA / f"{name}.model", folder / "tokenizer.model")
    return folder


def gguf_file(folder, name="bpe", **changes):
    """The same pieces in a GGUF file."""
    pieces = sentencepiece.read_pieces(DATA / f"{name}.model")
    settings = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": list(pieces.words),
        "tokenizer.ggml.scores": [float(score) for score in pieces.scores],
        "tokenizer.ggml.token_type": list(pieces.kinds),
    }
    settings |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    settings = {key: value for key, value in settings.items() if value is not None}
    return write(folder / "words.gguf", settings, {})


@pytest.mark.parametrize("name", EXPECTED)
def test_tokens_are_those_of_sentencepiece(tmp_path, name):
    found = checkpoints.load_tokenizer(save(tmp_path, name))
    begins = EXPECTED[name]["special"].get("bos_token")
    for text, tokens in EXPECTED[name]["tokens"].items():
        assert found.encode(text, add_special_tokens=False) == tokens, text
        assert found.encode(text) == ([] if begins is None else [begins]) + tokens
    for role, number in EXPECTED[name]["special"].items():
        assert found.backend.token_to_id(found.special_tokens_map[role]) == number


def test_texts_without_unknown_characters_come_back(tmp_path):
    found = checkpoints.load_tokenizer(save(tmp_path))
    for text, tokens in EXPECTED["bpe"]["tokens"].items():
        assert found.decode(tokens) == text.replace("\u2581", " ")  # which stands for a space


def test_texts_begin_and_end_as_settings_say(tmp_path):
    def around(**settings):
        return checkpoints.load_tokenizer(save(tmp_path, **settings)).encode("the")

    the = checkpoints.load_tokenizer(save(tmp_path)).encode("the", add_special_tokens=False)
    assert around() == [1, *the]
    assert around(add_bos_token=False) == the
    assert around(add_eos_token=True) == [1, *the, 2]
    assert around(add_bos_token=True, bos_token="<user>")[1:] == the


def test_spaces_between_special_tokens_are_as_settings_say(tmp_path):
    def pieces(**settings):
        found = checkpoints.load_tokenizer(save(tmp_path, **settings))
        tokens = found.encode("<s>the</s>the", add_special_tokens=False)
        return "".join(found.convert_ids_to_tokens(tokens))

    assert pieces() == pieces(legacy=True) == "<s>\u2581the</s>\u2581the"
    assert pieces(legacy=False) == "<s>the</s>the"


def test_pieces_in_a_gguf_file_have_the_same_tokens(tmp_path):
    found = checkpoints.load_tokenizer(gguf_file(tmp_path))
    for text, tokens in EXPECTED["bpe"]["tokens"].items():
        assert found.encode(text, add_special_tokens=False) == tokens, text
        assert found.encode(text) == [1, *tokens]
        assert found.decode(tokens) == text.replace("\u2581", " ")  # which stands for a space
    assert (found.bos_token, found.eos_token) == ("<s>", "</s>")


def test_pieces_are_merged_by_their_scores_whatever_their_numbers(tmp_path):
    pieces = sentencepiece.read_pieces(DATA / "bpe.model")
    order = [*range(3), *reversed(range(3, len(pieces.words)))]
    changes = {
        "tokens": [pieces.words[number] for number in order],
        "scores": [float(pieces.scores[number]) for number in order],
        "token_type": [pieces.kinds[number] for number in order],
    }
    found = checkpoints.load_tokenizer(gguf_file(tmp_path, **changes))
    for text, tokens in EXPECTED["bpe"]["tokens"].items():
        assert [order[n] for n in found.encode(text, add_special_tokens=False)] == tokens, text


def test_what_a_gguf_file_says_of_spaces_and_ends_is_done(tmp_path):
    text, tokens = next(iter(EXPECTED["plain"]["tokens"].items()))
    changes = {"add_space_prefix": False, "add_bos_token": False, "unknown_token_id": 1}
    found = checkpoints.load_tokenizer(gguf_file(tmp_path, "plain", eos_token_id=0, **changes))
    assert found.encode(text) == tokens
    (tmp_path / "words.gguf").unlink()
    found = checkpoints.load_tokenizer(gguf_file(tmp_path, remove_extra_whitespaces=True))
    assert found.encode("  the   king ") == found.encode("the king")
    (tmp_path / "words.gguf").unlink()
    found = checkpoints.load_tokenizer(gguf_file(tmp_path, add_eos_token=True))
    assert found.encode("x")[-1] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "cannot be read: KeyError"),
        ({"scores": [1.0]}, "scores and kinds must be as many"),
        ({"tokens": ["a"] * 700}, "two pieces of the vocabulary are the same"),
        ({"bos_token_id": 700}, "bos_token_id is 700, expected a number below 700"),
        ({"tokens": ["a" * 5000, *map(str, range(699))]}, "more than 4096 characters"),
    ],
)
def test_broken_pieces_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"words\.gguf.*{message}"):
        checkpoints.load_tokenizer(gguf_file(tmp_path, **changes))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x08\x01", b"tiktoken IQ== 0\n"],
)
def test_a_file_that_is_none_of_sentencepiece_is_named(tmp_path, content):
    (save(tmp_path) / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.model is not a model of SentencePiece"):
        checkpoints.load_tokenizer(tmp_path)


def test_a_file_that_is_cut_short_is_named_wherever_it_is_cut(tmp_path):
    path = save(tmp_path) / "tokenizer.model"
    content = path.read_bytes()
    for size in range(7, len(content), 997):
        path.write_bytes(content[:size])
        with contextlib.suppress(ValueError):
            checkpoints.load_tokenizer(tmp_path)


def test_a_model_has_the_tokens_of_its_sentencepiece_file(tmp_path):
    from tests.lamp.random_llamas import random_llama_checkpoint

    path = random_llama_checkpoint(tmp_path, vocab_size=700)
    shutil.copy(DATA / "bpe.model", path / "tokenizer.model")
    model = lamp.from_pretrained(path)
    text, tokens = next(iter(EXPECTED["bpe"]["tokens"].items()))
    assert model.encode(text).tolist() == [1, *tokens]
    assert model.encode(text, add_special_tokens=False).tolist() == tokens
