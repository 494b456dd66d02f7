"""Tasks: what a worker needs to measure a run, and the key that it gives the run."""

from __future__ import annotations

import functools
import hashlib
import json
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from lamp.evaluation import Setting, Text
from lamp.integrations import TaskSource
from lamp.lookahead import LAMP
from lamp.machines import Hardware, definitions
from lamp.machines import files as machine_files
from lamp.models import checkpoints
from lamp.studies.store import last_change

__all__ = ["Checkpoint", "Task", "described", "file_digest", "windows_digest"]

_MOST_REMEMBERED: Final = 2**17
_Object = TypeVar("_Object")


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model and their digest.

    Parameters
    ----------
    name : str
        The model, as :func:`lamp.from_pretrained` takes it.
    digest : str
        The SHA-256 of configuration and weights.
    status : tuple of (int, int)
        Size and time of last change of each file where the digest was taken.
    """

    name: str
    digest: str
    status: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, name: str, digests: Callable[[Path], str]) -> Checkpoint:
        """Return the checkpoint of a model.

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
        """Raise a ValueError if the name stands for another model on this machine.

        Files whose size and time of last change are not those of the digest are read again.
        """
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
    """Return the SHA-256 of a file.

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
    """A run with everything that its numbers depend on.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model.
    text : lamp.evaluation.Text, TaskSource or None
        The text, or the task of lm-evaluation-harness in place of one; None on the way to a worker
        that has it from elsewhere.
    text_digest : str
        The digest of its windows, as :func:`windows_digest` gives it, or that of the task, as
        :meth:`TaskSource.digest` does.
    setting : lamp.evaluation.Setting
        The machine and its rules.
    reference : Hardware or None
        The machine of the reference; None for a task of the harness, whose reference is a run of
        its own.
    numerics : int
        The numerics version, :data:`lamp.evaluation.numerics.NUMERICS`.
    """

    checkpoint: Checkpoint
    text: Text | TaskSource | None
    text_digest: str
    setting: Setting
    reference: Hardware | None
    numerics: int

    @property
    def configuration(self) -> str:
        """All of it as JSON, without the names of machine, model and text."""
        parts = {
            "checkpoint": json.dumps(self.checkpoint.digest),
            "hardware": _described_json(self.setting.hardware),
            "lamp": _rules_json(self.setting.lamp),
            "numerics": json.dumps(self.numerics),
        }
        if self.reference is None:
            parts["task"] = json.dumps(self.text_digest)
        else:
            parts["reference"] = _described_json(self.reference)
            parts["text"] = json.dumps(self.text_digest)
        machines = filter(None, (self.setting.hardware, self.reference))
        own = [*filter(None, map(_definitions_json, machines))]
        if own:
            parts["definitions"] = f"[{','.join(own)}]"
        return "{" + ",".join(f'"{name}":{part}' for name, part in parts.items()) + "}"

    @functools.cached_property
    def key(self) -> str:
        """The key of the run: the SHA-256 of the configuration."""
        return hashlib.sha256(self.configuration.encode()).hexdigest()

    @functools.cached_property
    def reference_key(self) -> str:
        """The SHA-256 of everything that the reference's logits depend on.

        For a task of the harness it leaves the machine out, and is the `subject` of the run.
        """
        parts = str(self.numerics), self.checkpoint.digest, self.text_digest
        if self.reference is None:
            return _joined(parts)
        own = _definitions_json(self.reference)
        return _joined([*parts, described(self.reference), *([own] if own else [])])


def _remembering(function: Callable[[_Object], str]) -> Callable[[_Object], str]:
    """Return a function that remembers results by the identity of objects.

    Points of a grid share their machines, which take longer to compare than to name.
    """
    known: dict[int, tuple[_Object, str]] = {}

    @functools.wraps(function)
    def remembering(value: _Object) -> str:
        found = known.get(id(value))
        if found is None or found[0] is not value:
            if len(known) >= _MOST_REMEMBERED:
                known.clear()
            known[id(value)] = found = value, function(value)
        return found[1]

    return remembering


@_remembering
def described(machine: Hardware) -> str:
    """Return a machine without its name as the text of a TOML file.

    Parameters
    ----------
    machine : Hardware

    Returns
    -------
    str
    """
    return machine_files.dumps(replace(machine, name=""))


@_remembering
def _described_json(machine: Hardware) -> str:
    return json.dumps(described(machine))


@_remembering
def _definitions_json(machine: Hardware) -> str:
    """The code of a user's accumulators, or nothing."""
    own = definitions(machine)
    return json.dumps(own, separators=(",", ":")) if own else ""


@_remembering
def _rules_json(rules: tuple[LAMP, ...]) -> str:
    return json.dumps(sorted(map(str, rules)), separators=(",", ":"))


def windows_digest(text: Text) -> str:
    """Return the SHA-256 of the windows of a text: tokens, and what they are compared at.

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
