"""Load a model of any family: GPT-2 and Llama natively, others by transformers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamp.lookahead import LAMP
from lamp.machines import HardwareLike
from lamp.models import Decoder, checkpoints, loading

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["from_pretrained", "reader"]


def from_pretrained(
    path_or_name: str | os.PathLike[str] = "embedded",
    *,
    hardware: HardwareLike = "fp32",
    lamp: LAMP | Iterable[LAMP] | None = None,
) -> Decoder:
    """Load a trained model of any family.

    A GPT-2 or a Llama is loaded natively.  Any other model is loaded by transformers, which needs
    the extras ``torch`` and ``transformers``, and put on the machine by :func:`lamp.simulate`.

    Parameters
    ----------
    path_or_name : str or path-like
        A transformers directory, a GGUF file, a name on the Hugging Face hub, ``"embedded"``, or
        the name of a model in a Python package, see :data:`lamp.checkpoints.PACKAGED`.
    hardware : Hardware, str or path-like
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        The rules of look-ahead, at most one per place.

    Returns
    -------
    GPT2, Llama or Simulated

    Raises
    ------
    FileNotFoundError
        If there is no such model, or a file is missing.
    ValueError
        If the model is of a type that is not known, or the checkpoint is broken.
    ModuleNotFoundError
        If transformers or torch is needed and not installed.

    Examples
    --------
    >>> import lamp
    >>> type(lamp.from_pretrained("embedded")).__name__
    'GPT2'
    """
    source = checkpoints.directory(path_or_name)
    if checkpoints.architecture(source) in loading.FAMILIES:
        return loading.from_pretrained(path_or_name, hardware=hardware, lamp=lamp)
    with _named(source) as simulated:
        return simulated.load(source, hardware, lamp)  # type: ignore[no-any-return]


def reader(path_or_name: str | os.PathLike[str] = "embedded") -> Decoder:
    """Load a model without its weights: it knows sizes and tokens, but does not run.

    Parameters
    ----------
    path_or_name : str or path-like
        As in :func:`from_pretrained`.

    Returns
    -------
    GPT2, Llama or Simulated

    Raises
    ------
    FileNotFoundError, ValueError, ModuleNotFoundError
        As in :func:`from_pretrained`.
    """
    source = checkpoints.directory(path_or_name)
    if checkpoints.architecture(source) in loading.FAMILIES:
        return loading.reader(path_or_name)
    with _named(source) as simulated:
        return simulated.read(source)  # type: ignore[no-any-return]


@contextmanager
def _named(source: Path) -> Iterator[ModuleType]:
    """What loads a model by transformers; errors name the checkpoint."""
    try:
        from lamp.integrations import transformers as by_transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{source} holds a model of type {checkpoints.architecture(source)!r}, which runs "
            f"through transformers; {error.name} is not installed: "
            "pip install 'fpemu-lamp[torch,transformers]'",
            name=error.name,
        ) from error
    try:
        yield by_transformers
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"{source} cannot be put on a machine: {error}") from error
