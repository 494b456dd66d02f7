"""The process and the machine that runs are measured in."""

from __future__ import annotations

import functools
import os
import platform
import socket
from pathlib import Path
from typing import Any, Final

from lamp.evaluation import versions

__all__ = ["environment", "physical_memory"]

_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")
_PROCESSORS: Final = Path("/proc/cpuinfo")


@functools.cache
def environment() -> dict[str, Any]:
    """Return what is known of this process and its machine.

    Returns
    -------
    dict
        Plain data.
    """
    return {
        **versions(),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory": physical_memory(),
    }


def _processor() -> str:
    if _PROCESSORS.is_file():
        for line in _PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def physical_memory() -> int | None:
    """Return the bytes of memory that this process may have; None if that is unknown.

    Returns
    -------
    int or None
    """
    found = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if _CGROUP.is_file() and (limit := _CGROUP.read_text().strip()).isdigit():
        found.append(int(limit))
    return min(found, default=None)
