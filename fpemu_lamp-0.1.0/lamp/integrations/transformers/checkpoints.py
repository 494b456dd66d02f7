"""Checkpoints that transformers loads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import transformers
import transformers.modeling_gguf_pytorch_utils

from lamp.integrations.transformers.simulated import Simulated
from lamp.integrations.transformers.sizes import continues, sizes
from lamp.lookahead import LAMP
from lamp.machines import HardwareLike
from lamp.models import checkpoints

__all__ = ["load", "read"]

_OF_GGUF: Final = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""Settings of GGUF files that transformers leaves out for some families, by its own names."""
_STRETCHED: Final = ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear")
_NOT_STRETCHED: Final = ("none", 0, 1)


def load(source: Path, hardware: HardwareLike, lamp: LAMP | Iterable[LAMP] | None) -> Simulated:
    """The model of a checkpoint, on a machine.

    Parameters
    ----------
    source : Path
        A directory or a GGUF file.
    hardware : Hardware or str
    lamp : LAMP or iterable of LAMP, optional

    Returns
    -------
    Simulated

    Raises
    ------
    ValueError
        If transformers cannot load it, or as for :func:`lamp.simulate`.
    """
    place, config = _place(source), _config(source)
    quantized = getattr(config, "quantization_config", None)
    if quantized is not None and not source.is_file():
        raise ValueError(f"its weights are quantized, which is not implemented: {quantized}")
    with _quiet(), _in_words("transformers cannot load it"):
        model, report = _kind(config).from_pretrained(
            **place,
            config=config,
            dtype=_dtype(config),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    for what in ("missing_keys", "mismatched_keys"):
        if report.get(what):
            listed = ", ".join(sorted(map(str, report[what]))[:3])
            raise ValueError(f"the checkpoint has {what.replace('_', ' ')}: {listed}")
    return Simulated(model, hardware=hardware, lamp=lamp, source=source)


def read(source: Path) -> Simulated:
    """The model of a checkpoint without its weights: it knows sizes and tokens.

    Parameters
    ----------
    source : Path

    Returns
    -------
    Simulated

    Raises
    ------
    ValueError
        If transformers cannot read its configuration, or it contradicts itself.
    """
    model = object.__new__(Simulated)
    model.config = _config(source)
    model.continues_texts = continues(model.config, _kind(model.config))
    model.family = model.config.model_type  # type: ignore[misc]
    model.shape = sizes(model.config)
    model._source = source
    return model


def _place(source: Path) -> dict[str, Any]:
    """Where a checkpoint is, as transformers asks for it."""
    if source.is_file():
        return {
            "pretrained_model_name_or_path": str(source.parent),
            "gguf_file": source.name,
        }
    return {"pretrained_model_name_or_path": str(source)}


def _config(source: Path) -> Any:
    """The configuration, by transformers; no code of the checkpoint runs."""
    with _in_words("transformers cannot read its configuration"):
        config = transformers.AutoConfig.from_pretrained(
            **_place(source), local_files_only=True, trust_remote_code=False
        )
    if source.is_file():
        _complete(config, checkpoints.gguf_settings(source))
    return config


def _complete(config: Any, settings: Mapping[str, Any]) -> None:
    """Put settings of a GGUF file into a configuration that transformers has made of it."""
    for key, name in _OF_GGUF.items():
        if key in settings:
            setattr(config, name, settings[key])
    for key in _STRETCHED:
        if settings.get(key, 1) not in _NOT_STRETCHED:
            raise ValueError(
                f"it says {key} = {settings[key]!r}, which transformers does not read from GGUF "
                "files: expected rotary positions that are not stretched"
            )


def _dtype(config: Any) -> Any:
    """The type to load weights in: one that holds them, and that products take as they are."""
    stored = getattr(config, "dtype", None)
    narrow = stored is not None and str(stored).removeprefix("torch.") != "float64"
    return torch.float32 if narrow else "auto"


def _kind(config: Any) -> Any:
    """The class of a model: the one that its configuration names, or that for causal models.

    transformers itself follows the name and takes the configuration for one of that class.
    """
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            if not isinstance(config, found.config_class or object):
                raise ValueError(
                    f"its configuration is that of model type {config.model_type!r}, its "
                    f"architecture {name}, which is none of that type"
                )
            return found
    return transformers.AutoModelForCausalLM


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Errors of transformers as one of ours, by their first line."""
    try:
        yield
    except Exception as error:  # of transformers or one of its many libraries
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{what}: {first}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars of transformers: we have our own."""
    logging: Any = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    of_gguf: Any = transformers.modeling_gguf_pytorch_utils
    bar = of_gguf.tqdm  # which does not ask whether bars are shown
    of_gguf.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        of_gguf.tqdm = bar
        if shown:
            logging.enable_progress_bar()
