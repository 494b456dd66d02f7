"""What a worker of a sweep does: load a model, compute its reference, measure run after run.

A worker keeps the model and the reference logits of its last runs, which the next run most often
needs too.  Reference logits that do not fit into its memory go to a file beside the store, which
other workers on the machine share.  Its digest is checked when a worker first reads it.  Where
there is no room for that either, the reference is computed again for every run, window by window.
Logits from a file come as fast as from memory; computing them again makes a run two to three times
as long (analysis/bench_sweep.py).
"""

from __future__ import annotations

import errno
import hashlib
import math
import re
import shutil
import socket
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import launching
from lamp import integrations
from lamp._files import writing
from lamp.evaluation import Clock, Metrics, Text, Totals, numerics, versions
from lamp.integrations import TaskResult, TaskSource
from lamp.machines import Hardware
from lamp.models import Decoder
from lamp.studies.environment import environment, physical_memory
from lamp.studies.runs import Result, now
from lamp.studies.tasks import Checkpoint, Task, described

__all__ = ["Worker", "package_version"]

_NUMBERS: Final = re.compile(r"[\d.]+")


def package_version() -> tuple[str | None, int]:
    """Return the versions that all workers of a sweep must share.

    Returns
    -------
    tuple
        The version of the package, None if it is not installed, and that of its numbers.
    """
    return versions()["fpemu-lamp"], numerics.NUMERICS


class Worker:
    """Measures runs, and keeps what the next one may need.  Threads may share a worker.

    Parameters
    ----------
    memory : int
        Bytes of reference logits to keep in memory.
    spill : Path, optional
        The folder for those that do not fit.
    """

    def __init__(self, memory: int, spill: Path | None = None) -> None:
        self._memory = memory
        self._spill = spill
        self._lock = threading.RLock()
        self._loaded: tuple[str, Decoder] | None = None
        self._prepared: set[str] = set()
        self._references: OrderedDict[str, list[NDArray[Any]]] = OrderedDict()
        self._mapped: dict[str, list[NDArray[Any]]] = {}
        self.report: Callable[[float], None] = lambda share: None
        """Is called with the share of a run that is done."""

    def run(self, task: Task) -> Result:
        """Measure a run.

        Parameters
        ----------
        task : Task
            The run.

        Returns
        -------
        Result
            With an error in place of metrics if the run failed.
        """
        started, start = now(), time.perf_counter()
        place = {**environment(), "threads": launching.thread_count()}
        try:
            metrics, seconds, notes = self._measured(task)
        except Exception as error:  # whatever it is: the other runs go on
            seconds = time.perf_counter() - start
            reason, trace = _reason(error), traceback.format_exc()
            return Result(None, seconds, started, now(), place, reason, trace)
        return Result(metrics, seconds, started, now(), place, notes=tuple(notes))

    def _measured(self, task: Task) -> tuple[Metrics | TaskResult, float, list[str]]:
        """Return what a run has found, its seconds, and what the model says of itself."""
        if task.numerics != numerics.NUMERICS:
            raise RuntimeError(
                f"the packages on {socket.gethostname()} are others than the sweep's: install the "
                "same version everywhere"
            )
        if isinstance(task.text, TaskSource):
            return self._done(task, task.text)
        text = _text(task)
        with self._lock:
            model = self._model(task)
            references = self._reference(task, model)
        self._prepare(task, model, text.tokens[:2])
        totals, clock = Totals(), Clock()
        pairs = zip(text.windows, references, strict=True)
        for done, (window, expected) in enumerate(pairs, 1):
            with clock.running():
                totals.add(expected, model.forward(window.tokens), window)
            self.report(done / len(text.windows))
        return totals.metrics(), clock.seconds, model.notes()

    def _done(self, task: Task, source: TaskSource) -> tuple[TaskResult, float, list[str]]:
        """Let the model do a task of the harness, one at a time: it has global seeds."""
        with self._lock:
            model = self._model(task)
            self._prepare(task, model, np.arange(2))
            source.manager()  # imports the harness
            clock = Clock()
            with clock.running():
                found = source.answered(model, progress=self.report)
        if found.digest != task.text_digest:
            raise RuntimeError(
                f"the task {source.task!r} on {socket.gethostname()} is another than the sweep's: "
                "its documents or its definition differ"
            )
        return replace(found, results={}), clock.seconds, model.notes()

    def _prepare(self, task: Task, model: Decoder, tokens: NDArray[np.int64]) -> None:
        """Compile or load the kernels before the clock runs."""
        setting = task.setting
        # Settings that differ in nothing but numbers share their kernels.
        kind = _NUMBERS.sub("", "\n".join([described(setting.hardware), *map(str, setting.lamp)]))
        if kind not in self._prepared:
            model.forward(tokens)
            self._prepared.add(kind)

    def _model(self, task: Task) -> Decoder:
        """Return the model on the task's machine, with the weights of the last run if possible."""
        name, setting = task.checkpoint.digest, task.setting
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # two need not fit into memory
            task.checkpoint.check()
            _check_memory(task.checkpoint)
            loaded = integrations.from_pretrained(task.checkpoint.name, hardware=setting.hardware)
        else:
            loaded = self._loaded[1]
        model = loaded.with_hardware(setting.hardware, setting.lamp)
        self._loaded = name, model
        return model

    # --- reference logits -------------------------------------------------------------------------

    def _reference(self, task: Task, model: Decoder) -> Iterable[NDArray[Any]]:
        """Return the reference logits of each window."""
        if task.reference_key in self._references:
            self._references.move_to_end(task.reference_key)
            return self._references[task.reference_key]
        lengths = [len(window.tokens) for window in _text(task).windows]
        size = sum(lengths) * model.shape.vocabulary * _reference(task).carrier.itemsize
        if size <= self._memory:
            self._make_room(size)
            found = list(self._computed(task, model))
            self._references[task.reference_key] = found
            return found
        if task.reference_key in self._mapped:
            return self._mapped[task.reference_key]
        if self._spill is not None:
            file = self._spill / f"{task.reference_key}.logits"
            try:
                shape = sum(lengths), model.shape.vocabulary
                mapped = _mapped(file, shape, _reference(task).carrier)
                if mapped is None:
                    self._write(file, size, shape, task, model)
                    mapped = _mapped(file, shape, _reference(task).carrier)
            except OSError:
                self._spill = None  # no room, nor will there be
                return self._computed(task, model)
            # It is gone if another sweep of the store has ended by now.
            if mapped is not None:
                self._mapped[task.reference_key] = np.split(mapped, np.cumsum(lengths)[:-1])
                return self._mapped[task.reference_key]
        return self._computed(task, model)

    def _computed(self, task: Task, model: Decoder) -> Iterator[NDArray[Any]]:
        """Compute the reference logits of each window."""
        exact = model.with_hardware(_reference(task))
        for window in _text(task).windows:
            yield exact.forward(window.tokens).logits

    def _make_room(self, size: int) -> None:
        """Drop the reference logits used longest ago until there is room for more."""
        kept = sum(part.nbytes for parts in self._references.values() for part in parts)
        while self._references and kept + size > self._memory:
            _, parts = self._references.popitem(last=False)
            kept -= sum(part.nbytes for part in parts)

    def _write(
        self, file: Path, size: int, shape: tuple[int, int], task: Task, model: Decoder
    ) -> None:
        """Write reference logits to a file, and behind them their SHA-256."""
        file.parent.mkdir(exist_ok=True)
        if shutil.disk_usage(file.parent).free < 2 * size:  # others keep as much
            raise OSError(errno.ENOSPC, "no room for reference logits", str(file))
        digest, carrier = hashlib.sha256(), _reference(task).carrier
        # Not through mapped memory: there a full disk kills the process.
        with writing.opened(file) as opened:
            for logits in self._computed(task, model):
                part = np.ascontiguousarray(logits, carrier).data
                digest.update(part)
                opened.write(part)
            opened.write(_sealed(digest, shape, carrier))


def _text(task: Task) -> Text:
    assert isinstance(task.text, Text)
    return task.text


def _reference(task: Task) -> Hardware:
    assert task.reference is not None
    return task.reference


def _check_memory(checkpoint: Checkpoint) -> None:
    """Raise a MemoryError if the files alone do not fit: the system kills a process that tries."""
    size, memory = sum(size for size, _ in checkpoint.status), physical_memory()
    if memory is not None and size > memory:
        raise MemoryError(
            f"the files of {checkpoint.name} have {size / 2**30:.1f} GiB, and there are "
            f"{memory / 2**30:.1f} GiB of memory"
        )


def _sealed(digest: Any, shape: tuple[int, int], carrier: np.dtype[Any]) -> bytes:
    """Return the digest of logits, their shape and their type."""
    digest.update(f"{shape} {carrier.str}".encode())
    return bytes(digest.digest())


def _mapped(file: Path, shape: tuple[int, int], carrier: np.dtype[Any]) -> NDArray[Any] | None:
    """Return the logits in a file, mapped into memory; None if they are not whole or not there.

    A file may be left from a sweep that was killed, by a computer that then crashed.
    """
    size = math.prod(shape) * carrier.itemsize
    try:
        if file.stat().st_size != size + hashlib.sha256().digest_size:
            return None
        # Copy-on-write: kernels are compiled for arrays that can be written to.
        found = np.memmap(file, np.uint8, mode="c")
    except FileNotFoundError:
        return None
    if found[size:].tobytes() != _sealed(hashlib.sha256(found[:size].data), shape, carrier):
        return None
    logits: NDArray[Any] = np.asarray(found[:size]).view(carrier).reshape(shape)
    return logits


def _reason(error: Exception) -> str:
    """Say in a line why a run failed."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"it does not fit into memory{f': {text}' if text else ''}"
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)) and text:
        return text
    return f"{type(error).__name__}{f': {text}' if text else ''}"
