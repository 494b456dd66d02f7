"""Sweeps that are killed at random moments; a program of its own, as it forks.

``python -m tests.lamp.killed_sweeps FOLDER SEED KILLS`` sweeps a study into one store after the
other, each until it is complete, with KILLS kills in all, and prints how many kills there were and
after how many of every other one some runs were done and some were not.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import lamp
from lamp.studies import Store
from tests.lamp import tiny_studies

UNDISTURBED = "undisturbed.sqlite"


def study(folder):
    """Eight short runs."""
    return tiny_studies.study(
        folder,
        texts=[{"source": "text.txt", "tokens": 6}],
        hardware=["fp32", "scores-ps{mu}"],
        lamp=["none", "softmax:normwise:{tau}"],
        grid={"mu": [1, 2, 3], "tau": [1.2]},
    )


def _is_complete_when_killed_after(seconds: float, folder: Path, store: Path) -> bool:
    child = os.fork()
    if child == 0:
        lamp.sweep(study(folder), store=store)
        os._exit(0)
    end = time.monotonic() + seconds
    ended, status = 0, 0
    while not ended and time.monotonic() < end:
        time.sleep(0.001)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


def _is_in_the_middle(store: Path) -> bool:
    if not store.is_file() or not store.stat().st_size:
        return False
    with Store.open(store, write=True) as opened:
        return 0 < len(opened.finished()) < 8


def main() -> None:
    folder, generator, kills = Path(sys.argv[1]), np.random.default_rng(int(sys.argv[2])), 0
    lamp.sweep(study(folder), store=folder / UNDISTURBED)
    start = time.perf_counter()
    lamp.sweep(study(folder), store=folder / "second.sqlite")
    duration = time.perf_counter() - start
    middle = number = 0
    while kills < int(sys.argv[3]):
        store, longest = folder / f"killed-{number}.sqlite", duration
        while not _is_complete_when_killed_after(generator.uniform(0, longest), folder, store):
            kills += 1
            assert kills < 10 * int(sys.argv[3]), f"{store} does not get complete"
            longest += duration / 20  # the machine may have become slower
            if kills % 2:  # a look at a store repairs it, which is for the next sweep to do, too
                middle += _is_in_the_middle(store)
        number += 1
    print(kills, middle)


if __name__ == "__main__":
    main()
