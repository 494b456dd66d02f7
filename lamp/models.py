"""Models by what their checkpoints say they are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from lamp import checkpoints
from lamp.decoder import Decoder
from lamp.gpt2 import GPT2
from lamp.llama import Llama
from lamp.machines import HardwareLike
from lamp.rules import LAMP

__all__ = ["FAMILIES", "from_pretrained"]

FAMILIES: Final[dict[str, type[Decoder]]] = {kind.family: kind for kind in (GPT2, Llama)}
"""The classes by transformers' name of the kind of model."""


def from_pretrained(
    path_or_name: str | os.PathLike[str] = "embedded",
    *,
    hardware: HardwareLike = "fp32",
    lamp: LAMP | Iterable[LAMP] | None = None,
) -> Decoder:
    """A trained model of any family.

    Parameters
    ----------
    path_or_name : str or path-like
        A transformers directory, a GGUF file, a name on the Hugging Face hub, ``"embedded"``, or
        the name of a model that comes in a Python package, see :data:`lamp.checkpoints.PACKAGED`.
    hardware : Hardware, str or path-like
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        What to recompute; several are for as many places.

    Returns
    -------
    GPT2 or Llama

    Raises
    ------
    FileNotFoundError
        If there is no such model, or a file is missing.
    ValueError
        If the model is of a kind that is not known, or the checkpoint is broken.

    Examples
    --------
    >>> import lamp
    >>> type(lamp.from_pretrained("embedded")).__name__
    'GPT2'
    """
    kind = checkpoints.model_type(checkpoints.directory(path_or_name))
    if kind not in FAMILIES:
        raise ValueError(
            f"{path_or_name} holds a model of type {kind!r}, expected {' or '.join(FAMILIES)}"
        )
    return FAMILIES[kind].from_pretrained(path_or_name, hardware=hardware, lamp=lamp)
