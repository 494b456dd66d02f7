"""Tokens as a model wants them: what begins its windows, and which texts of a file are read."""

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lamp
from lamp.cli.application import app
from tests.lamp.random_llamas import random_llama_checkpoint

PIECES = Path(__file__).parents[1] / "models" / "sentencepiece_models" / "bpe.model"
WORDS = "the king and the queen of the realm are here to see what is done. " * 3


def command(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def record(*arguments):
    return json.loads(command(*arguments, "--json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama whose texts begin with the token 1, <s>."""
    path = random_llama_checkpoint(
        tmp_path_factory.mktemp("llama"), vocab_size=700, max_position_embeddings=64
    )
    shutil.copy(PIECES, path / "tokenizer.model")
    return path


@pytest.fixture
def text(tmp_path):
    (tmp_path / "a.txt").write_text(WORDS)
    return tmp_path / "a.txt"


def test_windows_begin_as_texts_do_unless_it_is_left_out(folder, text):
    model = lamp.from_pretrained(folder, hardware="scores-ps4")
    exact = model.with_hardware("fp64")
    plain = model.encode(WORDS, add_special_tokens=False)
    options = ["run", "--model", folder, "--hardware", "scores-ps4", "--text", text]
    found = record(*options, "--tokens", 45, "--length", 20)
    expected = lamp.evaluate(exact, model, plain[:42], length=20, begins=[1])
    assert found["metrics"] == json.loads(json.dumps(asdict(expected)))
    assert found["text"]["begins"] == [1]
    assert (found["text"]["tokens"], found["text"]["windows"]) == (45, 3)
    assert found["notes"][0].startswith(f"{text}: the first 45 tokens are read, about ")
    bare = record(*options, "--tokens", 45, "--length", 20, "--no-special-tokens")
    expected = lamp.evaluate(exact, model, plain[:45], length=20)
    assert bare["metrics"] == json.loads(json.dumps(asdict(expected)))
    assert bare["text"]["begins"] == []
    shown = command(*options, "--tokens", 45, "--length", 20)
    assert "45 tokens, 3 windows of 20, beginning with <s>" in shown
    assert "beginning" not in command(*options, "--tokens", 9, "--no-special-tokens")


def test_the_whole_text_is_read_if_all_of_it_is_asked_for(folder, text):
    options = ["run", "--model", folder, "--text", text, "--no-special-tokens"]
    found = record(*options, "--tokens", "all")
    count = len(lamp.from_pretrained(folder).encode(WORDS, add_special_tokens=False))
    assert (found["text"]["tokens"], found["text"]["asked"]) == (count, None)
    assert found["notes"] == []
    for wrong in ("0", "-3", "many", "1.5"):
        shown = command(*options, f"--tokens={wrong}", code=2)
        assert f"'{wrong}' is no number of tokens" in shown


def test_texts_are_in_the_field_that_is_named(folder, tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as opened:
        csv.writer(opened).writerows([("id", "body"), (1, "the king"), (2, "and, the queen")])
    options = ["run", "--model", folder, "--text", tmp_path / "a.csv"]
    found = record(*options, "--field", "body")
    model = lamp.models.reader(folder)
    parts = ("the king", "\n\nand, the queen")
    count = sum(len(model.encode(part, add_special_tokens=False)) for part in parts)
    assert found["text"]["tokens"] == 1 + count
    # The command line is its own process: what is wrong is an error of the file.
    result = CliRunner().invoke(app, list(map(str, options)))
    assert "no column 'text' in its heading: 'id,body'" in str(result.exception)
