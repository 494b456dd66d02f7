"""The line that says that kernels are being compiled."""

import io
import os
import pty
import subprocess
import sys

from fpemu._kernels import caching

LINE = "compiling kernels once for this machine ...\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def watched(monkeypatch):
    """Standard error as a terminal; within a test, as pytest replaces it between its phases."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def compiled(notice, *, wait):
    """A kernel within a kernel."""
    notice.begin()
    timer = notice._timer
    notice.begin()
    notice.end()
    if wait:
        timer.join()
    notice.end()


def test_what_takes_long_is_said_once(monkeypatch):
    terminal = watched(monkeypatch)
    notice = caching._Notice(0.0)
    compiled(notice, wait=True)
    notice.begin()
    assert notice._timer is None
    assert terminal.getvalue() == LINE


def test_many_short_ones_add_up(monkeypatch):
    terminal = watched(monkeypatch)
    notice = caching._Notice(1000.0)
    now = iter([0.0, 600.0, 600.0, 1200.0, 1200.0])
    monkeypatch.setattr(caching.time, "monotonic", lambda: next(now))
    for _ in range(2):
        compiled(notice, wait=False)
    assert terminal.getvalue() == ""
    notice.begin()
    notice._timer.join()  # at once: the patience is used up
    assert terminal.getvalue() == LINE


def test_nothing_is_written_where_nobody_reads_it(monkeypatch):
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        compiled(caching._Notice(0.0), wait=True)
        assert stream is None or stream.getvalue() == ""


def test_it_is_said_on_a_terminal_with_an_empty_cache_alone(tmp_path):
    program = (
        "from fpemu._kernels import caching; caching._notice = caching._Notice(0.0)\n"
        "import fpemu; fpemu.encode(1.0, 'bfloat16')"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = []
    for _ in range(2):
        ours, theirs = pty.openpty()
        subprocess.run([sys.executable, "-c", program], stderr=theirs, env=environment, check=True)
        os.close(theirs)
        try:
            found.append(os.read(ours, 1000).decode().replace("\r", ""))
        except OSError:  # nothing was written, and the other end is closed
            found.append("")
        os.close(ours)
    assert found == [LINE, ""]
