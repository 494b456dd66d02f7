"""Results are the same bits on processors without AVX-512, without AVX2, and without an fma.

Every process below compiles its kernels for the processor that it is told of, in a cache of its
own, and compares the golden digests.
"""

import ast
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from llvmlite.binding import get_host_cpu_features

from fpemu._kernels import caching, words
from tests.lamp import golden_results

BASELINE, AVX2 = "x86-64", "haswell"

COMPARE = """
import json, sys
from numba.core.registry import cpu_target
from tests.lamp import golden_results

found = golden_results.differences(*sys.argv[1:])
print(json.dumps([cpu_target.target_context.codegen().magic_tuple()[1], found]))
"""

host = get_host_cpu_features()
needs_x86_64 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="these are processors of x86-64"
)
needs_avx2 = pytest.mark.skipif(
    not (host.get("avx2") and host.get("fma") and host.get("bmi2")),
    reason="this processor has no AVX2",
)


def differences_on(processor, folder, *names):
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(folder),
    }
    command = [sys.executable, "-c", COMPARE, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compiled_for, found = json.loads(done.stdout)
    assert compiled_for == processor
    return found


# Each compiles all that it needs for another processor.
@needs_x86_64
@pytest.mark.long
@pytest.mark.parametrize("processor", [BASELINE, pytest.param(AVX2, marks=needs_avx2)])
def test_all_results_are_the_same_on_another_processor(processor, tmp_path):
    assert differences_on(processor, tmp_path) == {}


def test_a_result_that_differs_is_told(monkeypatch):
    monkeypatch.setattr(golden_results, "digest", lambda result: "another")
    assert golden_results.differences("round rne") == {"round rne": "another"}


def test_nothing_allows_the_compiler_to_reorder_or_contract():
    """No keyword of Numba and no flag of LLVM's instructions does."""
    root = Path(caching.__file__).parents[2]
    files = sorted(root.glob("*/_kernels/*.py"))
    assert len(files) > 30
    found = [
        f"{path.name}:{node.value.lineno}: {node.arg}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg in ("fastmath", "flags")
    ]
    assert found == []


@needs_x86_64
@needs_avx2
def test_a_product_and_a_sum_stay_two_operations():
    def separate(a, b, c):
        return a * b + c

    def fused(a, b, c):
        return words.fused_multiply_add(a, b, c)

    for function, instruction in ((separate, False), (fused, True)):
        compiled = caching._compiled(no_cfunc_wrapper=True)(function)
        compiled.compile((numba.float64,) * 3)
        (assembly,) = compiled.inspect_asm().values()
        assert ("vfmadd" in assembly) == instruction, function.__name__
