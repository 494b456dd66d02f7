"""A model of transformers on a machine: it reads and writes text as the native models do."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from fpemu._kernels.launching import default_environment
from lamp.integrations.transformers.attention import errors
from lamp.integrations.transformers.caches import Kept
from lamp.integrations.transformers.copies import configurations, on_machine, skeleton
from lamp.integrations.transformers.modules import put_on_machine
from lamp.integrations.transformers.operators import Inline
from lamp.integrations.transformers.running import Run, array, one_thread
from lamp.integrations.transformers.sizes import continues, sizes
from lamp.integrations.transformers.structure import ATTENTION, watch
from lamp.integrations.transformers.weights import large, memory
from lamp.lookahead import LAMP
from lamp.machines import Hardware, HardwareLike, UnusedStepWarning, in_words, spelled
from lamp.models import Decoder, Forward, Shape

__all__ = ["Simulated", "simulate"]


def simulate(
    model: Any, hardware: HardwareLike = "fp32", lamp: LAMP | Iterable[LAMP] | None = None
) -> Simulated:
    """Put a loaded model of transformers on a machine.

    The steps of the model are found by its structure, not by its name.  What is not known is
    refused: nothing is computed past the machine.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        It is left as it is.  Weights of linear layers, experts and embeddings are shared with it.
    hardware : Hardware or str
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        The rules of look-ahead, at most one per place.

    Returns
    -------
    Simulated

    Warns
    -----
    lamp.machines.UnusedStepWarning
        If the machine names a step that the model does not have.

    Raises
    ------
    TypeError
        If `model` is no model of transformers.
    ValueError
        If the model does not call transformers' ``AttentionInterface``, has modules that are not
        known, or its structure does not have what a rule looks at.

    Examples
    --------
    >>> import lamp
    >>> from transformers import AutoModelForCausalLM
    >>> loaded = AutoModelForCausalLM.from_pretrained("gpt2")  # doctest: +SKIP
    >>> model = lamp.simulate(loaded, "hopper-fp8", lamp.LAMP(tau=1.2))  # doctest: +SKIP
    >>> model.model.generate(tokens)  # doctest: +SKIP
    """
    return Simulated(model, hardware=hardware, lamp=lamp)


class Simulated(Decoder):
    """A model of transformers on a machine.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A loaded model.
    hardware : Hardware or str
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        The rules of look-ahead, at most one per place.
    source : Path, optional
        The checkpoint that the tokenizer is read from.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        The model on the machine: it is called and generates as any model of transformers does.
        Its large weights are those of the loaded model; the machine rounds what it reads of them.
    structure : Structure
        What its modules are.
    """

    family = "transformers"
    """The model's type, by its name in transformers."""

    is_native = False

    def __init__(
        self,
        model: Any,
        *,
        hardware: HardwareLike = "fp32",
        lamp: LAMP | Iterable[LAMP] | None = None,
        source: Path | None = None,
    ) -> None:
        if not isinstance(model, nn.Module) or not hasattr(model, "config"):
            raise TypeError(f"model must be a model of transformers, not {type(model).__name__}")
        self._original = skeleton(model)
        self.config = self._original.config
        self.family = self.config.model_type  # type: ignore[misc]
        self.continues_texts = continues(self.config, type(self._original))
        self.structure = watch(self._original)
        self._large = large(self._original, self.structure)
        self.shape = sizes(self.config, self.structure)
        self._source = source
        self._set_machine(hardware, lamp)
        self._warn(callers=2)
        self._put()

    def _warn(self, callers: int) -> None:
        """Warn of steps that the machine names in vain, in the name of a caller."""
        for said in self._unused():
            warnings.warn(said, UnusedStepWarning, stacklevel=callers + 2)

    def _unused(self) -> list[str]:
        """Say which steps the machine names and the model does not have."""
        kind, said = type(self._original).__name__, []
        for step, layers in self.structure.named_in_vain(self.hardware).items():
            some = 0 < len(layers) < self.shape.layers
            where = f"{in_words(spelled(layers))} of {kind}" if some else kind
            has = "have" if some and len(layers) > 1 else "has"
            said.append(f"{self.hardware.name!r} names {step}, but {where} {has} no such step")
        return said

    def notes(self) -> list[str]:
        """Say which steps the machine names in vain, and what torch computes of positions."""
        operations = ", ".join(self.structure.positional)
        in_torch = f"torch computes numbers that depend on positions alone: {operations}"
        return [*self._unused(), *([in_torch] if operations else [])]

    def _put(self) -> None:
        """Make the copy of the model that runs on the machine."""
        self.model = on_machine(self._original, self._large, self.structure, self.hardware)
        self._run = Run(self.shape, self.hardware, self.look_ahead)
        put_on_machine(self.model, self.structure, self._run)
        self._run.weights = memory(self.model.parameters())
        self._run.large = memory(p for p in self._original.parameters() if id(p) in self._large)
        if not self._is_causal:
            for config in configurations(self.model):
                config.use_cache = False
            if getattr(self.model, "generation_config", None) is not None:
                self.model.generation_config.use_cache = False
        mode = Inline(self._run)
        for module in _entries(self.model):
            module.forward = _entry(module.forward, mode)

    def with_hardware(
        self, hardware: HardwareLike, lamp: LAMP | Iterable[LAMP] | None = None
    ) -> Self:
        """The same model on another machine; see :meth:`lamp.models.Decoder.with_hardware`.

        Weights of linear layers, experts and embeddings are shared, whatever the machine.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._set_machine(hardware, lamp)
        other._warn(callers=1)
        other._put()
        return other

    def _errors(
        self, steps: Mapping[str, NDArray[Any]], layer: int
    ) -> dict[str, NDArray[np.float64]]:
        """Those of a trace's scores, by what the model does to its scores."""
        return errors(steps, self._run.variants[layer]) if "query" in steps else {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model as transformers does."""
        return self.model(*args, **kwargs)

    @property
    def kind(self) -> str:
        """The model's class, and who computes what lies between its steps."""
        return f"{type(self._original).__name__} of transformers"

    def __repr__(self) -> str:
        rules = "".join(f" + {rule}" for rule in _rules(self.lamp))
        return f"{type(self._original).__name__} on {self.hardware.name}{rules}"

    def _forward(self, numbers: NDArray[np.int64], cache: Any, observer: Any = None) -> Forward:
        if getattr(self.config, "is_encoder_decoder", False):
            raise ValueError(
                f"{type(self._original).__name__} reads two texts: call its `model` itself"
            )
        if self.model.get_output_embeddings() is None:
            raise ValueError(
                f"{type(self._original).__name__} has no head that gives logits of tokens: load "
                "one that has, by AutoModelForCausalLM, or call its `model` itself"
            )
        run, given = self._run, {}
        if cache is not None:
            given = {"use_cache": True, _cache_name(self.model): cache.past}
        elif _takes(self.model, "use_cache"):
            given = {"use_cache": False}
        run.observer = observer
        try:
            result = self.model(input_ids=torch.from_numpy(numbers.copy())[None], **given)
            run.show("logits", result.logits)
        finally:
            run.observer = None
        if cache is not None:
            cache.length += len(numbers)
        return run.result(array(result.logits)[0])

    def _new_cache(self, capacity: int) -> Any:
        return Kept(self.model.config, capacity)

    @staticmethod
    def _configure(config: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    @staticmethod
    def _shape(config: Any) -> Shape:
        raise NotImplementedError

    @staticmethod
    def _load(tensors: Any, config: Any, hardware: Hardware) -> Any:
        raise NotImplementedError


def _rules(lamp: Any) -> list[LAMP]:
    return [lamp] if isinstance(lamp, LAMP) else list(lamp or [])


# --- calls ----------------------------------------------------------------------------------------


def _entries(model: nn.Module) -> list[nn.Module]:
    """The model and the parts of it that may be called by themselves."""
    found = [model]
    for name in ("base_model", "encoder", "decoder"):
        for holder in (model, getattr(model, "base_model", model)):
            part = getattr(holder, name, None)
            if isinstance(part, nn.Module):
                found.append(part)
    return list(dict.fromkeys(found))


def _entry(forward: Callable[..., Any], mode: Inline) -> Callable[..., Any]:
    """A forward pass on the machine, the outermost of those that call each other."""
    run = mode.run

    @functools.wraps(forward)
    def entry(*args: Any, **kwargs: Any) -> Any:
        if run.is_on:
            return forward(*args, **kwargs)
        run.begin()
        run.is_on = True
        try:
            with torch.no_grad(), one_thread(), default_environment(), mode:
                return forward(*args, **kwargs)
        finally:
            run.is_on = False

    return entry


def _takes(model: nn.Module, name: str) -> bool:
    """Whether a model's forward pass takes an argument."""
    return name in _parameters(type(model).forward)


@functools.cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _cache_name(model: nn.Module) -> str:
    """What this version of transformers calls a cache."""
    return "cache" if _takes(model, "cache") else "past_key_values"


# --- what transformers calls ----------------------------------------------------------------------


def _attend(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Attention by the name that we have in transformers."""
    own = getattr(module, "_lamp_attend", None)
    if own is None:
        raise RuntimeError(
            f"{type(module).__name__} asks for attention on a machine, but is on none: use "
            "lamp.simulate"
        )
    return own(module, *args, **kwargs)


def _mask(*args: Any, **kwargs: Any) -> Any:
    """A mask that says which keys each row sees, whatever they are."""
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(*args, **kwargs)


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, _mask)
