"""What a worker of a sweep does: load a model, compute its reference, measure run after run.

A worker keeps the model and the reference logits that it had last, as the next run most often wants
them too.  Reference logits that do not fit into its memory go to a file beside the store, if there
is one, which other workers on the machine share; where there is no room for that either, the
reference is computed again for every run, window by window.  From a file they come as fast as from
memory; to compute them again makes a run two to three times as long (analysis/bench_sweep.py).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import socket
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import launching
from lamp.evaluation import Metrics, Totals, numerics, runs
from lamp.machines import Hardware
from lamp.machines import files as machine_files
from lamp.models import Decoder, checkpoints
from lamp.models import loading as models
from lamp.studies.store import Outcome, last_change, now

__all__ = [
    "Checkpoint",
    "Task",
    "Worker",
    "environment",
    "file_digest",
    "package_version",
    "physical_memory",
]

_NUMBERS: Final = re.compile(r"[\d.]+")
_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")
_PROCESSORS: Final = Path("/proc/cpuinfo")


def package_version() -> tuple[str | None, int]:
    """The versions that all workers of a sweep must share.

    Returns
    -------
    tuple
        That of the package, None if it is not installed, and that of its numbers.
    """
    return runs.versions()["fpemu-lamp"], numerics.NUMERICS


@functools.cache
def environment() -> dict[str, Any]:
    """Where this process computes.

    Returns
    -------
    dict
        Plain data.
    """
    return {
        **runs.versions(),
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
    """How many bytes of memory this process may have in all; None if that cannot be told.

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


@dataclass(frozen=True)
class Checkpoint:
    """A model's files and what is in them.

    Parameters
    ----------
    name : str
        As :func:`lamp.from_pretrained` takes it.
    digest : str
        The SHA-256 of configuration and weights.
    status : tuple
        Sizes and times of the files where they were read; on another machine they are read again.
    """

    name: str
    digest: str
    status: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, name: str, digests: Any) -> Checkpoint:
        """The checkpoint of a name.

        Parameters
        ----------
        name : str
            A model's name or where it is.
        digests : callable
            Gives the SHA-256 of a file.

        Returns
        -------
        Checkpoint

        Raises
        ------
        FileNotFoundError
            If there is no such model.
        """
        files = checkpoints.files(checkpoints.directory(name))
        return cls(name, _joined(map(digests, files)), _status(files))

    def check(self) -> None:
        """Raise a ValueError if there is another model here under this name."""
        files = checkpoints.files(checkpoints.directory(self.name))
        if _status(files) == self.status:
            return
        if _joined(map(file_digest, files)) != self.digest:
            raise ValueError(
                f"the model {self.name} on {socket.gethostname()} is another than the sweep's: "
                f"the SHA-256 of its files is not {self.digest}"
            )


def _status(files: Iterable[Path]) -> tuple[tuple[int, int], ...]:
    return tuple((status.st_size, last_change(status)) for status in map(Path.stat, files))


def _joined(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def file_digest(file: Path) -> str:
    """The SHA-256 of a file.

    Parameters
    ----------
    file : Path

    Returns
    -------
    str
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@dataclass(frozen=True)
class Task:
    """A run and everything that determines its numbers.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model.
    text : lamp.evaluation.Text or None
        What it reads; None on its way to a worker that has it from elsewhere.
    text_digest : str
        As :func:`windows_digest` gives it.
    setting : lamp.evaluation.Setting
        The machine and what is recomputed.
    reference : Hardware
        The machine that it is compared with.
    numerics : int
        The version of the numbers, :data:`lamp.evaluation.numerics.NUMERICS`.
    """

    checkpoint: Checkpoint
    text: Any
    text_digest: str
    setting: runs.Setting
    reference: Hardware
    numerics: int

    @property
    def configuration(self) -> str:
        """All of it as JSON; names of machines, models and texts are no part of it."""
        return json.dumps(
            {
                "numerics": self.numerics,
                "checkpoint": self.checkpoint.digest,
                "text": self.text_digest,
                "hardware": described(self.setting.hardware),
                "lamp": sorted(map(str, self.setting.lamp)),
                "reference": described(self.reference),
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @functools.cached_property
    def key(self) -> str:
        """The SHA-256 of the configuration."""
        return hashlib.sha256(self.configuration.encode()).hexdigest()

    @functools.cached_property
    def group(self) -> str:
        """The same for all runs that share their reference logits."""
        parts = (
            str(self.numerics),
            self.checkpoint.digest,
            self.text_digest,
            described(self.reference),
        )
        return _joined(parts)


@functools.lru_cache(maxsize=1024)
def described(machine: Hardware) -> str:
    """A machine in full, without its name.

    Parameters
    ----------
    machine : Hardware

    Returns
    -------
    str
        TOML.
    """
    return machine_files.dumps(replace(machine, name=""))


def windows_digest(text: runs.Text) -> str:
    """The SHA-256 of what a model is fed and compared at.

    Parameters
    ----------
    text : lamp.evaluation.Text

    Returns
    -------
    str
    """
    digest = hashlib.sha256()
    for window in text.windows:
        sizes = np.array([len(window.tokens), window.context])
        for numbers in (sizes, window.tokens, window.following):
            digest.update(numbers.astype("<i8").tobytes())
    return digest.hexdigest()


class Worker:
    """Measures runs; keeps what the next one may want.  Several threads may share one.

    Parameters
    ----------
    memory : int
        Bytes of reference logits to keep.
    spill : Path, optional
        A folder for those that are more.
    """

    def __init__(self, memory: int, spill: Path | None = None) -> None:
        self._memory = memory
        self._spill = spill
        self._lock = threading.RLock()
        self._loaded: tuple[str, Decoder] | None = None
        self._prepared: set[str] = set()
        self._references: OrderedDict[str, list[NDArray[Any]]] = OrderedDict()

    def run(self, task: Task) -> Outcome:
        """Measure a run.

        Parameters
        ----------
        task : Task
            The run.

        Returns
        -------
        Outcome
            Says so if it failed.
        """
        started, start = now(), time.perf_counter()
        place = {**environment(), "threads": launching.thread_count()}
        try:
            metrics, seconds = self._measured(task)
        except Exception as error:  # whatever it is, the other runs go on
            seconds = time.perf_counter() - start
            reason, trace = _reason(error), traceback.format_exc()
            return Outcome(None, seconds, started, now(), place, reason, trace)
        return Outcome(metrics, seconds, started, now(), place)

    def _measured(self, task: Task) -> tuple[Metrics, float]:
        if task.numerics != numerics.NUMERICS:
            raise RuntimeError(
                f"the packages on {socket.gethostname()} are others than the sweep's: install the "
                "same version everywhere"
            )
        with self._lock:
            model = self._model(task)
            references = self._reference(task, model)
        self._prepare(task, model)
        totals, seconds = Totals(), 0.0
        windows = task.text.windows
        for window, expected in zip(windows, references, strict=True):
            start = time.perf_counter()
            totals.add(expected, model.forward(window.tokens), window)
            seconds += time.perf_counter() - start
        return totals.metrics(), seconds

    def _prepare(self, task: Task, model: Decoder) -> None:
        """Have kernels compiled, or loaded, before the clock runs."""
        setting = task.setting
        # Settings that differ in nothing but numbers share their kernels.
        kind = _NUMBERS.sub("", "\n".join([described(setting.hardware), *map(str, setting.lamp)]))
        if kind not in self._prepared:
            model.forward(task.text.tokens[:2])
            self._prepared.add(kind)

    def _model(self, task: Task) -> Decoder:
        """The model on the task's machine; shares the weights of the last one where it can."""
        name, setting = task.checkpoint.digest, task.setting
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # two need not fit into memory
            task.checkpoint.check()
            _check_memory(task.checkpoint)
            loaded = models.from_pretrained(task.checkpoint.name, hardware=setting.hardware)
        else:
            loaded = self._loaded[1]
        model = loaded.with_hardware(setting.hardware, setting.lamp)
        self._loaded = name, model
        return model

    # --- reference logits -------------------------------------------------------------------------

    def _reference(self, task: Task, model: Decoder) -> Iterable[NDArray[Any]]:
        """The reference logits of each window."""
        if task.group in self._references:
            self._references.move_to_end(task.group)
            return self._references[task.group]
        windows, shape = task.text.windows, model.shape
        rows = sum(len(window.tokens) for window in windows)
        size = rows * shape.vocabulary * task.reference.carrier.itemsize
        if size <= self._memory:
            self._make_room(size)
            found = list(self._computed(task, model))
            self._references[task.group] = found
            return found
        if self._spill is not None:
            file = self._spill / f"{task.group}.npy"
            try:
                if not file.is_file():
                    self._write(file, size, rows, task, model)
            except OSError:
                self._spill = None  # no room, nor will there be
                return self._computed(task, model)
            # It is gone if another sweep of the store has ended by now.
            with contextlib.suppress(FileNotFoundError):
                return _cut(file, [len(window.tokens) for window in windows])
        return self._computed(task, model)

    def _computed(self, task: Task, model: Decoder) -> Iterator[NDArray[Any]]:
        exact = model.with_hardware(task.reference)
        for window in task.text.windows:
            yield exact.forward(window.tokens).logits

    def _make_room(self, size: int) -> None:
        kept = sum(part.nbytes for parts in self._references.values() for part in parts)
        while self._references and kept + size > self._memory:
            _, parts = self._references.popitem(last=False)
            kept -= sum(part.nbytes for part in parts)

    def _write(self, file: Path, size: int, rows: int, task: Task, model: Decoder) -> None:
        """Write reference logits to a file, whole or not at all."""
        file.parent.mkdir(exist_ok=True)
        if shutil.disk_usage(file.parent).free < 2 * size:  # as much is left to others
            raise OSError(errno.ENOSPC, "no room for reference logits", str(file))
        partial = file.with_name(f"{file.stem}-{os.getpid()}-{threading.get_ident()}.partial")
        header = {
            "descr": np.lib.format.dtype_to_descr(task.reference.carrier),
            "fortran_order": False,
            "shape": (rows, model.shape.vocabulary),
        }
        try:
            # Not through mapped memory, where a full disk kills the process.
            with partial.open("wb") as opened:
                np.lib.format.write_array_header_1_0(opened, header)
                for logits in self._computed(task, model):
                    opened.write(np.ascontiguousarray(logits).data)
                opened.flush()
                os.fsync(opened.fileno())
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)


def _check_memory(checkpoint: Checkpoint) -> None:
    """Raise a MemoryError if not even what is on the disk fits: the system kills who tries."""
    size, memory = sum(size for size, _ in checkpoint.status), physical_memory()
    if memory is not None and size > memory:
        raise MemoryError(
            f"the files of {checkpoint.name} have {size / 2**30:.1f} GiB, and there are "
            f"{memory / 2**30:.1f} GiB of memory"
        )


def _cut(file: Path, lengths: list[int]) -> list[NDArray[Any]]:
    """The logits of each window in a file, mapped into memory."""
    # Copy-on-write: kernels are compiled for arrays that can be written to.
    everything: NDArray[Any] = np.load(file, mmap_mode="c")
    return np.split(np.asarray(everything), np.cumsum(lengths)[:-1])


def _reason(error: Exception) -> str:
    """Why a run failed, in a line."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"it does not fit into memory{f': {text}' if text else ''}"
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)) and text:
        return text
    return f"{type(error).__name__}{f': {text}' if text else ''}"
