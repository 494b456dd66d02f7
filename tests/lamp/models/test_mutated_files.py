"""Mutated model files are read or refused by name; `make check-long` tries thousands."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="GGUF files are written by the package gguf")
ANALYSIS = Path(__file__).parents[3] / "analysis"


@pytest.fixture(scope="module")
def fuzzing():
    sys.path.insert(0, str(ANALYSIS))
    try:
        import fuzz_files
    finally:
        sys.path.remove(str(ANALYSIS))
    return fuzz_files


def test_mutated_files_are_read_or_refused_by_name(fuzzing):
    for number in range(48):
        done, wrong = fuzzing.examine(number, seed=1)
        assert not wrong, f"{done}: {wrong}"


def test_what_is_wrong_is_noticed(fuzzing, tmp_path):
    def refuse(error):
        raise error

    assert not fuzzing.judged(tmp_path, lambda: refuse(ValueError(f"{tmp_path} is broken")))
    assert "no file is named" in fuzzing.judged(tmp_path, lambda: refuse(ValueError("broken")))
    assert "KeyError" in fuzzing.judged(tmp_path, lambda: refuse(KeyError(str(tmp_path))))
    assert not fuzzing.judged(tmp_path, lambda: None)
