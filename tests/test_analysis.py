"""The scripts in analysis/ that check what they compute."""

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


@pytest.mark.parametrize("cases", [25, pytest.param(300, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["toml", "stores"])
def test_spoilt_files_are_refused_by_name(kind, cases):
    # Of TOML files 500, in all.
    cases = 500 if (kind, cases) == ("toml", 300) else cases
    command = [sys.executable, str(ANALYSIS / "fuzz_stores.py"), "--kinds", kind]
    run = subprocess.run(
        [*command, "--cases", str(cases)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{cases} cases of {kind}" in run.stdout


SCRIPTS = sorted(path.name for path in ANALYSIS.glob("*.py") if "__main__" in path.read_text())


# In one process, as most of the time is for imports.
HELP = """
import contextlib, io, pathlib, runpy, sys
sys.path.insert(0, str(pathlib.Path(sys.argv[1]).parent))
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, script
    assert output.getvalue().startswith("usage: "), script
    print(script)
"""


def test_scripts_say_what_they_do():
    """Which imports all that they need, but for the peers of benchmarks."""
    scripts = [str(ANALYSIS / script) for script in SCRIPTS]
    command = [sys.executable, "-c", HELP, *scripts]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.split() == scripts


def test_bounds_of_a_function_of_ones_own_hold_and_are_drawn(tmp_path):
    command = [sys.executable, str(ANALYSIS / "own_bounds.py"), "--points", "12"]
    run = subprocess.run(
        [*command, "--output", tmp_path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "own_bounds.svg").read_text().count('<g id="line2d') > 8
