"""Texts from all kinds of sources: the documents, in order, as tokens in windows."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamp import checkpoints
from lamp.evaluation import sources
from lamp.evaluation.sources import Source
from lamp.evaluation.texts import Text
from lamp.models import loading as models

DOCUMENTS = ["Now is the winter of our discontent", "  \n", "Made glorious summer\n", "Grüße"]
KEPT = [document for document in DOCUMENTS if document.strip()]


@pytest.fixture(scope="module")
def model():
    return models.reader("embedded")


def write_jsonl(path, field="text"):
    lines = (json.dumps({"id": i, field: text}) for i, text in enumerate(DOCUMENTS))
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def write_json(path, field="text"):
    path.write_text(json.dumps([{"id": i, field: text} for i, text in enumerate(DOCUMENTS)]))


def write_csv(path, field="text", delimiter=","):
    rows = [("id", field), *enumerate(DOCUMENTS)]
    with path.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened, delimiter=delimiter).writerows(rows)


def write_parquet(path, field="text"):
    table = pyarrow.table({"id": range(len(DOCUMENTS)), field: DOCUMENTS})
    pyarrow.parquet.write_table(table, path, row_group_size=3)


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", write_jsonl),
        ("a.ndjson", write_jsonl),
        ("a.json", write_json),
        ("a.csv", write_csv),
        ("a.tsv", lambda path, field: write_csv(path, field, "\t")),
        ("a.csv", lambda path, field: write_csv(path, field, ";")),
        ("a.parquet", write_parquet),
    ],
)
@pytest.mark.parametrize("field", ["text", "body"])
def test_documents_come_in_order_and_blank_ones_not(tmp_path, name, write, field):
    write(tmp_path / name, field)
    source = Source(str(tmp_path / name), field=field)
    assert list(source.documents()) == KEPT


def test_a_json_file_may_hold_texts_alone_or_one_object(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(DOCUMENTS))
    assert list(Source(str(tmp_path / "a.json")).documents()) == KEPT
    (tmp_path / "a.json").write_text('{"id": 1, "text": "alone"}')
    assert list(Source(str(tmp_path / "a.json")).documents()) == ["alone"]


def test_cells_of_a_table_may_have_several_lines_and_quotes(tmp_path):
    text = 'one, "two"\n\nthree'
    with (tmp_path / "a.csv").open("w", newline="") as opened:
        csv.writer(opened).writerows([("text",), (text,), ("x" * 200_000,)])
    assert list(Source(str(tmp_path / "a.csv")).documents()) == [text, "x" * 200_000]


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_compressed_files_are_those_that_were_compressed(tmp_path, model, ending, pack):
    text = "Now is the winter of our discontent\r\n" * 5000
    for name, content in (("a.TXT", text), ("a.jsonl", '{"text": "one"}\n{"text": "two"}\n')):
        (tmp_path / f"{name}.{ending}").write_bytes(pack.compress(content.encode()))
    plain = str(tmp_path / f"a.TXT.{ending}")
    assert list(Source(plain).documents()) == [text.replace("\r\n", "\n")]
    assert list(Source(str(tmp_path / f"a.jsonl.{ending}")).documents()) == ["one", "two"]
    found = Source(plain, tokens=64).read(model)
    assert found.notes() == [f"{plain}: the first 64 tokens are read, and it has more"]
    (tmp_path / f"b.{ending}").write_bytes(pack.compress(text.encode() * 9)[:-20])
    with pytest.raises(ValueError, match=rf"b\.{ending} is a compressed file, but broken: "):
        list(Source(str(tmp_path / f"b.{ending}")).documents())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_mark_tells_the_encoding(tmp_path, model, encoding):
    text = "Grüße\r\n" * 20_000
    for order in ("le", "be"):
        content = ("\ufeff" + text).encode(f"{encoding}-{order}")
        (tmp_path / "a.txt").write_bytes(content)
        source = Source(str(tmp_path / "a.txt"), tokens=64)
        assert list(source.documents()) == [text.replace("\r\n", "\n")]
        (note,) = source.read(model).notes()
        plain = tmp_path / "b.txt"
        plain.write_bytes(text.encode())
        (expected,) = Source(str(plain), tokens=64).read(model).notes()
        share, other = (float(each.split()[-4]) for each in (note, expected))
        assert share == pytest.approx(other, rel=0.5)


def test_a_plain_text_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo", encoding="utf-8")
    assert list(Source(str(tmp_path / "a.txt")).documents()) == ["one\n\ntwo"]
    assert list(Source("held-out").documents()) == [checkpoints.read_text()]


def test_texts_that_come_with_lamp_go_by_name_and_are_different(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = {name: "".join(Source(name).documents()) for name in sources.SAMPLES}
    plays = texts["macbeth"] + texts["twelfth-night"]
    assert plays == texts.pop("held-out") == checkpoints.read_text()
    assert texts["twelfth-night"].startswith("TWELFTH NIGHT")
    openings = {text[:200] for text in texts.values()}
    assert len(openings) == len(texts) == 4
    for name in texts:
        found = Source(name, tokens=4096).read(model)
        assert len(found.tokens) == 4096
        assert found.notes() == []


def test_a_kind_may_be_given_that_the_ending_does_not_tell(tmp_path):
    write_jsonl(tmp_path / "a.txt")
    assert list(Source(str(tmp_path / "a.txt"), kind="jsonl").documents()) == KEPT


def test_standard_input_is_a_text_too(monkeypatch, tmp_path):
    def put(text):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(text)))

    put("Grüße".encode())
    assert list(Source("-").documents()) == ["Grüße"]
    write_jsonl(tmp_path / "a.jsonl")
    put((tmp_path / "a.jsonl").read_bytes())
    assert list(Source("-", kind="jsonl").documents()) == KEPT
    assert list(Source("-").documents("read before")) == ["read before"]
    for text, message in ((b"", "standard input is empty"), (b"\xff", "is not UTF-8 text")):
        put(text)
        with pytest.raises(ValueError, match=message):
            list(Source("-").documents())


def test_a_data_set_on_disk_is_read(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "poems").mkdir()
    write_jsonl(tmp_path / "poems" / "train.jsonl", "body")
    source = Source("poems", kind="datasets", field="body").inside(tmp_path)
    assert list(source.documents()) == KEPT
    with pytest.raises(ValueError, match="row 0 has no field 'text': it has id, body"):
        list(Source("poems", kind="datasets").inside(tmp_path).documents())


def test_a_data_set_that_cannot_be_fetched_is_said_so(tmp_path, monkeypatch):
    import datasets

    def offline(name, subset, split):
        raise ConnectionError(f"Couldn't reach\n'{name}', {subset}, {split}")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    source = Source("no/such", kind="datasets", subset="raw", split="test").inside(tmp_path)
    message = r"no data set 'no/such', raw, split test: .*ConnectionError: Couldn't reach 'no/such'"
    with pytest.raises(FileNotFoundError, match=message):
        list(source.documents())


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [("parquet", "pyarrow", "parquet"), ("datasets", "datasets", "datasets")],
)
def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch, kind, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.*pip install 'fpemu-lamp\[{extra}"):
        list(Source("a.parquet", kind=kind).documents())


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text":\n', ValueError, "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n["x"]\n', ValueError, "line 3 is not a JSON object"),
        ("a.jsonl", b'{"a": 1, "b": 2}', ValueError, "line 1 has no field 'text': it has a, b"),
        ("a.jsonl", b'{"text": 7}', ValueError, "line 1: field 'text' is not a string, but 7"),
        ("a.jsonl", b'{"text": "\xff"}', ValueError, "a.jsonl is not UTF-8 text"),
        ("a.jsonl", b"\n", ValueError, "a.jsonl holds no text"),
        ("a.jsonl", b"[" * 10**5, ValueError, "a.jsonl, line 1 is not JSON: it is nested too"),
        ("a.jsonl", b'{"text": "\\ud800"}', ValueError, "line 1: field 'text' is not Unicode"),
        ("a.txt", "text".encode("utf-16-le"), ValueError, "a.txt is not UTF-8 text: it holds null"),
        ("a.txt", "text".encode("utf-16")[:-1], ValueError, "a.txt is not UTF-16 text"),
        ("a.json", b'[{"text": "x"}, 7]', ValueError, "entry 1 is not a JSON object, but 7"),
        ("a.json", b'[{"text": "x"}, {"a": 7}]', ValueError, "entry 1 has no field 'text'"),
        ("a.json", b'["x", "\\ud800"]', ValueError, "entry 1: it is not Unicode"),
        ("a.json", b'{"text": "x"}\n{"text": "y"}', ValueError, "a.json is not JSON: Extra data"),
        ("a.json", b"7", ValueError, "a.json is not a JSON object, but 7"),
        ("a.csv", b"a,b\n1,2\n", ValueError, "no column 'text' in its heading: 'a,b'"),
        ("a.csv", b"", ValueError, "no column 'text' in its heading: ''"),
        ("a.csv", b"text,n\none, two,1\n", ValueError, "row 0 has more cells than the heading"),
        ("a.csv", b'text,n\n"one"two,1\n', ValueError, "a.csv is not a table: "),
        ("a.parquet", b"PAR1 not", ValueError, "a.parquet is not a Parquet file"),
        ("a.txt", b"\xff", ValueError, "a.txt is not UTF-8 text"),
        ("a.txt", b" \n", ValueError, "a.txt holds no text"),
        ("b.jsonl", None, FileNotFoundError, "no text file '.*b.jsonl'"),
        ("b.parquet", None, FileNotFoundError, "no text file '.*b.parquet'"),
        ("b.txt", None, FileNotFoundError, "no text file '.*b.txt'"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_said_so(tmp_path, name, content, kind, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=message):
        list(Source(str(tmp_path / name)).documents())


def test_a_table_without_the_field_says_what_it_has(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has no field 'body': it has id, text"):
        list(Source(str(tmp_path / "a.parquet"), field="body").documents())


# --- tokens ---------------------------------------------------------------------------------------


def test_documents_are_joined_by_an_empty_line(tmp_path, model):
    write_jsonl(tmp_path / "a.jsonl")
    text = Source(str(tmp_path / "a.jsonl")).read(model)
    assert model.decode(text.tokens) == "\n\n".join(KEPT)
    assert text.notes()  # that there are fewer than were asked for


def test_no_more_is_read_than_is_wanted(tmp_path, model):
    write_jsonl(tmp_path / "a.jsonl")
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("not JSON\n")
    source = Source(str(tmp_path / "a.jsonl"), tokens=12)
    whole = np.concatenate([model.encode(KEPT[0]), model.encode("\n\n" + KEPT[1])])
    np.testing.assert_array_equal(source.read(model).tokens, whole[:12])
    exact = Source(str(tmp_path / "a.jsonl"), tokens=27).read(model)
    assert len(exact.tokens) == 27
    assert exact.left_out.endswith("the first 27 tokens are read, and it has more")
    with pytest.raises(ValueError, match="line 6 is not JSON"):
        Source(str(tmp_path / "a.jsonl"), tokens=None).read(model)


@pytest.fixture(scope="module")
def spaced(tmp_path_factory):
    """A model with the tokenizer of SentencePiece, which begins texts and does not cut words."""
    folder = tmp_path_factory.mktemp("spaced")
    pieces = Path(__file__).parents[1] / "models" / "sentencepiece_models" / "bpe.model"
    (folder / "tokenizer.model").write_bytes(pieces.read_bytes())
    sizes = {"vocab_size": 700, "hidden_size": 16, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    return models.reader(folder)


STRETCHES = st.sampled_from(
    ["a" * 3000, " " * 2999, "\n" * 501, "the king ", "Gr\u00fc\u00dfe ", "1" * 77]
)


@given(st.lists(STRETCHES, min_size=1, max_size=40), st.integers(1, 900))
@settings(max_examples=30)
def test_the_first_tokens_are_those_of_the_whole_text(model, spaced, parts, count):
    text = "x" + "".join(parts)
    for reader in (model, spaced):
        whole = reader.encode(text, add_special_tokens=False)
        source = Source("-", tokens=count, length=64, special_tokens=False)
        found = source.read(reader, text)
        np.testing.assert_array_equal(found.tokens, whole[:count])
        assert bool(found.left_out) == (len(whole) > count)


class FarSighted:
    """A model whose tokens depend on what follows within 30,000 characters."""

    shape = types.SimpleNamespace(positions=64, vocabulary=30_001)

    def encode(self, text, add_special_tokens=True):
        return np.full(len(text), min(len(text), 30_000))


def test_tokens_are_taken_where_two_cuts_agree():
    text = Source("-", tokens=3).read(FarSighted(), "x" * 10**6)
    assert text.tokens.tolist() == [30_000] * 3


def test_no_more_is_tokenized_than_is_wanted(tmp_path, model, monkeypatch):
    (tmp_path / "a.txt").write_text("Now is the winter. " * 10**6, encoding="utf-8")
    seen = []
    own = type(model).encode

    def noted(self, text, **options):
        seen.append(len(text))
        return own(self, text, **options)

    monkeypatch.setattr(type(model), "encode", noted)
    text = Source(str(tmp_path / "a.txt"), tokens=64).read(model)
    assert len(text.tokens) == 64
    assert sum(seen) < 20_000
    (note,) = text.notes()
    assert note == f"{tmp_path / 'a.txt'}: the first 64 tokens are read, about 0.00091 % of it"


@pytest.mark.parametrize(
    ("tokens", "note"),
    [
        (4, "a.jsonl: the first 4 tokens are read, and it has more"),
        (10, "a.jsonl: the first 10 tokens are read, and it has more"),
        (12, "a.jsonl: the first 12 tokens are read, and it has more"),
        (27, None),
        (None, None),
    ],
)
def test_what_is_cut_off_is_said(tmp_path, model, tokens, note):
    write_jsonl(tmp_path / "a.jsonl")
    assert len(model.encode(KEPT[0])) == 10
    found = Source(str(tmp_path / "a.jsonl"), tokens=tokens, name="a.jsonl").read(model).notes()
    assert [text for text in found if "fewer" not in text] == ([] if note is None else [note])
    assert not Source(tokens=64).read(model).notes()  # the sample is one


def test_what_is_cut_off_of_given_tokens_is_said(model):
    notes = Text.of([1, 2, 3], model, count=2, source="tokens").notes()
    assert notes == ["tokens: the first 2 tokens of 3 are read"]
    assert not Text.of([1, 2, 3], model, count=3).notes()


def test_texts_begin_with_the_token_of_their_tokenizer(tmp_path, spaced):
    write_jsonl(tmp_path / "a.jsonl")
    path = str(tmp_path / "a.jsonl")
    parts = [KEPT[0], *("\n\n" + text for text in KEPT[1:])]
    plain = [n for part in parts for n in spaced.encode(part, add_special_tokens=False)]

    def read(**fields):
        found = Source(path, **{"length": 64, **fields}).read(spaced)
        return found.begins, found.tokens.tolist()

    assert read() == ((1,), plain)
    assert read(tokens=5) == ((1,), plain[:4])
    assert read(tokens=1) == ((1,), plain[:1])
    assert read(special_tokens=False, tokens=5) == ((), plain[:5])
    for seed in range(3):
        begins, shuffled = read(shuffled=True, seed=seed)
        assert begins == (1,)
        assert sorted(shuffled) == sorted(plain)
        assert shuffled != plain


def test_texts_without_special_tokens_are_named_so():
    assert Source("a.txt", special_tokens=False).label == "a.txt, without special tokens"
    assert Source("a.txt", special_tokens=False, name="mine").label == "mine"
    with pytest.raises(ValueError, match="special_tokens must be true or false, not 0"):
        Source(special_tokens=0)


@given(
    count=st.integers(1, 60),
    length=st.integers(3, 20),
    stride=st.integers(1, 20),
    begins=st.lists(st.integers(0, 9), max_size=2),
)
def test_every_window_begins_with_the_tokens_of_a_text(model, count, length, stride, begins):
    """Each token is compared once, from as far back as its window reaches."""
    tokens = np.arange(100, 100 + count)
    text = Text.of(tokens, model, length=length, stride=min(stride, length), begins=begins)
    whole = [*begins, *tokens.tolist()]
    compared = []
    for window in text.windows:
        numbers = window.tokens.tolist()
        assert numbers[: len(begins)] == begins
        assert len(numbers) <= length
        at = whole.index(numbers[len(begins)])
        assert numbers[len(begins) :] == whole[at : at + len(numbers) - len(begins)]
        behind = [*whole, -1][at + 1 : at + 1 + len(numbers) - len(begins)]
        assert window.following[len(begins) :].tolist() == behind
        compared += zip(numbers, window.following.tolist(), strict=True)
        del compared[len(compared) - len(numbers) : len(compared) - len(numbers) + window.context]
    assert compared == list(itertools.pairwise([*whole, -1]))
    assert text.compared == len(whole)
    starts = {window.tokens[len(begins)] for window in text.windows}
    assert text.read == count + len(begins) * len(starts)
    assert text.notes() == []


@given(st.integers(1, 99), st.integers(3, 20), st.integers(1, 20), st.integers(0, 2))
def test_as_many_tokens_are_read_as_fit_with_those_that_begin_windows(
    model, asked, length, stride, begins
):
    def read(count, number=None):
        return Text.of(
            np.zeros(count, int), model, count=number, length=length, stride=min(stride, length),
            begins=[1] * begins,
        )  # fmt: skip

    found = read(200, asked)
    assert found.read <= max(asked, begins + 1)
    assert read(len(found.tokens) + 1).read > asked
    assert found.notes() == [
        f"the text: the first {found.read} tokens of {read(200).read} are read"
    ]


def test_a_window_has_room_for_more_than_its_beginning(model):
    with pytest.raises(ValueError, match="length must be above 2, the tokens that begin a window"):
        Text.of([5, 6], model, length=2, begins=[1, 2])
    with pytest.raises(ValueError, match="token 9999 at position 0 of the text is not in"):
        Text.of([5, 6], model, begins=[9999])


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_ends_of_lines_and_marks_make_no_difference(tmp_path, monkeypatch, end, mark):
    content = (mark + "one two\n\nthree\n".replace("\n", end)).encode()
    (tmp_path / "a.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    for source in (str(tmp_path / "a.txt"), "-"):
        assert list(Source(source).documents()) == ["one two\n\nthree\n"]
    assert checkpoints.read_text(tmp_path / "a.txt") == "one two\n\nthree\n"
    lines = (mark + '{"text": "one"}\n{"text": "two"}\n'.replace("\n", end)).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    assert list(Source(str(tmp_path / "a.jsonl")).documents()) == ["one", "two"]


def test_standard_input_is_shared_by_sources_and_not_closed(monkeypatch, model):
    lines = b'{"text": "one"}\n{"text": "two"}\n' * 4000
    buffer = io.BytesIO(lines)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=buffer))
    given = sources.standard_input()
    first = Source("-", kind="jsonl", tokens=64, length=64).read(model, given)
    assert buffer.tell() < len(lines)
    plain = Source("-", tokens=64, length=64).read(model, given)
    assert plain.tokens.tolist() == model.encode(lines.decode())[:64].tolist()
    again = Source("-", kind="jsonl", tokens=64, length=64).read(model, given)
    np.testing.assert_array_equal(again.tokens, first.tokens)
    assert not buffer.closed


@pytest.mark.parametrize("name", ["a.pdf", "a.txt.zst", "a.XLSX"])
def test_files_that_hold_texts_in_another_form_are_refused(tmp_path, name):
    (tmp_path / name).write_text('["one", "two"]')
    with pytest.raises(ValueError, match=rf"{name}' is not read as a text: expected plain text, "):
        Source(str(tmp_path / name))
    assert list(Source(str(tmp_path / name), kind="plain").documents()) == ['["one", "two"]']


class Endless:
    """A file without an end."""

    def __init__(self, content):
        self.content, self.given = content, 0

    def read(self, size):
        self.given += size
        return (self.content * (size // len(self.content) + 1))[:size]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("plain", b"a b ", "goes on after 67108864 characters: say how many tokens"),
        ("plain", b" ", "goes on after 67108864 characters"),
        ("plain", b"\0", "is not UTF-8 text: it holds null characters"),
        ("jsonl", b"a", "has a line of more than 16777216 characters"),
        ("jsonl", b" " * 99 + b"\n", "goes on after 67108864 characters"),
    ],
    ids=["words", "blanks", "nulls", "a line", "blank lines"],
)
def test_what_does_not_end_is_not_read_for_ever(monkeypatch, model, kind, content, message):
    endless = Endless(content)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=endless))
    with pytest.raises(ValueError, match=message):
        Source("-", kind=kind, tokens=None).read(model)
    assert endless.given < 2**27
    if content == b"a b ":
        endless.given = 0
        assert len(Source("-", tokens=64).read(model).tokens) == 64
        assert endless.given < 2**18


def test_devices_and_pipes_are_read_as_far_as_they_are_needed(model):
    with pytest.raises(ValueError, match="/dev/zero is not UTF-8 text"):
        Source("/dev/zero").read(model)


def test_shuffled_tokens_are_the_same_in_another_order(model):
    plain = Source(tokens=300).read(model)
    shuffled = Source(tokens=300, shuffled=True, seed=1).read(model)
    np.testing.assert_array_equal(np.sort(plain.tokens), np.sort(shuffled.tokens))
    assert (plain.tokens != shuffled.tokens).any()
    again = Source(tokens=300, shuffled=True, seed=1).read(model)
    np.testing.assert_array_equal(again.tokens, shuffled.tokens)
    other = Source(tokens=300, shuffled=True, seed=2).read(model)
    assert (other.tokens != shuffled.tokens).any()


def test_windows_have_the_length_and_the_stride_that_are_asked_for(model):
    text = Source(tokens=100, length=32, stride=24).read(model)
    sizes = [len(window.tokens) for window in text.windows]
    assert sizes == [32, 32, 32, 28]
    for one, other in itertools.pairwise(text.windows):
        np.testing.assert_array_equal(one.tokens[24:], other.tokens[:8])
    assert len(Source(tokens=None).read(model).tokens) == 23037


def test_a_window_that_does_not_fit_the_model_is_refused(model):
    with pytest.raises(ValueError, match=r"length must lie in 1\.\.512"):
        Source(length=513).read(model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": ""}, "source must be a file"),
        ({"source": 7}, "source must be a file"),
        (
            {"kind": "html"},
            "unknown kind 'html': expected plain, json, jsonl, csv, parquet, datasets",
        ),
        ({"source": "-", "kind": "parquet"}, "'-' cannot be of kind 'parquet'"),
        ({"tokens": 0}, "tokens must be a positive integer, not 0"),
        ({"tokens": "many"}, "tokens must be a positive integer, not 'many'"),
        ({"length": True}, "length must be a positive integer, not True"),
        ({"stride": -1}, "stride must be a positive integer, not -1"),
        ({"shuffled": 1}, "shuffled must be true or false, not 1"),
        ({"seed": -1}, "seed must be an integer from 0, not -1"),
        ({"field": None}, "field must be a string, not None"),
    ],
)
def test_what_a_source_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Source(**fields)


def test_integers_of_numpy_are_integers():
    one = Source(tokens=np.int64(9), length=np.int32(4), stride=np.uint8(2), seed=np.int64(3))
    assert one == Source(tokens=9, length=4, stride=2, seed=3)
    assert all(type(each) is int for each in (one.tokens, one.length, one.stride, one.seed))
    with pytest.raises(ValueError, match="tokens must be a positive integer, not"):
        Source(tokens=np.float64(9))
    with pytest.raises(ValueError, match="seed must be an integer from 0, not"):
        Source(seed=np.bool_(True))


def test_files_are_looked_for_in_a_folder_and_keep_their_names(tmp_path):
    assert Source("held-out").inside(tmp_path) == Source("held-out")
    assert Source("-").inside(tmp_path) == Source("-")
    found = Source("a.txt", shuffled=True).inside(tmp_path)
    assert (Path(found.source), found.label) == (tmp_path / "a.txt", "a.txt, shuffled")
    assert Source(str(tmp_path / "b.txt")).inside(Path("/nowhere")).source == str(
        tmp_path / "b.txt"
    )
    assert Source("name", kind="datasets").inside(tmp_path).source == "name"


def test_every_kind_is_known():
    assert list(sources.KINDS) == ["plain", "json", "jsonl", "csv", "parquet", "datasets"]


# --- what is skipped ------------------------------------------------------------------------------


def test_a_text_without_its_beginning_is_the_rest_of_its_tokens(model, tmp_path):
    text = "Now is the winter of our discontent made glorious summer. " * 20
    (tmp_path / "a.txt").write_text(text)
    whole = Source(str(tmp_path / "a.txt"), tokens=None).read(model).tokens
    for skip, count in ((0, 9), (5, 9), (5, None), (len(whole) - 1, 7)):
        found = Source(str(tmp_path / "a.txt"), tokens=count, skip=skip).read(model)
        stop = None if count is None else skip + count
        np.testing.assert_array_equal(found.tokens, whole[skip:stop])
    assert Source("a.txt", skip=5).label == "a.txt, from token 5"
    with pytest.raises(ValueError, match="has no tokens behind the 9999 that are skipped"):
        Source(str(tmp_path / "a.txt"), tokens=None, skip=9999).read(model)
    with pytest.raises(ValueError, match="skip must be an integer from 0, not -1"):
        Source("a.txt", skip=-1)
