"""What users have: a shell in an empty folder."""

import shlex
import sys

import pytest

from fpemu.cli.application import main as fpemu_command
from lamp.cli.application import main as lamp_command

_COMMANDS = {"fpemu": fpemu_command, "lamp": lamp_command}


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys):
    """A function that runs a command as typed, in an empty folder: what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(line):
        words = shlex.split(line)
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            _COMMANDS[words[0]]()
        output, errors = capsys.readouterr()
        assert not end.value.code, errors
        return output

    return run
