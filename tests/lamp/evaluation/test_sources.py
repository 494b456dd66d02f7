"""Texts from all kinds of sources: the documents, in order, as tokens in windows."""

import io
import itertools
import json
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from lamp import checkpoints
from lamp.evaluation import sources
from lamp.evaluation.sources import Source
from lamp.models import loading as models

DOCUMENTS = ["Now is the winter of our discontent", "  \n", "Made glorious summer\n", "Grüße"]
KEPT = [document for document in DOCUMENTS if document.strip()]


@pytest.fixture(scope="module")
def model():
    return models.reader("embedded")


def write_jsonl(path, field="text"):
    lines = (json.dumps({"id": i, field: text}) for i, text in enumerate(DOCUMENTS))
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def write_parquet(path, field="text"):
    table = pyarrow.table({"id": range(len(DOCUMENTS)), field: DOCUMENTS})
    pyarrow.parquet.write_table(table, path, row_group_size=3)


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", write_jsonl), ("a.ndjson", write_jsonl), ("a.parquet", write_parquet)],
)
@pytest.mark.parametrize("field", ["text", "body"])
def test_documents_come_in_order_and_blank_ones_not(tmp_path, name, write, field):
    write(tmp_path / name, field)
    source = Source(str(tmp_path / name), field=field)
    assert list(source.documents()) == KEPT


def test_a_plain_text_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo", encoding="utf-8")
    assert list(Source(str(tmp_path / "a.txt")).documents()) == ["one\n\ntwo"]
    assert list(Source("held-out").documents()) == [checkpoints.read_text()]


def test_a_kind_may_be_given_that_the_ending_does_not_tell(tmp_path):
    write_jsonl(tmp_path / "a.txt")
    assert list(Source(str(tmp_path / "a.txt"), kind="jsonl").documents()) == KEPT


def test_standard_input_is_a_text_too(monkeypatch, tmp_path):
    def given(text):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(text)))

    given("Grüße".encode())
    assert list(Source("-").documents()) == ["Grüße"]
    write_jsonl(tmp_path / "a.jsonl")
    given((tmp_path / "a.jsonl").read_bytes())
    assert list(Source("-", kind="jsonl").documents()) == KEPT
    assert list(Source("-").documents("read before")) == ["read before"]
    for text, message in ((b"", "standard input is empty"), (b"\xff", "is not UTF-8 text")):
        given(text)
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
        ("a.parquet", b"PAR1 not", ValueError, "a.parquet is not a Parquet file"),
        ("a.txt", b"\xff", ValueError, "a.txt is not UTF-8 text"),
        ("a.txt", b" \n", ValueError, "a.txt is empty"),
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
    with pytest.raises(ValueError, match="line 6 is not JSON"):
        Source(str(tmp_path / "a.jsonl"), tokens=None).read(model)


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
        ({"kind": "csv"}, "unknown kind 'csv': expected plain, jsonl, parquet, datasets"),
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
    assert list(sources.KINDS) == ["plain", "jsonl", "parquet", "datasets"]
