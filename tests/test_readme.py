"""The README's commands do what it says, word for word."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fpemu
import lamp
from fpemu import devices, functions, jit, reference, scaling

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    re.sub("^    ", "", block, flags=re.M)
    for block in re.findall(r"(?:^    .*\n|^\n)+", README, re.M)
]
COMMANDS = [block.strip() for block in BLOCKS if ".venv/bin/lamp" in block]


@pytest.mark.docs
@pytest.mark.parametrize("tokens", [64, pytest.param(1024, marks=pytest.mark.long)])
def test_the_tour_and_the_commands_run(tmp_path, tokens):
    """In an empty folder that has the environment, as `make demo` leaves it.

    Word for word with 1,024 tokens; with fewer, all of the same happens in less time.
    """
    fewer = {"tokens = 1024\n": f"tokens = {tokens}\n"}
    if tokens < 512:
        fewer["--tokens 512\n"] = f"--tokens {tokens}\n"
    (tmp_path / ".venv").symlink_to(sys.prefix)
    assert len(COMMANDS) == 3
    commands = "\0".join(COMMANDS)
    for written, instead in fewer.items():
        assert commands.count(written) == 1
        commands = commands.replace(written, instead)
    for block in commands.split("\0"):
        script = "set -e\n" + block
        run = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert run.stdout
    page = (tmp_path / "scores.html").read_text(encoding="utf-8")
    store = lamp.studies.Store.open(tmp_path / "scores.sqlite")
    with store:
        records = list(store.runs("scores"))
    assert [record.state for record in records] == ["done"] * len(records)
    said = re.search(r"does its (\d+) runs", README)
    assert len(records) == int(said[1])
    assert all(record.hardware in page for record in records)


def test_everything_public_is_documented():
    for module in (fpemu, functions, jit, reference, devices, scaling, lamp):
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                assert thing.__doc__, f"{module.__name__}.{name}"
