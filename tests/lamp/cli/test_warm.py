"""``lamp warm``."""

import pytest

from lamp.cli import application, warm
from lamp.lookahead import rules
from lamp.machines import names


def calls_of(monkeypatch, *arguments):
    """The calls that the command would make."""
    found = []
    monkeypatch.setattr(warm, "compile_all", found.extend)
    with pytest.raises(SystemExit) as end:
        application.main(["warm", *arguments])
    assert not end.value.code
    return found


def test_all_machines_and_all_rules_are_compiled(monkeypatch):
    called = [call.name for call in calls_of(monkeypatch)]
    assert {name.format(mu=4) for name in names()} | {*rules.RULES} == {*called}


def test_every_rule_runs_on_the_machine_that_is_named(monkeypatch):
    monkeypatch.setattr(warm, "_TOKENS", 8)
    machine, *others = calls_of(monkeypatch, "scores-ps7")
    assert machine.name == "scores-ps7"
    assert len(others) == 2 * len(rules.RULES)
    for call in (machine, *others):
        call.run()


def test_a_machine_that_is_not_there_is_bad_usage(capsys):
    with pytest.raises(SystemExit) as end:
        application.main(["warm", "no-machine"])
    assert end.value.code == 2
    assert "no-machine" in capsys.readouterr().err
