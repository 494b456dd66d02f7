"""Options that take numbers: each says what was given and what it expects."""

import inspect
import re
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import typer

import fpemu.cli.application
import lamp.cli.application
from fpemu.cli import options, process

APPLICATIONS = {"fpemu": fpemu.cli.application.app, "lamp": lamp.cli.application.app}


def commands(app):
    """The words and the function of every subcommand."""
    for group in app.registered_groups:
        for words, function in commands(group.typer_instance):
            yield (group.name, *words), function
    for command in app.registered_commands:
        yield (command.name or command.callback.__name__,), command.callback


def numbers_of(hint):
    """The types of numbers that an option takes, one after the other."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if hint in (int, float):
        return [hint]
    return [kind for part in get_args(hint) for kind in numbers_of(part)]


def numeric_options():
    """A program, the words of a subcommand, an option of it, and the numbers that this takes."""
    for program, app in APPLICATIONS.items():
        for words, function in commands(app):
            hints = get_type_hints(function, include_extras=True)
            for name in inspect.signature(function).parameters:
                if numbers := numbers_of(hints[name]):
                    yield program, words, f"--{name.replace('_', '-')}", numbers


def called(program, arguments, capsys):
    """The exit code, and what is said on standard error without the lines around it."""
    with pytest.raises(SystemExit) as end:
        process.call(APPLICATIONS[program], program, arguments)
    return end.value.code, " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().err).split())


@pytest.mark.parametrize(("program", "words", "option", "numbers"), numeric_options())
def test_what_is_no_number_or_beyond_its_limits_is_named(
    program, words, option, numbers, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    wrong = ["x", "", "1.5.2"]
    if option != "--memory":  # which may be 2.5 bytes
        wrong += ["2.5"] if numbers == [int] else ["nan", "-inf"]
    if len(numbers) == 1:  # ranges may begin below zero
        wrong.append("-1")
    for value in wrong:
        code, said = called(program, [*words, option, *[value] * len(numbers)], capsys)
        assert code == 2
        assert f"Invalid value for '{option}': " in said
        assert repr(value) in said
        assert re.search(r"expected an? (integer|number)\b|no size, such as", said), said


def test_there_are_options_with_numbers_in_both_programs():
    found = {(program, *words, option) for program, words, option, _ in numeric_options()}
    assert {
        ("fpemu", "plot", "--range"),
        ("fpemu", "show", "--random-bits"),
        ("lamp", "run", "--length"),
        ("lamp", "hardware", "calibrate", "--length"),
        ("lamp", "eval", "--shots"),
    } <= found


@pytest.mark.parametrize(
    ("kind", "limits", "good", "bad", "expected"),
    [
        (int, {}, ["-3", "0"], ["1e3", "9" * 400], "an integer"),
        (int, {"least": 1, "most": 63}, ["1", "63"], ["0", "64"], "at least 1 and at most 63"),
        (float, {"above": 0, "most": 1}, ["5e-324", "1"], ["0", "1.1"], "above 0 and at most 1"),
    ],
)
def test_limits_are_kept_and_shown(kind, limits, good, bad, expected, capsys):
    option = options.number(kind, "", **limits)
    assert [option.parser(text) for text in good] == [kind(text) for text in good]
    for text in bad:
        with pytest.raises(typer.BadParameter, match=f"{expected}, not '{text}'"):
            option.parser(text)


def test_the_help_shows_limits(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        process.call(APPLICATIONS["lamp"], "lamp", ["generate", "--help"])
    said = capsys.readouterr().out
    assert all(text in said for text in ("INTEGER >= 1", "NUMBER > 0, <= 1", "NUMBER >= 0"))
