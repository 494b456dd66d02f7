"""A check made in a forked child of this process, which has all that this process has imported."""

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable


def forked(check: Callable[[], bool]) -> int:
    """The process of a child that makes a check; what goes wrong there is on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads is what we test
        child = os.fork()
    if child == 0:
        status = 2
        try:
            status = 0 if check() else 1
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return child


def held(child: int, patience: float = 120.0) -> bool:
    """Whether the check of a child is true; a child that crashes or hangs has none."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def holds_after_fork(check: Callable[[], bool], patience: float = 120.0) -> bool:
    """Whether `check` returns true in a forked child that neither crashes nor hangs."""
    return held(forked(check), patience)
