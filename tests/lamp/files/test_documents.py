"""TOML files: what would take long to read is refused."""

import pytest

from lamp._files import Document

DEEP = "nested more than 16 deep"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n" + ".".join(["a"] * 20_000) + " = 1", f"line 2: {DEEP}"),
        (".".join(['"a"'] * 20_000) + " = 1", DEEP),
        (" . ".join(["a"] * 20_000) + " = 1", DEEP),
        (f"[{'.'.join(['a'] * 17)}]", DEEP),
        ("\n\nx = " + "[" * 20_000, f"line 3: {DEEP}"),
        ("x = " + "{a = " * 5000, DEEP),
        ("x = '''\n[\n''' # [\n" + "y = " + "[" * 17, f"line 4: {DEEP}"),
        ("x = " + "9" * 5000, "an integer is too large"),
        ("x = 0x" + "f" * 5000, "line 1: an integer of 'x' has more than 64 bits"),
        ("[t]\nx = [18446744073709551616]", "line 2: an integer of 'x' has more than 64 bits"),
        ("x" * 201 + " = 1", "a key has 201 letters"),
        ("[t]\n" + "x" * 201 + " = 1", "a key has 201 letters"),
        ("#" * 2**20 + "#", "more than 1,048,576 bytes"),
        ("x = '\udcff'", "half a character"),
    ],
    ids=range(14),
)
def test_what_would_take_long_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        Document(text, "study.toml")
    assert str(caught.value).startswith("study.toml")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ['"' * 99_999, "-" * 10**6, "a" + " " * 10**6, "'''" * 9999])
def test_texts_that_are_no_toml_are_refused_in_linear_time(text):
    with pytest.raises(ValueError, match=r"study\.toml is not TOML"):
        Document(text, "study.toml")


def test_strings_and_comments_may_have_brackets_and_dots():
    text = f"""
    a = "{"[" * 50}"  # {"{" * 50}
    b = '{".a" * 50}'
    c = [{", ".join(["1.5"] * 500)}]
    d = {"[" * 16}{"]" * 16}
    """
    found = Document(text, "study.toml").values
    assert found["b"] == ".a" * 50
    assert len(found["c"]) == 500


def test_files_are_read_up_to_a_size(tmp_path):
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 'a'\r\n")
    assert Document.read(path, "study").values == {"name": "a"}
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ValueError, match=r"study\.toml has more than 1,048,576 bytes"):
        Document.read(path, "study")
    with pytest.raises(FileNotFoundError, match="no study file '/dev/zero'"):
        Document.read("/dev/zero", "study")
