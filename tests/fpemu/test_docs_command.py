"""The command ``docs`` of both packages."""

import re
from pathlib import Path

import pytest

from fpemu.cli import application as of_fpemu
from fpemu.cli import documents
from lamp.cli import application as of_lamp

DOCS = Path(__file__).parents[2] / "docs"


def run(application, capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        application.main(["docs", *arguments])
    return end.value.code, *capsys.readouterr()


@pytest.mark.parametrize("application", [of_fpemu, of_lamp], ids=["fpemu", "lamp"])
def test_pages_are_listed_with_their_titles_and_their_folder(application, capsys):
    code, out, _ = run(application, capsys)
    assert not code
    first, *_, last = out.splitlines()
    assert first.split() == ["page", "title"]
    assert last == str(DOCS)
    assert re.search(r"^tutorial +Tutorial *$", out, re.M)
    assert re.search(r"^hardware +The hardware *$", out, re.M)
    assert "reference" not in out  # made from docstrings when the site is built
    assert "{" not in out


@pytest.mark.parametrize("name", ["tuning", "tuning.md"])
def test_a_page_is_shown_without_its_markup(capsys, name):
    code, out, _ = run(of_fpemu, capsys, name)
    assert not code
    assert "Tuning machines" in out.splitlines()[0]
    assert "```" not in out


def test_a_notebook_is_shown_with_its_code_and_what_it_prints(capsys):
    code, out, _ = run(of_fpemu, capsys, "fp8")
    assert not code
    lines = [line.strip() for line in out.splitlines()]
    assert "Why 0.1 + 0.2 is not 0.3 in fp8" in lines[0]
    assert {"import fpemu", "0.30000000000000004", "(a picture, which Jupyter shows)"} <= {*lines}
    assert "```" not in out


def test_all_notebooks_are_listed_behind_the_pages(capsys):
    _, out, _ = run(of_lamp, capsys)
    listed = [line.split(maxsplit=1) for line in out.splitlines()[1:-2]]
    notebooks = [name for name, title in listed if title.startswith("Notebook: ")]
    assert notebooks == sorted(path.stem for path in (DOCS / "notebooks").glob("*.ipynb"))
    assert [name for name, _ in listed][-len(notebooks) :] == notebooks


def test_a_page_that_is_not_there_is_an_error_that_lists_the_pages(capsys):
    code, out, error = run(of_fpemu, capsys, "nothing")
    assert (code, out) == (2, "")
    assert "Invalid value for PAGE: no page 'nothing': expected one of index," in error
    assert "tutorial" in error


def test_a_package_without_its_pages_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(documents, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(documents.metadata, "files", lambda name: None)
    code, _, error = run(of_fpemu, capsys)
    assert code == 1
    assert "pip install --force-reinstall" in error
