"""Compiling: decorators of kernels, and the cache on disk that keeps what they compile.

Every compiled kernel is a file of its own, named by a digest of all that it depends on.  Processes
that need the same kernel at the same time wait for the first to compile it.  A file that cannot be
read is compiled anew; a cache that cannot be written leaves kernels in memory.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import pickle
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import numba
import numpy as np
from numba.core import caching, ir, types
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.registry import CPUDispatcher
from numba.core.untyped_passes import IRProcessing

from fpemu._kernels import cache_folders

try:
    import fcntl
except ImportError:  # Windows: processes then compile the same kernel twice
    fcntl = None  # type: ignore[assignment]

__all__ = ["inline", "kernel", "mapping", "part", "scalar", "specialized"]

if numba.config.DISABLE_JIT:
    raise ImportError(
        "fpemu is made of kernels that Numba compiles, and Numba is told not to: unset "
        "NUMBA_DISABLE_JIT"
    )

_WAIT: Final = 60.0  # seconds for another process to compile a kernel


class _Notice:
    """A line on the terminal, once in a process, when compiling takes long.

    Parameters
    ----------
    patience : float
        Seconds of compiling, in one kernel or in many, before it is said.
    """

    def __init__(self, patience: float) -> None:
        self._left, self._depth, self._begun = patience, 0, 0.0
        self._timer: threading.Timer | None = None
        self._said = False

    def begin(self) -> None:
        """A kernel is compiled from now on, perhaps within another."""
        self._depth += 1
        if self._depth == 1 and not self._said:
            self._begun = time.monotonic()
            self._timer = threading.Timer(max(self._left, 0.0), self._say)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """It is compiled."""
        self._depth -= 1
        if self._depth == 0 and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._left -= time.monotonic() - self._begun

    def _say(self) -> None:
        self._said = True
        stream = sys.stderr
        if stream is not None and (stream.isatty() or "ipykernel" in sys.modules):
            print("compiling kernels once for this machine ...", file=stream, flush=True)


_notice: Final = _Notice(2.0)


# --- the cache ------------------------------------------------------------------------------------


class _Files:
    """The compiled versions of one function, a file each.

    Parameters
    ----------
    folder : Path
        Where they are.
    name : str
        The function's, which begins the names of the files.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name

    def path(self, key: Any) -> Path:
        """The file of a version."""
        digest = hashlib.blake2b(repr(key).encode(), digest_size=12).hexdigest()
        return self._folder / f"{self._name}-{digest}.nbc"

    def load(self, key: Any) -> Any:
        """What was kept, or None."""
        path = self.path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, data = content[:32], content[32:]
        if hashlib.blake2b(data, digest_size=32).digest() != digest:
            return None  # damaged: to be written again
        its_key, payload = pickle.loads(data)
        return payload if its_key == key else None

    def save(self, key: Any, payload: Any) -> None:
        """Keep a version; a disk that is full or read-only is no error."""
        data = caching.dumps((key, payload))
        content = hashlib.blake2b(data, digest_size=32).digest() + data
        try:
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                os.replace(name, self.path(key))
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            cache_folders.warn(f"{self._folder}: {error.strerror or error}")


class _Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]
    """How Numba reduces what it has compiled to data and back; where it is, is for `_Files`."""

    def __init__(self) -> None:
        """Look for no place, as Numba's own would."""


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's cache of a function, in files of our own."""

    def __init__(self, function: Any, folder: Path, name: str) -> None:
        self._name, self._py_func = repr(function), function
        self._impl, self._cache_path = _Implementation(), str(folder)
        self._cache_file: Any = _Files(folder, name)
        self._held: dict[Path, Any] = {}
        self.enable()

    def _load_overload(self, signature: Any, context: Any) -> Any:
        if not self._enabled:
            return None
        key = self._index_key(signature, context.codegen())
        found = self._loaded(key, context)
        if found is None and self._reserve(self._cache_file.path(key)):
            found = self._loaded(key, context)  # another process may have compiled it meanwhile
            if found is not None:
                self._release(self._cache_file.path(key))
        if found is None:
            _notice.begin()
        return found

    def _loaded(self, key: Any, context: Any) -> Any:
        data = self._cache_file.load(key)
        return None if data is None else self._impl.rebuild(context, data)

    def _save_overload(self, signature: Any, compiled: Any) -> None:
        key = self._index_key(signature, compiled.codegen)
        _notice.end()
        try:
            if self._enabled and self._impl.check_cachable(compiled):
                self._cache_file.save(key, self._impl.reduce(compiled))
        finally:
            self._release(self._cache_file.path(key))

    def _reserve(self, path: Path) -> bool:
        """Wait until no other process compiles a version; whether it is worth another look."""
        if fcntl is None:
            return False
        try:
            file = open(path.with_suffix(".lock"), "w")  # noqa: SIM115
        except OSError:
            return False
        # Locks by lockf end with the process and are not inherited by its children.
        deadline = time.monotonic() + _WAIT
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > deadline:
                    file.close()
                    return True
                time.sleep(0.02)
            else:
                self._held[path] = file
                return True

    def _release(self, path: Path) -> None:
        file = self._held.pop(path, None)
        if file is not None:
            file.close()


# --- compiling ------------------------------------------------------------------------------------


@register_pass(mutates_CFG=True, analysis_only=False)
class _LiteralArguments(FunctionPass):  # type: ignore[misc]
    """Make constants of the arguments whose types say their values.

    A kernel hands its compile-time choices on as literal integers and truth values.  Known before
    dead branches are pruned, the branches not taken are neither typed nor compiled.
    """

    _name = "literal_arguments"

    def __init__(self) -> None:
        FunctionPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        """Replace them; whether there are any."""
        literals = {
            index: kind.literal_value
            for index, kind in enumerate(state.args)
            if isinstance(kind, (types.IntegerLiteral, types.BooleanLiteral))
        }
        for block in state.func_ir.blocks.values():
            for statement in block.find_insts(ir.Assign):
                argument = statement.value
                if isinstance(argument, ir.Arg) and argument.index in literals:
                    constant = ir.Const(literals[argument.index], statement.loc)
                    definitions = state.func_ir._definitions[statement.target.name]
                    definitions[definitions.index(argument)] = constant
                    statement.value = constant
        return bool(literals)


class _Compiler(CompilerBase):  # type: ignore[misc]
    """Numba's pipeline with literal arguments as constants."""

    def define_pipelines(self) -> list[Any]:
        """The passes of Numba's own, and ours among the first."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_LiteralArguments, IRProcessing)
        passes.finalize()
        return [passes]


_compiled: Final = functools.partial(
    numba.njit, nogil=True, error_model="numpy", pipeline_class=_Compiler
)


# --- decorators -----------------------------------------------------------------------------------


def _cached(compiled: Any, name: str) -> Any:
    """Keep on disk what a dispatcher compiles."""
    function = compiled.py_func
    folder = cache_folders.folder_of(
        cache_folders.stamp_of(function.__module__, inspect.getfile(function))
    )
    if folder is not None:
        compiled._cache = _Cache(function, folder, name)
    return compiled


def _name_of(function: Any) -> str:
    name = f"{function.__module__}.{function.__qualname__}".replace("<locals>.", "")
    return name.replace("<", "").replace(">", "")


def _require_data(function: Any) -> None:
    """Refuse a function that closes over anything but numbers, strings and tuples of them."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        content = cell.cell_contents
        parts = content if isinstance(content, tuple) else (content,)
        if not all(isinstance(each, int | float | str | np.generic) for each in parts):
            raise TypeError(
                f"{_name_of(function)} closes over {name}, a {type(content).__name__}, "
                "with which it would be compiled in each process: use specialized"
            )


class _ForKernels(CPUDispatcher):  # type: ignore[misc]
    """A function for kernels alone: it is compiled without an entry for Python."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} can be called in compiled code only")


def _for_kernels(function: Any, *, forceinline: bool) -> Any:
    """A function without entries for Python and C, each of which would be one more to compile.

    They would be a third of the compilation time of a kernel.
    """
    options = {
        "nopython": True,
        "nogil": True,
        "forceinline": forceinline,
        "error_model": "numpy",
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    return _ForKernels(py_func=function, targetoptions=options, pipeline_class=_Compiler)


def kernel(function: Any) -> Any:
    """Decorator of array kernels: compiled once a machine, no GIL, no errors from divisions.

    What the function closes over must be numbers and strings, or tuples of them.

    Raises
    ------
    TypeError
        If it is anything else: a function in a closure is a new one in each process, which would
        compile the kernel again.
    """
    _require_data(function)
    return _cached(_compiled(no_cfunc_wrapper=True)(function), _name_of(function))


def part(function: Any) -> Any:
    """Decorator of functions that kernels call: compiled once a machine, for themselves.

    Python cannot call them.  Those that are called by their addresses, see
    :mod:`fpemu._kernels.parts`, give an integer.  What they close over is as for :func:`kernel`.
    """
    _require_data(function)
    return _cached(_for_kernels(function, forceinline=False), _name_of(function))


def scalar(function: Any, *, kept: bool = True) -> Any:
    """Decorator of scalar functions that Python can call, and kernels of users inline.

    Compiled once a machine, and then what they close over is as for :func:`kernel`; or once a
    process, if they are not to be `kept`.
    """
    compiled = numba.njit(forceinline=True, error_model="numpy")(function)
    if not kept:
        return compiled
    _require_data(function)
    return _cached(compiled, _name_of(function))


def inline(function: Any) -> Any:
    """Decorator of scalar kernels: always inlined, so that a constant argument costs nothing.

    Python cannot call the result.
    """
    return _for_kernels(function, forceinline=True)


def specialized(
    template: Any, known_as: str = "", *, is_part: bool = False, **globals_: Any
) -> Any:
    """The kernel that a function becomes when some of its global names stand for others.

    Parameters
    ----------
    template : function
        Not compiled yet.
    known_as : str, optional
        What tells the kernel from others of the template, all of whose global names stand for what
        ``_kernels`` has.
    is_part : bool
        Whether it is to be a part, see :func:`part`.
    **globals_ : callable or bool
        What its global names stand for: functions compiled by Numba, and choices made when it is
        compiled.  If it is known by a name, or all are functions of modules of ``_kernels``, so
        that a name stands for a function and all that it calls, the kernel is compiled once a
        machine, else once a process.

    Returns
    -------
    callable
        The compiled kernel.
    """
    # As global variables: to Numba's cache a function in a closure is a new one in each process.
    variables = {**template.__globals__, **globals_}
    function = FunctionType(template.__code__, variables, template.__name__)
    function.__module__ = template.__module__
    if not known_as:
        function.__module__ = next(iter(globals_.values())).__module__
    if is_part:
        compiled = _for_kernels(function, forceinline=False)
    else:
        compiled = _compiled(no_cfunc_wrapper=True)(function)
    if known_as:
        _cached(compiled, f"{_name_of(template)}-{known_as}")
    elif all(map(_is_known_by_name, globals_.values())):
        _cached(compiled, "-".join(map(_name_of, (template, *globals_.values()))))
    return compiled


def _is_known_by_name(function: Any) -> bool:
    return "._kernels." in function.__module__ and "<locals>" not in function.__qualname__


function_of_one_number: Any = None  # each kernel has its own


def _map_range(start, stop, x, out):  # type: ignore[no-untyped-def]
    given, result = x[start:stop], out[start:stop]  # an index from 0 on is known not to be negative
    for i in range(given.size):
        result[i] = function_of_one_number(np.float64(given[i]))


@functools.cache
def mapping(function: Any) -> Any:
    """The kernel that applies a scalar function to each element of a flat array, in float64.

    Parameters
    ----------
    function : callable
        Compiled by Numba, see :func:`specialized`.

    Returns
    -------
    callable
        ``(start, stop, x, out)``, for :func:`fpemu._kernels.launching.run`.
    """
    return specialized(_map_range, function_of_one_number=function)
