"""Load a model of the family that its checkpoint names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lamp.lookahead import LAMP
from lamp.machines import HardwareLike
from lamp.models import checkpoints
from lamp.models.decoder import Decoder
from lamp.models.gpt2 import GPT2
from lamp.models.llama import Llama

__all__ = ["FAMILIES", "from_pretrained", "reader"]

FAMILIES: Final[dict[str, type[Decoder]]] = {kind.family: kind for kind in (GPT2, Llama)}
"""The classes of models, by the name of their type in transformers."""


def from_pretrained(
    path_or_name: str | os.PathLike[str] = "embedded",
    *,
    hardware: HardwareLike = "fp32",
    lamp: LAMP | Iterable[LAMP] | None = None,
) -> Decoder:
    """Load a trained model of any family.

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
    GPT2 or Llama

    Raises
    ------
    FileNotFoundError
        If there is no such model, or a file is missing.
    ValueError
        If the model is of a type that is not known, or the checkpoint is broken.

    Examples
    --------
    >>> import lamp
    >>> type(lamp.from_pretrained("embedded")).__name__
    'GPT2'
    """
    kind = _family(checkpoints.directory(path_or_name), path_or_name)
    return kind.from_pretrained(path_or_name, hardware=hardware, lamp=lamp)


def reader(path_or_name: str | os.PathLike[str] = "embedded") -> Decoder:
    """Load a model without its weights: it knows sizes and tokens, but does not run.

    Parameters
    ----------
    path_or_name : str or path-like
        As in :func:`from_pretrained`.

    Returns
    -------
    GPT2 or Llama

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`from_pretrained`.

    Examples
    --------
    >>> from lamp import models
    >>> model = models.reader("embedded")
    >>> model.shape.positions, len(model.encode("Now is the winter"))
    (512, 5)
    """
    source = checkpoints.directory(path_or_name)
    kind = _family(source, path_or_name)
    model = object.__new__(kind)
    model.config = kind._read_config(source)
    model.shape = kind._shape(model.config)
    model._source = source
    return model


def _family(source: Path, name: str | os.PathLike[str]) -> type[Decoder]:
    """The class of a checkpoint's model."""
    kind = checkpoints.model_type(source)
    if kind not in FAMILIES:
        raise ValueError(f"{name} holds a model of type {kind!r}, expected {' or '.join(FAMILIES)}")
    return FAMILIES[kind]
