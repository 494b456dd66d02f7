"""A check made in a forked child of this process."""

import os
import signal
import time
import warnings
from collections.abc import Callable


def holds_after_fork(check: Callable[[], bool], patience: float = 120.0) -> bool:
    """Whether `check` returns true in a forked child that neither crashes nor hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads is what we test
        child = os.fork()
    if child == 0:
        status = 2
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False
