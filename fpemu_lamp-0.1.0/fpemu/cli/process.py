"""How a command starts and ends: exit codes, errors in one line, Ctrl-C at any moment.

A command exits with 0, with 2 after bad usage, with 1 after a failure, and with 130 if it is
interrupted.  Errors are one line on standard error; ``--debug`` before the subcommand adds the
traceback of a failure.

This module imports nothing of weight: it is what runs before the imports of a command do.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from fpemu._printing import clean

if TYPE_CHECKING:
    from types import FrameType

    import typer

__all__ = ["INTERRUPTED", "Command", "call", "run"]

Command: TypeAlias = Callable[[], None]

FAILED: Final = 1
INTERRUPTED: Final = 130  # 128 and the number of the signal, as shells have it

_IMPORT_WAIT: Final = 0.02  # seconds after which an import is asked again whether it has ended

# Whose messages speak for themselves; of all others, the type is named, too.
_EXPECTED: Final = (ValueError, TypeError, OSError, ImportError, NotImplementedError)

# The end of a line that the next one goes on from; items of lists begin lines of their own.
_WITHIN_PARAGRAPH: Final = re.compile(r"(?<=\S)\n(?=[^\s-])")


def run(program: str, load: Callable[[], Command], distribution: str = "fpemu-lamp") -> None:
    """Run a command as a process, which Ctrl-C ends without a traceback at any moment.

    While it starts and while it ends, the process exits at once.  In between, `KeyboardInterrupt`
    is raised as usual, but for imports, which are waited for, and :func:`call` handles it.  Once
    Python has called its exit functions, the signal is ignored.

    Parameters
    ----------
    program : str
        The command's name.
    load : callable
        Imports and returns the command.
    distribution : str, optional
        What pip installs to bring all packages that `load` imports.
    """
    usual = signal.getsignal(signal.SIGINT)
    listens = usual is signal.default_int_handler  # in the background, the signal may be ignored

    def interrupt(*_: object) -> NoReturn:
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    def unraisable(error: sys.UnraisableHookArgs) -> None:
        if issubclass(error.exc_type, KeyboardInterrupt):  # raised where Python has to drop it
            interrupt()
        sys.__unraisablehook__(error)

    if listens:
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = unraisable
        # What is registered first runs last.  After it, CPython takes its handlers away and goes
        # on to free memory: all is done and said by then, and a signal must not change the code.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        command = load()
    except ImportError as error:
        _stop(program, f"{error}: pip install '{distribution}' installs all that it needs", FAILED)
    try:
        signal.signal(signal.SIGINT, _interrupt_after_imports if listens else usual)
        try:
            command()
        finally:
            signal.signal(signal.SIGINT, interrupt if listens else usual)
            exec("")  # else CPython ends by the signal if an interrupt has left an exec() before
    except KeyboardInterrupt:
        interrupt()
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        # Not by way of Python's own end, which waits for threads that an interruption may have
        # left without anyone to tell them to end.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(INTERRUPTED)


def _interrupt_after_imports(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, after the imports that it comes in.

    Extension modules that are interrupted while they import others raise exceptions of their own,
    and print the interrupt.
    """
    if _imports(frame):
        again = threading.Timer(_IMPORT_WAIT, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
    else:
        signal.default_int_handler(number, frame)


def _imports(frame: FrameType | None) -> bool:
    """Whether a frame runs on behalf of an import."""
    while frame is not None and frame.f_globals.get("__name__") != "importlib._bootstrap":
        frame = frame.f_back
    return frame is not None


def call(app: typer.Typer, program: str, arguments: Sequence[str] | None = None) -> None:
    """Call an application and raise `SystemExit` with the exit code of the command.

    Parameters
    ----------
    app : typer.Typer
        The application.  Its own options must be flags.
    program : str
        The command's name.
    arguments : sequence of str, optional
        What follows the command's name; by default, the arguments of the process.

    Raises
    ------
    SystemExit
        At the end, always.
    Exception
        What has failed, if ``--debug`` comes before the subcommand.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in itertools.takewhile(lambda word: word.startswith("-"), given)
    _join_lines(app)
    try:
        app(given, prog_name=program)
    except KeyboardInterrupt:
        _stop(program, "interrupted", INTERRUPTED)
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        _stop(program, "interrupted", INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, _EXPECTED):
            _stop(program, _message(error), FAILED)
        # A mistake of ours, or of a library's.
        hint = f"{program} --debug COMMAND ... shows where"
        _stop(program, f"{type(error).__name__}: {error} ({hint})", FAILED)


def _message(error: Exception) -> str:
    """What an error says; one of the system says it without its number, and names the file."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {str(error.filename)!r}"
    return str(error)


def _join_lines(app: typer.Typer) -> None:
    """Let the help on commands break its lines where the terminal ends, not where docstrings do."""
    import inspect

    for command in app.registered_commands:
        text = command.help or inspect.getdoc(command.callback) or ""
        command.help = _WITHIN_PARAGRAPH.sub(" ", text)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _join_lines(group.typer_instance)


def _stop(program: str, message: str, code: int) -> NoReturn:
    print(clean(f"{program}: {message}"), file=sys.stderr)
    raise SystemExit(code) from None
