"""``fpemu warm``, and compiling ahead in processes."""

import multiprocessing
import subprocess
import sys
import time
from functools import partial

import pytest

from fpemu import devices
from fpemu._kernels import cache_folders, launching
from fpemu.cli import application, warming

AGAIN = """
from numba.core import event
from fpemu.cli import warming

class Compilations(event.Listener):
    def on_start(self, each):
        function = each.data["dispatcher"].py_func
        if function.__module__.startswith("fpemu"):
            print(function.__module__, function.__qualname__, call.name)

    def on_end(self, each):
        pass

calls = [*warming._elementwise(), *warming._products()]
event.register("numba:compile", Compilations())
for call in calls:
    call.run()
"""


def test_every_call_runs_and_every_unit_is_among_them():
    calls = [*warming._elementwise(), *warming._products()]
    for call in calls:
        call.run()
    scaled = [name for name in devices.list() if name not in {call.name for call in calls}]
    assert all("e8m0" in name or "ue4m3" in name for name in scaled)
    assert {"round sr", "fma", "softmax", *warming._SCALED} <= {call.name for call in calls}
    # What they compiled is kept: another process compiles nothing.
    again = subprocess.run(
        [sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True
    )
    assert again.stdout == ""


def leave(path):
    path.write_text("done")


def test_calls_are_made_in_processes(monkeypatch, capsys, tmp_path):
    ours = [warming.Call(name, partial(leave, tmp_path / name)) for name in ("one", "two")]
    monkeypatch.setattr(warming, "_elementwise", lambda: ours[:1])
    monkeypatch.setattr(warming, "_products", lambda: ours[1:])
    with pytest.raises(SystemExit) as end:
        application.main(["warm"])
    assert not end.value.code
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    assert "compiled" in capsys.readouterr().err


def fail():
    raise OSError("disk full")


def test_what_fails_in_a_process_is_said(monkeypatch, capsys):
    monkeypatch.setattr(warming, "_elementwise", lambda: [warming.Call("no", fail)])
    monkeypatch.setattr(warming, "_products", list)
    with pytest.raises(SystemExit) as end:
        application.main(["warm"])
    assert end.value.code == 1
    assert "fpemu: disk full" in capsys.readouterr().err


def test_calls_run_beside_a_block_and_end_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(cache_folders, "is_to_be_filled", lambda package: package == "fpemu")
    monkeypatch.setattr(launching, "thread_count", lambda: 2)
    path = tmp_path / "one"
    calls = [
        warming.Call("one", partial(leave, path)),
        warming.Call("two", partial(time.sleep, 1e6)),
    ]
    others = set(multiprocessing.active_children())  # of other tests
    with warming.compiled_beside(calls, "lamp"):
        assert set(multiprocessing.active_children()) <= others  # its cache is filled
    with warming.compiled_beside(calls, "fpemu"):
        while not path.exists():
            assert not set(multiprocessing.active_children()) <= others
            time.sleep(0.01)
    assert set(multiprocessing.active_children()) <= others


def test_one_core_has_no_time_for_calls_beside(monkeypatch, tmp_path):
    monkeypatch.setattr(cache_folders, "is_to_be_filled", lambda package: True)
    monkeypatch.setattr(launching, "thread_count", lambda: 1)
    others = set(multiprocessing.active_children())
    with warming.compiled_beside([warming.Call("one", partial(leave, tmp_path / "one"))], "fpemu"):
        assert set(multiprocessing.active_children()) <= others


def test_a_cache_is_to_be_filled_until_it_has_a_kernel(monkeypatch, tmp_path):
    monkeypatch.setattr(cache_folders, "folder_of", lambda stamp: tmp_path)
    assert cache_folders.is_to_be_filled("fpemu")
    (tmp_path / "kernel.nbc").touch()
    assert not cache_folders.is_to_be_filled("fpemu")
    monkeypatch.setattr(cache_folders, "folder_of", lambda stamp: None)  # cannot be written
    assert not cache_folders.is_to_be_filled("fpemu")
