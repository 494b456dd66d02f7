"""The page of a report that the tests of pages read."""

import os
from pathlib import Path

import pytest

from lamp import reports
from tests.lamp import canned_stores


@pytest.fixture(scope="session")
def canned_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of :mod:`tests.lamp.canned_stores`, which is only read.

    Its charts take seconds to draw: it is written once in a run of tests, by the worker that
    needs it first, into the folder that workers share.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    page = folder / "canned.html"
    if not page.exists():
        store = canned_stores.write(tmp_path_factory.mktemp("stores") / "canned.sqlite")
        reports.write_page(reports.read(store), page)  # whole: another worker may look
    return page
