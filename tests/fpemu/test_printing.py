"""What is shown is cleaned."""

import pytest

from fpemu import _printing as printing
from tests.cases import for_each

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


@pytest.mark.parametrize("columns", [20, 41, 80])
def test_no_line_of_a_sentence_ends_in_a_blank(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    sentence = "The machine's cost is  half of that of fp32, by softmax:tv:3% in two layers. " * 4
    printing.console().print(f"\n{sentence.strip()}\nNext\n", style="bold")
    first, *lines = capsys.readouterr().out.split("\n")
    assert first == ""
    assert lines[-3:] == ["Next", "", ""]
    assert " ".join(lines).split() == [*sentence.split(), "Next"]
    assert all(line == line.rstrip() and len(line) <= columns for line in lines)


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


@pytest.mark.parametrize("columns", [None, 24, 80])
def test_no_line_of_a_table_ends_in_blanks(monkeypatch, capsys, columns):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", str(columns))
    table = printing.plain_table()
    for heading in ("name", "number", "because"):
        table.add_column(heading, justify="right" if heading == "number" else "left")
    table.add_row("漢字", "12345678", "many words that are wrapped in eighty columns " * 2)
    table.add_row("a", "1", "short")
    printing.print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert ("  number: 1" in lines) == (columns == 24)
    assert len(lines) == {None: 3, 80: 4, 24: 11}[columns]


def test_a_row_of_a_narrow_table_begins_with_its_label_or_number(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    for side, first in (("left", "one"), ("right", "name one")):
        table = printing.plain_table()
        table.add_column("name", justify=side)
        table.add_column("the other\ncolumn", no_wrap=True)
        table.add_row("one", "x" * 17)
        printing.print_table(table)
        assert capsys.readouterr().out.splitlines() == [
            first,
            "  the other column:",
            "    " + "x" * 17,
        ]


def labeled_table(*reasons):
    """A table of labels and numbers, as those of results are, and of reasons if there are any."""
    table = printing.plain_table()
    table.add_column("unit", overflow="fold")
    for heading in ("median", "largest"):
        table.add_column(heading, justify="right")
    if reasons:
        table.add_column("because")
    table.add_row("sequential(float32, rne)", "1.2e-03", "4.5e-03", *reasons[:1])
    table.add_row("hopper.wgmma-promoted.e4m3", "6.7e-08", "0", *reasons[1:])
    return table


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (
            46,  # all words whole
            [
                "unit                         median  largest",
                "sequential(float32, rne)    1.2e-03  4.5e-03",
                "hopper.wgmma-promoted.e4m3  6.7e-08        0",
            ],
        ),
        (
            40,  # labels on lines of their own
            [
                "unit",
                "   median  largest",
                "sequential(float32, rne)",
                "  1.2e-03  4.5e-03",
                "hopper.wgmma-promoted.e4m3",
                "  6.7e-08        0",
            ],
        ),
        (
            19,  # numbers too
            [
                "sequential(float32,",
                "rne)",
                "  median: 1.2e-03",
                "  largest: 4.5e-03",
                "hopper.wgmma-promot",
                "ed.e4m3",  # longer than a line
                "  median: 6.7e-08",
                "  largest: 0",
            ],
        ),
    ],
)
def test_labels_that_do_not_fit_beside_numbers_are_above_them(capsys, monkeypatch, columns, shown):
    monkeypatch.setenv("COLUMNS", str(columns))
    printing.console().print(labeled_table())
    assert capsys.readouterr().out.splitlines() == shown


@for_each("columns", range(12, 90))
def test_no_word_is_broken_that_fits_a_line(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    table = labeled_table("between 0.25 and 0.3125", "sequential(float32, rne)")
    words = {word for column in table.columns for cell in column.cells for word in cell.split()}
    printing.console().print(table)
    said = capsys.readouterr().out
    indent = 0 if "median:" not in said else 4  # of a value that is wrapped
    assert {word for word in words if len(word) <= columns - indent} <= set(said.split())
    assert max(map(len, said.splitlines())) <= columns
