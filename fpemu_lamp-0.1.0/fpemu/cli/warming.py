"""``warm``: kernels compiled ahead, once for a machine, by calls that need them.

A kernel serves all formats of a carrier, so that two formats stand for all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from typing import Final, NamedTuple

from fpemu._printing import console

__all__ = ["Call", "compile_all", "compiled_beside", "warm"]

_FORMATS: Final = ("bfloat16", "e11m30")  # held in float32 and in float64
_MODES: Final = ("rne", "rtz", "sr")  # the kernel of its own, all others, and the stochastic ones
_SCALED: Final = {
    "blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32": "mxfp8_e4m3",
    "blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16": "nvfp4",
}
"""Units of block-scaled operands, and a format of them."""

_ROWS: Final = (16, 1)  # one row is divided among the cores by columns


class Call(NamedTuple):
    """A call that compiles what it needs.

    Attributes
    ----------
    name : str
        What is compiled, in a word or two.
    run : callable
        The call, which can be pickled.
    """

    name: str
    run: Callable[[], object]


def warm() -> None:
    """Compile the kernels of all operations, once for this machine."""
    compile_all([*_elementwise(), *_products()])


def compile_all(calls: Sequence[Call]) -> None:
    """Make calls in processes on all cores, and show how far they are.

    Parameters
    ----------
    calls : sequence of Call

    Raises
    ------
    Exception
        What a call raises.
    """
    from rich.progress import Progress, TimeElapsedColumn

    from fpemu._kernels.launching import thread_count

    columns = (*Progress.get_default_columns()[:3], TimeElapsedColumn())
    # Processes, for compiling holds the GIL; they wait where two need the same kernel.
    pool = ProcessPoolExecutor(min(thread_count(), len(calls)), get_context("spawn"))
    with Progress(*columns, console=console(stderr=True, markup=True)) as progress, pool:
        task = progress.add_task("compiling kernels", total=len(calls))
        waiting = {pool.submit(call.run): call.name for call in calls}
        try:
            for done in as_completed(waiting):
                done.result()
                progress.update(task, advance=1, description=waiting[done])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        progress.update(task, description="compiled")


@contextlib.contextmanager
def compiled_beside(calls: Sequence[Call], package: str) -> Iterator[None]:
    """Make calls in another process meanwhile, so that their kernels need not be compiled here.

    Nothing is done where the package has compiled kernels before, or there is one core.  The other
    process ends with the block, done or not; what fails there fails here, when it is called.

    Parameters
    ----------
    calls : sequence of Call
        In the order in which they are needed here, but for the first ones.
    package : str
        What the kernels are of.
    """
    from fpemu._kernels.cache_folders import is_to_be_filled
    from fpemu._kernels.launching import thread_count

    if thread_count() == 1 or not is_to_be_filled(package):
        yield
        return
    process = get_context("spawn").Process(target=_run_silently, args=(calls,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _run_silently(calls: Sequence[Call]) -> None:
    """Make calls in a process of its own, which has nothing to say and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        for call in calls:
            call.run()


def _elementwise() -> Iterator[Call]:
    import numpy as np

    from fpemu import arithmetic, functions
    from fpemu.rounding import Rounding, round

    x = np.linspace(0.5, 2.0, 64)
    operands = {"sqrt": (x,), "fma": (x, x, x)}
    for format in _FORMATS:
        for mode in _MODES:
            how = Rounding(mode, seed=0 if mode == "sr" else None)
            yield Call(f"round {mode}", partial(round, x, format, how))
            for name in ("add", "subtract", "multiply", "divide", "sqrt", "fma"):
                operation = getattr(arithmetic, name)
                yield Call(name, partial(operation, *operands.get(name, (x, x)), format, how))
    for name in functions.__all__:
        yield Call(name, partial(getattr(functions, name), x, "bfloat16"))


def _products() -> Iterator[Call]:
    import numpy as np

    from fpemu import accumulators, devices, linalg, scaling
    from fpemu.rounding import Rounding

    units = {unit.name: unit.accumulator for unit in devices.entries()}
    kinds = {
        name: accumulator
        for name, accumulator in units.items()
        if not isinstance(accumulator, accumulators.ScaledCore)
    }
    for format in _FORMATS:
        stochastic = Rounding("sr", seed=0)
        kinds |= {
            f"sums in {format}": accumulators.Sequential(format),
            f"stochastic sums in {format}": accumulators.Sequential(format, stochastic),
            f"blocks in {format}": accumulators.Blocked(format, 16),
            f"trees in {format}": accumulators.Pairwise(format),
            f"exact sums in {format}": accumulators.Exact(format),
        }
    for rows in _ROWS:
        a, b = np.full((rows, 64), 0.5, np.float32), np.full((64, 256), 0.5, np.float32)
        for name, accumulator in kinds.items():
            yield Call(name, partial(linalg.matmul, a, b, accumulator))
        for name, of in _SCALED.items():
            left, right = (scaling.quantize(x, of, axis=axis) for x, axis in ((a, 1), (b, 0)))
            yield Call(name, partial(scaling.matmul, left, right, units[name]))
    for carrier in ("float32", "float64"):  # few rows by a large matrix, which is read as it lies
        large = np.full((256, 256), 0.5, carrier)
        for name, b in (("rows", large), ("columns", large.T)):
            call = partial(linalg.matmul, large[:1], b, accumulators.Sequential(carrier))
            yield Call(f"a row by {name} in {carrier}", call)
