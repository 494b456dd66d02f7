"""Kernels on a number of threads, whatever the machine has and however short they are."""

import contextlib
from collections.abc import Iterator

import pytest

from fpemu._kernels import launching


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Run kernels on so many threads, in pieces as small as they can be cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "thread_count", lambda: count)
        patch.setattr(launching, "_WORTH", 1.0)
        yield
