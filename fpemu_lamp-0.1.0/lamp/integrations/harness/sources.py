"""Tasks of lm-evaluation-harness: where they are, how much of them is asked, and asking it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lamp.integrations.harness.scores import TaskResult, scores_of
from lamp.models import Decoder

__all__ = ["TaskSource", "harness"]

Progress = bool | Callable[[float], None]
_RESAMPLED: Final = 1000  # times, for the errors of scores that are no means
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")  # of a function, another in each process


def harness(name: str) -> Any:
    """Import a module that needs lm-evaluation-harness.

    Parameters
    ----------
    name : str

    Returns
    -------
    module

    Raises
    ------
    ModuleNotFoundError
        If the harness is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "lm_eval":
            raise
        raise ModuleNotFoundError(
            "tasks need the package lm-eval, which is not installed: pip install 'fpemu-lamp[eval]'"
        ) from error


@dataclass(frozen=True)
class TaskSource:
    """A task of lm-evaluation-harness, and how much of it is asked in which way.

    Parameters
    ----------
    task : str
        A task or a group of tasks, by its name in the harness or in a file of `folder`.
    folder : str or path-like, optional
        A folder with tasks of your own: YAML files as the harness has them.
    limit : int, optional
        Ask the first documents only.
    shots : int, optional
        The number of examples in front of each question; by default the task's own.
    chat : bool
        Whether questions are put into the model's chat template.
    name : str
        The label of the task; by default its name and what of the rest is not the default.

    Raises
    ------
    ValueError
        If a field is out of range.

    Examples
    --------
    >>> from lamp.integrations import TaskSource
    >>> TaskSource("arc_easy", limit=200, shots=5).label
    'arc_easy, first 200, 5 shots'
    """

    task: str
    folder: str | os.PathLike[str] | None = None
    limit: int | None = None
    shots: int | None = None
    chat: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        for field, least in (("limit", 1), ("shots", 0)):
            value = getattr(self, field)
            if value is not None and (isinstance(value, bool) or not _fits(value, least)):
                raise ValueError(f"{field} must be an integer from {least}, not {value!r}")
        for field in ("task", "name"):
            value = getattr(self, field)
            if not isinstance(value, str) or not (value or field == "name"):
                raise ValueError(f"{field} must be a name, not {value!r}")
        if not isinstance(self.chat, bool):
            raise ValueError(f"chat must be true or false, not {self.chat!r}")
        if self.folder is not None:
            if not isinstance(self.folder, (str, os.PathLike)):
                raise ValueError(f"folder must be a path, not {self.folder!r}")
            object.__setattr__(self, "folder", os.fspath(self.folder))

    @property
    def label(self) -> str:
        """The name of the task for people."""
        parts = [self.task]
        parts += [] if self.limit is None else [f"first {self.limit}"]
        parts += [] if self.shots is None else [f"{self.shots} shots"]
        return self.name or ", ".join([*parts, *(["chat"] if self.chat else [])])

    def inside(self, folder: Path) -> TaskSource:
        """Return the source with its own folder relative to another.

        Parameters
        ----------
        folder : Path

        Returns
        -------
        TaskSource
        """
        return self if self.folder is None else replace(self, folder=str(folder / self.folder))

    def digest(self, model: Decoder) -> str:
        """Return the SHA-256 of all that is asked of a model.

        It depends on the version of the harness, the definition of the task and its documents, and
        on the tokens and options of each request.

        Parameters
        ----------
        model : Decoder
            It needs no weights: what :func:`lamp.integrations.reader` gives will do.

        Returns
        -------
        str

        Raises
        ------
        ModuleNotFoundError
            If lm-evaluation-harness is not installed.
        ValueError
            If there is no such task or it cannot be read, or the model is no decoder.
        FileNotFoundError
            If there is no such folder.
        """
        manager = self.manager()
        try:
            return self._ask("Listener", model, manager, 0).digest
        except Exception as error:  # of the harness, a data set, or code of a task
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"the task {self.task!r} cannot be asked: {reason}") from error

    def answered(self, model: Decoder, *, progress: Progress = True) -> TaskResult:
        """Let a model do the task on its machine.

        Parameters
        ----------
        model : Decoder
        progress : bool or callable
            Whether a bar is shown on a terminal; or a function to call with the share that is done.

        Returns
        -------
        TaskResult

        Raises
        ------
        ModuleNotFoundError, ValueError, FileNotFoundError
            As for :meth:`digest`.
        """
        return self._ask("LanguageModel", model, self.manager(), _RESAMPLED, progress)

    def _ask(
        self, kind: str, model: Decoder, manager: Any, resampled: int, progress: Progress = False
    ) -> TaskResult:
        module = harness("lamp.integrations.harness.language_model")
        asked = getattr(module, kind)(model, progress=progress)
        # What the harness prints is no result.
        with contextlib.redirect_stdout(sys.stderr), _quiet(progress):
            found = harness("lm_eval").simple_evaluate(
                asked,
                tasks=[self.task],
                task_manager=manager,
                limit=self.limit,
                num_fewshot=self.shots,
                apply_chat_template=self.chat,
                bootstrap_iters=resampled,
                log_samples=True,
            )
        scores = tuple(scores_of(found))
        return TaskResult(scores, asked.not_finite, _digest(found, asked.asked), found)

    def manager(self) -> Any:
        """Return the harness's manager of tasks, which knows this one.

        Returns
        -------
        lm_eval.tasks.TaskManager
            That of the harness's own tasks, unless `folder` has the task.

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If there is no such task.
        """
        if self.folder is not None:
            if not os.path.isdir(self.folder):
                raise FileNotFoundError(f"no folder of tasks {os.fspath(self.folder)!r}")
            make = harness("lm_eval.tasks").TaskManager
            manager = make(include_path=os.fspath(self.folder), include_defaults=False)
            if self.task in manager.all_tasks:
                return manager
        manager = _own_tasks()
        if self.task not in manager.all_tasks:
            place = "" if self.folder is None else f" nor in {os.fspath(self.folder)}"
            raise ValueError(f"no task {self.task!r} in lm-evaluation-harness{place}")
        return manager


@functools.cache
def _own_tasks() -> Any:
    """The harness's own tasks, in thousands of files."""
    return harness("lm_eval.tasks").TaskManager()


@contextlib.contextmanager
def _quiet(progress: Progress) -> Iterator[None]:
    """Let the harness show bars on terminals alone, or none, and not list what is installed.

    The list takes seconds for each task.
    """
    bars: Any = importlib.import_module("tqdm")
    bar = functools.partial(bars.tqdm, disable=None if progress is True else True)
    replaced = {
        (bars, "tqdm"): bar,
        (harness("lm_eval.api.task"), "tqdm"): bar,
        (harness("lm_eval.evaluator"), "add_env_info"): lambda *_: None,
        (harness("lm_eval.evaluator"), "get_git_commit_hash"): lambda *_: None,
    }
    before = {place: getattr(*place) for place in replaced}
    try:
        for (module, name), other in replaced.items():
            setattr(module, name, other)
        yield
    finally:
        for (module, name), other in before.items():
            setattr(module, name, other)


def _fits(value: Any, least: int) -> bool:
    return isinstance(value, int) and value >= least


def _digest(found: Mapping[str, Any], requests: str) -> str:
    """The SHA-256 of what the harness says of tasks and documents, and of what it asked."""
    digest = hashlib.sha256(f"{importlib.metadata.version('lm_eval')} {requests}\n".encode())
    for part in (found["configs"], found["versions"]):
        text = json.dumps(part, sort_keys=True, default=str)
        digest.update(_ADDRESS.sub("", text).encode())
    for task, samples in sorted(found["samples"].items()):
        for sample in samples:
            named = [sample[name] for name in ("doc_id", "filter", "doc_hash", "target_hash")]
            digest.update(json.dumps([task, *named]).encode())
    return digest.hexdigest()
