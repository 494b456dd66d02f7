"""What a first call costs: seconds of CPU in an empty cache of kernels, and of imports.

Each line is a process of its own.  The second column is the same call in the process after it,
whose kernels are in the cache by then.

    python analysis/bench_compile.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

CALLS = {
    "round": "fpemu.round(x, 'bfloat16')",
    "round, rtz": "fpemu.round(x, 'bfloat16', 'rtz')",
    "add": "fpemu.add(x, x, 'bfloat16')",
    "matmul Sequential": "fpemu.matmul(m, m, fpemu.Sequential('e8m7'))",
    "matmul Blocked": "fpemu.matmul(m, m, fpemu.Blocked('e8m7', 8))",
    "matmul Pairwise": "fpemu.matmul(m, m, fpemu.Pairwise('e8m7'))",
    "matmul Exact": "fpemu.matmul(m * 0.1, m, fpemu.Exact('float32'))",
    "matmul hopper": "fpemu.matmul(m, m, fpemu.devices.get('hopper.wgmma.e4m3'))",
    "exp": "fpemu.functions.exp(x, 'bfloat16')",
    "softmax": "fpemu.functions.softmax(x, 'bfloat16')",
    "first logits": "model.logits(model.encode('Now is the winter'))",
}
SETUP = """
import time
begun = time.process_time()
import numpy as np
import fpemu
fpemu.matmul, fpemu.functions, fpemu.devices  # names are imported when first used
x = np.linspace(-1, 1, 64, dtype=np.float32)
m = np.ones((8, 8), np.float32)
"""
MODEL = """
import lamp
model = lamp.from_pretrained("embedded", hardware="scores-ps4")
"""
IMPORTS = {
    "import fpemu": [sys.executable, "-c", "import fpemu"],
    "import lamp": [sys.executable, "-c", "import lamp"],
    "fpemu formats": [sys.executable, "-m", "fpemu", "formats"],
    "lamp --help": [sys.executable, "-m", "lamp", "--help"],
}


def seconds_of_call(call: str, cache: str) -> float:
    """The CPU time of a call alone, in a new process."""
    lines = [
        SETUP,
        MODEL if "model" in call else "",
        "begun = time.process_time()",
        call,
        "print(time.process_time() - begun)",
    ]
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(ended.stdout)


def seconds_of_process(command: list[str]) -> float:
    """The CPU time of a whole process."""
    before = os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return (
        after.children_user - before.children_user + after.children_system - before.children_system
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="processes of which the least counts")
    repeat = parser.parse_args().repeat
    print(f"{'call':20} {'empty cache':>12} {'cached':>8}")
    for name, call in CALLS.items():
        first, second = [], []
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as cache:
                first.append(seconds_of_call(call, cache))
                second.append(seconds_of_call(call, cache))
        print(f"{name:20} {min(first):10.2f} s {min(second):6.2f} s", flush=True)
    for name, command in IMPORTS.items():
        seconds = min(seconds_of_process(command) for _ in range(repeat + 2))
        print(f"{name:20} {seconds:10.2f} s", flush=True)


if __name__ == "__main__":
    main()
