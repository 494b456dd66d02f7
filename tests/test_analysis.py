"""The scripts in analysis/ that check what they compute."""

import subprocess
import sys
from pathlib import Path

import pytest

ANALYSIS = Path(__file__).parents[1] / "analysis"


@pytest.mark.parametrize("format", ["e5m7", "float8_e4m3fn"])
def test_algorithms_in_a_small_arithmetic_keep_what_theory_promises(format):
    command = [sys.executable, str(ANALYSIS / "user_kernels.py"), format]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"Newton's square roots in {format}: at most 0.7" in run.stdout
    assert run.stdout.count("relative error") == 4


SCRIPTS = sorted(path.name for path in ANALYSIS.glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_say_what_they_do(script):
    """Which imports all that they need, but for the peers of benchmarks."""
    command = [sys.executable, str(ANALYSIS / script), "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("usage: ")
