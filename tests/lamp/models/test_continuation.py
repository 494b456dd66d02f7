"""Continuations: where they end, and which pieces come before that is known."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamp.models import Continuation


class Characters:
    """A model whose tokens are bytes."""

    @staticmethod
    def decode(tokens):
        return bytes(tokens).decode("utf-8", errors="replace")


END = 0xFF  # no byte of UTF-8
WORDS = st.text("ab\u00e9\U0001f642", max_size=12)


@given(
    WORDS,
    WORDS,
    st.lists(st.text("ab\u00e9\U0001f642", min_size=1, max_size=3), max_size=3),
    st.booleans(),
)
def test_the_first_of_the_texts_that_end_it_ends_it(beginning, added, until, ended):
    tokens = [*added.encode(), *([END] if ended else [])]
    found = Continuation(Characters(), list(beginning.encode()), [END], until)
    stream = iter(tokens)
    pieces = list(found.pieces(stream))
    places = [added.find(each) for each in until if each in added]
    assert "".join(pieces) == added[: min(places, default=len(added))]
    # It is read up to the character that shows its end, and no further.
    last = min((added.find(each) + len(each) for each in until if each in added), default=None)
    if last is None:
        assert found.ended == ("end of text" if ended else "count")
        assert found.added == tokens
    else:
        assert found.ended == "stop"
        assert found.added == list(added[:last].encode())
        assert [*found.added, *stream] == tokens


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ([], ["a", "b", "a", "c", ""]),
        (["abd"], ["", "", "ab", "ac", ""]),  # "ab" may become "abd"
        (["c"], ["a", "b", "a", ""]),
        (["x"], ["a", "b", "a", "c", ""]),
        (["ac", "bac"], ["", "a", "", ""]),  # both end at the same character
    ],
)
def test_what_may_begin_such_a_text_is_held_back(until, expected):
    found = Continuation(Characters(), list(b"x"), (), until)
    assert list(found.pieces(iter(b"abac"))) == expected


def test_a_text_in_the_prompt_ends_nothing():
    found = Continuation(Characters(), list(b"stop st"), (), ["stop", "tab"])
    assert "".join(found.pieces(iter(b"ab op"))) == "ab op"
    assert found.ended == "count"


def test_characters_come_whole_and_all_of_them():
    text = "naïve ✓ 🙂!".encode()
    continued = Continuation(Characters(), list(text[:2]))
    pieces = list(continued.pieces(iter(text[2:])))
    assert [piece for piece in pieces if piece] == ["ï", *"ve ✓ 🙂!"]
    assert continued.added == list(text[2:])
    # Half a character at the end is shown as what it is decoded as.
    continued = Continuation(Characters(), list(text[:2]))
    assert "".join(continued.pieces(iter(text[2:9]))) == Characters.decode(text[2:9])


def test_no_character_is_given_twice_or_lost(monkeypatch):
    """Decoders of SentencePiece may make a text shorter with its next token."""
    texts = ["x", "xab", "xa", "xacd"]
    model = Characters()
    monkeypatch.setattr(Characters, "decode", staticmethod(lambda tokens: texts[len(tokens) - 1]))
    pieces = list(itertools.chain(Continuation(model, [0]).pieces(iter([1, 2, 3]))))
    assert pieces[0] == "ab"
    assert "".join(pieces) == "abd"
