"""What is shown is cleaned."""

import pytest

from fpemu import _printing as printing

UNFIT = (
    "\x00\x07\x08\x0b\x0c\r\x1b\x7f\x85\x9b\u061c\u200e\u200f\u2028\u202e\u2066\u2069\ufeff\ud800"
)


@pytest.mark.parametrize("letter", UNFIT)
def test_what_a_terminal_might_obey_is_replaced(letter):
    assert printing.clean(f"a{letter}b") == "a\ufffdb"


def test_texts_of_all_languages_stay():
    text = "Grüße,\tжж\n漢字 \u200d👩\u200d👧 «» עברית"
    assert printing.clean(text) == text


@pytest.mark.parametrize("columns", [8, 20, 40, 200])
def test_a_note_ends_its_lines_between_words(columns, capsys, monkeypatch):
    words = ["unit", "Errors", "relative", "to the sum of", "magnitudes:", "wgmma-promoted"]
    monkeypatch.setenv("COLUMNS", str(columns))
    printing.note(" ".join(words), indent="  ")
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines).split() == " ".join(words).split()
    assert all(len(line) <= columns or len(line.split()) == 1 for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_note_in_a_pipe_is_one_line(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    printing.note("\n" + "word " * 50 + "\nnext")
    assert capsys.readouterr().out == "\n" + "word " * 50 + "\nnext\n"


def test_consoles_clean_cells_and_lines(capsys):
    from rich.table import Table

    console = printing.console()
    table = Table("a\x1b[31m")
    table.add_row("b\u202e")
    console.print(table)
    console.print("c\x1b[2J")
    printing.echo("d\x9b")
    printing.echo("e\x1b", err=True)
    output, errors = capsys.readouterr()
    assert not set(UNFIT) & set(output + errors)
    assert all(f"{letter}\ufffd" in output + errors for letter in "abcde")
