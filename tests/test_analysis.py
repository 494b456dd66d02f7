"""The scripts in analysis/ that check what they compute."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ANALYSIS = Path(__file__).parents[1] / "analysis"


@pytest.mark.long
@pytest.mark.parametrize("format", ["float8_e4m3fn", "e5m7"])
def test_algorithms_in_a_small_arithmetic_keep_what_theory_promises(format):
    command = [sys.executable, str(ANALYSIS / "user_kernels.py"), format]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"Newton's square roots in {format}: at most 0.7" in run.stdout
    assert run.stdout.count("relative error") == 4


@pytest.mark.parametrize(
    ("kinds", "cases"),
    [
        (("toml", "stores"), 25),
        pytest.param(("toml",), 500, marks=pytest.mark.long),
        pytest.param(("stores",), 300, marks=pytest.mark.long),
    ],
)
def test_spoilt_files_are_refused_by_name(kinds, cases):
    command = [sys.executable, str(ANALYSIS / "fuzz_stores.py"), "--kinds", *kinds]
    run = subprocess.run(
        [*command, "--cases", str(cases)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for kind in kinds:
        assert f"{cases} cases of {kind}" in run.stdout


SCRIPTS = sorted(path.name for path in ANALYSIS.glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_what_it_does(script, monkeypatch, capsys):
    """Which imports all that it needs, but for the peers of benchmarks; in this process."""
    monkeypatch.syspath_prepend(ANALYSIS)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ANALYSIS / script), run_name="__main__")
    assert not end.value.code
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.docs
def test_bounds_of_a_function_of_ones_own_hold_and_are_drawn(tmp_path):
    command = [sys.executable, str(ANALYSIS / "own_bounds.py"), "--points", "12"]
    run = subprocess.run(
        [*command, "--output", tmp_path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "own_bounds.svg").read_text().count('<g id="line2d') > 8
