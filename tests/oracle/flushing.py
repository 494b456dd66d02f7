"""Calls made in a process whose floating-point unit flushes subnormals, or rounds upward."""

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.oracle.forking import holds_after_fork

# glibc's fenv_t holds the control register at a known offset: MXCSR on x86-64 (bits FTZ and DAZ),
# FPCR on AArch64 (bit FZ).
_CONTROL: Final = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}

_SETTERS: Final = {
    "torch": """
import torch
torch.set_flush_denormal(True)
""",
    "libm": """
import ctypes
libm = ctypes.CDLL("libm.so.6")
environment = ctypes.create_string_buffer(256)
libm.fegetenv(environment)
control = ctypes.c_uint32.from_buffer(environment, {offset})
control.value |= {bits}
libm.fesetenv(environment)
""",
    "upward": """
import ctypes
ctypes.CDLL("libm.so.6").fesetround({upward})
""",
}
UPWARD: Final = {"x86_64": 0x800, "aarch64": 0x400000}  # glibc's FE_UPWARD

_SCRIPT: Final = """
import sys
import numpy as np

inputs = dict(np.load(sys.argv[1]))

{work}

if {warm}:
    work(inputs)
{setter}
# No conversion between float types from here on: that would flush too.
tiny, one = np.full(64, 1, np.int32).view(np.float32), np.ones(64, np.float32)
small = np.full(64, 2.0**-30, np.float32)


def is_on():
    return (one + small > one).all() if {upward} else not (tiny * one).any()


assert is_on(), "the environment was not changed"
results = work(inputs)
assert is_on(), "the caller's environment was changed back"
np.savez(sys.argv[2], **results)
"""


def under_flush_to_zero(
    setter: str, warm: bool, work: str, inputs: dict[str, NDArray[np.floating]], directory: Path
) -> dict[str, NDArray[np.floating]]:
    """What the function ``work(inputs)``, given as source, returns while flush to zero is on.

    With `warm` it is called once before the switch, so that threads and kernels exist already: in a
    child of this process, which need import nothing.  Else the process is a fresh one.
    """
    offset, bits = 0, 0
    if setter == "torch":
        if importlib.util.find_spec("torch") is None:
            pytest.skip("torch, whose set_flush_denormal is tested against, is not installed")
    elif sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        offset, bits = _CONTROL.get(platform.machine(), (0, 0))
    upward = UPWARD.get(platform.machine(), 0) if setter == "upward" else 0
    if (setter == "libm" and not bits) or (setter == "upward" and not upward):
        pytest.skip("the layout of this platform's fenv_t is not known")
    source, result = directory / "inputs.npz", directory / "result.npz"
    np.savez(source, **inputs)
    calls = _SETTERS[setter].format(offset=offset, bits=bits, upward=upward)
    script = _SCRIPT.format(work=work, warm=warm, setter=calls, upward=upward)
    arguments = [str(source), str(result)]
    if warm and hasattr(os, "fork"):
        assert holds_after_fork(lambda: _ran(script, arguments))
    else:
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    return dict(np.load(result))


def _ran(script: str, arguments: list[str]) -> bool:
    sys.argv = ["-c", *arguments]
    exec(script, {})
    return True
