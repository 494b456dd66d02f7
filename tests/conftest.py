"""Settings that hold for every test: no deadlines, and the same examples in every run."""

import gc
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of the whole repository.

    They are few and take long: at the end, one worker would have to wait for the other.
    """
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent != here)


def pytest_collection_finish() -> None:
    """Leave what is there by now, most of it for ever, out of all collections of garbage."""
    gc.collect()
    gc.freeze()
