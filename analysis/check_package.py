"""The package in empty environments: what pip makes of it, and the same numbers everywhere.

    python analysis/check_package.py [PYTHON ...]

Builds the source distribution and, from it, the wheel.  Installs the wheel in an empty environment
of each Python that is named (by default the one that runs this), and of the first also with the
oldest packages that pyproject.toml allows: first fpemu alone, then with the extra lamp.
A PYTHON may be a command that runs one elsewhere, such as "chroot FOLDER python3.15"; it must find
the folder for temporary files, which TMPDIR names, under the same path and be able to write there.
Prints the size of each, the seconds from `pip install` to the first rounded number and those of
`lamp demo`, all kernels to be compiled, and whether the numbers of all demos are equal.  First come
the seconds from `git clone` to the table of `make demo`, downloads included.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
FIRST: Final = "import fpemu; assert fpemu.round(0.3, 'float8_e4m3fn') == 0.3125"
TIMES: Final = {"seconds"}  # columns of the demo that are no numbers of the arithmetic


def call(*command: Any, **options: Any) -> str:
    """What a command prints; an error if it fails."""
    done = subprocess.run(
        list(map(str, command)), text=True, stdout=subprocess.PIPE, check=True, **options
    )
    return done.stdout


def build(folder: Path) -> Path:
    """The wheel, made from the source distribution."""
    venv.create(folder / "builder", with_pip=True)
    python = folder / "builder" / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", "build")
    call(python, "-m", "build", "--outdir", folder / "dist", ROOT)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def oldest() -> str:
    """The oldest versions, as a file of constraints: the last release of each that begins so."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["lamp"], *extras["plot"]]
    return "\n".join(each.replace(">=", "==") + ".*" for each in required if ">=" in each)


def size(folder: Path) -> float:
    """Megabytes of all files."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def numbers(path: Path) -> list[tuple[str, ...]]:
    """The rows of a demo's table but for its times."""
    with path.open(newline="") as file:
        return [
            tuple(value for name, value in row.items() if name not in TIMES)
            for row in csv.DictReader(file)
        ]


def check(
    python: str, wheel: Path, constraints: str, folder: Path
) -> tuple[str, list[tuple[str, ...]]]:
    """What was measured in an empty environment, in words, and the numbers of the demo."""
    *elsewhere, interpreter = shlex.split(python)
    # What runs it elsewhere need not hand on folder and environment.
    inside = (*elsewhere, "env", f"--chdir={folder}", f"NUMBA_CACHE_DIR={folder / 'kernels'}")
    call(*inside, interpreter, "-m", "venv", "venv")
    run = folder / "venv" / "bin"
    packages = folder / "venv" / "lib"
    limits = folder / "constraints.txt"
    limits.write_text(constraints)
    pip = (*inside, run / "python", "-m", "pip", "install", "--quiet", "--constraint", limits)
    empty, start = size(packages), time.perf_counter()
    call(*pip, wheel)
    call(*inside, run / "python", "-c", FIRST)
    first, light = time.perf_counter() - start, size(packages) - empty
    call(*inside, run / "fpemu", "show", "float8_e4m3fn", "0.3")
    refused = subprocess.run([*inside, run / "lamp", "demo"], capture_output=True, text=True)
    assert refused.returncode == 1, "lamp without its extra does not say so"
    assert "pip install 'fpemu-lamp[lamp]'" in refused.stderr, refused.stderr
    call(*pip, f"{wheel}[lamp]")
    whole, start = size(packages) - empty, time.perf_counter()
    call(*inside, run / "lamp", "demo")
    demo = time.perf_counter() - start
    versions = (
        "import platform, numpy, numba; "
        "print(platform.python_version(), numpy.__version__, numba.__version__)"
    )
    found = call(*inside, run / "python", "-c", versions).split()
    names = zip(("Python", "numpy", "numba"), found, strict=True)
    said = (
        f"{', '.join(map(' '.join, names))}: {light:.0f} MB, first number after {first:.0f} s; "
        f"with lamp {whole:.0f} MB, demo {demo:.0f} s"
    )
    return said, numbers(folder / "demo" / "results.csv")


def from_clone(python: str, folder: Path) -> float:
    """Seconds from `git clone` to the demo's table, with an empty cache of kernels."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "kernels")}
    start = time.perf_counter()
    call("git", "clone", "--quiet", ROOT, folder / "clone")
    call("make", "demo", f"PYTHON={python}", cwd=folder / "clone", env=environment)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", default=[sys.executable])
    pythons = parser.parse_args().pythons
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = from_clone(pythons[0], folder)
        print(f"git clone to the demo's table: {seconds:.0f} s", flush=True)
        wheel = build(folder)
        found = []
        cases = [*((python, "") for python in pythons), (pythons[0], oldest())]
        for index, (python, constraints) in enumerate(cases):
            place = folder / str(index)
            place.mkdir()
            said, demo = check(python, wheel, constraints, place)
            print(said, flush=True)
            found.append(demo)
    different = [index for index, demo in enumerate(found) if demo != found[0]]
    if different:
        sys.exit(f"the demo's numbers differ from the first environment's in {different}")
    print(f"{len(found)} demos of {len(found[0])} rows each: equal numbers")


if __name__ == "__main__":
    main()
