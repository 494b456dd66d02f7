"""Compiled kernels are kept by the contents of `_kernels`; damage to a cache hurts nobody."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.registry import cpu_target

from fpemu._kernels import cache_folders, caching, panels, vectors
from tests.oracle.compiling import LISTENING
from tests.oracle.forking import forked, held

KERNELS = '''
"""A kernel, and what is inlined into it."""
import numpy as np
from fpemu._kernels.caching import inline, kernel

@inline
def step(x):
    return x + {step}

@kernel
def run(x):
    for i in range(x.size):
        x[i] = step(x[i])
'''
PROGRAM = f"""{LISTENING}
import warnings
import numpy as np
import tiny.outside
from tiny._kernels.adding import run

x = np.zeros(3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    run(x)
print(x[0], compiled.count("run"))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder with a package that has a kernel, and with the cache of its first run."""
    folder = tmp_path_factory.mktemp("compiled")
    package = written(folder / "tiny")
    assert ended(started(package, folder / "cache"))[:2] == (1.0, 1)
    return folder


@pytest.fixture
def kept(compiled, tmp_path):
    """Copies of that package and of that cache."""
    shutil.copytree(compiled, tmp_path, dirs_exist_ok=True)
    return tmp_path / "tiny", tmp_path / "cache"


@pytest.fixture
def package(tmp_path):
    """The package, in a folder of its own."""
    return written(tmp_path / "tiny")


def written(folder):
    """A package with a kernel."""
    (folder / "_kernels").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "outside.py").write_text('"""Nothing is compiled here."""\n')
    (folder / "_kernels" / "__init__.py").touch()
    (folder / "_kernels" / "adding.py").write_text(KERNELS.format(step="1.0"))
    return folder


def started(package, cache, **environment):
    """A fresh process that runs the program."""
    paths = [str(package.parent), str(Path(caching.__file__).parents[2])]
    variables = {**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment}
    variables["PYTHONPATH"] = os.pathsep.join(paths)
    # Byte code is told by size and second of its source, and tests edit faster than that.
    variables["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """The result and how often the kernel was compiled; what was said on standard error."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    result, count = out.split()
    return float(result), int(count), err


def ran_at_once(package, cache, processes):
    """The result of each process, and how often it compiled the kernel.

    They are children of this process, which knows nothing of the package: to import Numba into a
    fresh one takes longer than all that is tested.
    """
    if not hasattr(os, "fork"):
        begun = [started(package, cache) for _ in range(processes)]
        return [ended(process)[:2] for process in begun]
    files = [package.parent / f"said {number}" for number in range(processes)]
    children = [forked(lambda file=file: run_to(file, package, cache)) for file in files]
    assert list(map(held, children)) == [True] * processes
    said = [file.read_text().split() for file in files]
    return [(float(result), int(count)) for result, count in said]


def run_to(file, package, cache):
    """Run the program in this process, which is to end then; its output goes to a file."""
    sys.path.insert(0, str(package.parent))
    sys.dont_write_bytecode = True
    numba.config.CACHE_DIR = str(cache)
    with file.open("w") as out, contextlib.redirect_stdout(out):
        exec(PROGRAM, {})
    return True


def ran(package, cache):
    """The same of one process."""
    (only,) = ran_at_once(package, cache, 1)
    return only


def test_kernels_are_compiled_once_and_an_edit_elsewhere_compiles_none(kept, tmp_path):
    package, cache = kept
    assert ran(package, cache) == (1.0, 0)
    (package / "outside.py").write_text('"""Another docstring."""\n')
    (package / "_kernels" / "adding.py").touch()  # as an installation does
    assert ran(package, cache) == (1.0, 0)
    moved = package.rename(package.parent / "elsewhere")
    (tmp_path / "copy").mkdir()
    assert ran(moved.rename(tmp_path / "copy" / "tiny"), cache) == (1.0, 0)


def test_an_edit_of_what_is_inlined_compiles_anew(kept):
    package, cache = kept
    (package / "_kernels" / "adding.py").write_text(KERNELS.format(step="2.0"))
    assert ran(package, cache) == (2.0, 1)


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "cut"])
def test_a_damaged_file_is_compiled_anew(kept, damage):
    package, cache = kept
    (file,) = cache.rglob("tiny*.nbc")
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert ran(package, cache) == (1.0, 1)
    assert ran(package, cache) == (1.0, 0)


def test_without_a_place_to_write_kernels_stay_in_memory_with_one_warning(package, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    result, count, err = ended(started(package, blocked / "cache", PYTHONWARNINGS="default"))
    assert (result, count) == (1.0, 1)
    assert err.count("RuntimeWarning") == 1
    assert "cannot be kept on disk" in err
    assert "NUMBA_CACHE_DIR" in err


def test_processes_that_need_the_same_kernel_compile_it_once(package, tmp_path):
    results = ran_at_once(package, tmp_path / "cache", 3)
    assert {result for result, _ in results} == {1.0}
    assert sum(count for _, count in results) == 1


def test_a_disk_that_is_full_is_no_error(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    files = caching._Files(tmp_path, "kernel")
    monkeypatch.setattr(caching.tempfile, "mkstemp", full)
    monkeypatch.setattr(cache_folders, "_warned", [])
    with pytest.warns(RuntimeWarning, match="No space left"):
        files.save("key", b"payload")
    files.save("key", b"payload")  # once is enough
    assert files.load("key") is None


def test_a_version_is_found_by_all_of_its_key(tmp_path):
    files = caching._Files(tmp_path, "kernel")
    files.save(("a", 1), b"first")
    files.save(("a", 2), b"second")
    assert files.load(("a", 1)) == b"first"
    assert files.load(("a", 2)) == b"second"
    assert files.load(("a", 3)) is None
    files.path(("a", 2)).rename(files.path(("a", 3)))
    assert files.load(("a", 3)) is None  # it says of itself what it is


def test_literal_arguments_leave_only_their_branch_to_be_compiled():
    @caching.inline
    def chosen(x, which):
        if which == 0:
            return x + 1.0
        return x.no_such_attribute

    @numba.njit
    def run(x):
        return chosen(x, 0)

    assert run(np.float64(1.0)) == 2.0


def test_code_is_chosen_by_the_features_that_are_in_the_key_of_a_kernel():
    """A cache may be shared by processors on which tiles have other shapes."""
    _, _, key = cpu_target.target_context.codegen().magic_tuple()
    features = key.split(",")
    for feature in features:
        assert vectors.has_features(feature[1:]) == (feature[:1] == "+")
    assert not vectors.has_features("a feature that no processor has")
    assert ("+avx512f" in features) == panels.MANY_REGISTERS


def test_a_kernel_that_closes_over_a_function_is_refused():
    step, counts = caching.inline(lambda x: x + 1), (2, np.uint64(3))
    steps = (step, 1)

    def counted(x):
        return x + counts[0]

    def stepped(x):
        return step(x)

    def stepped_often(x):
        return steps[0](x)

    for decorator in (caching.kernel, caching.scalar):
        assert decorator(counted)(1) == 3
        with pytest.raises(TypeError, match="stepped closes over step, a _ForKernels"):
            decorator(stepped)
        with pytest.raises(TypeError, match="stepped_often closes over steps, a tuple"):
            decorator(stepped_often)
