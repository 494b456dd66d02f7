"""A model of transformers on a machine: it reads and writes text as the native models do."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import sdpa_mask

import fpemu
from fpemu import Format
from fpemu._kernels.launching import default_environment
from lamp.integrations.transformers.modules import put_on_machine
from lamp.integrations.transformers.operators import Inline
from lamp.integrations.transformers.running import Run, array
from lamp.integrations.transformers.structure import ATTENTION, Structure, watch
from lamp.lookahead import LAMP
from lamp.machines import Hardware, HardwareLike
from lamp.models import Decoder, Forward, Shape, Trace, TracedSteps, check_tokens

__all__ = ["Simulated", "simulate", "sizes"]

_PLAIN: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_MANY: Final = 2**31 - 1  # positions of a model that has no limit


def simulate(
    model: Any, hardware: HardwareLike = "fp32", lamp: LAMP | Iterable[LAMP] | None = None
) -> Simulated:
    """Put a loaded model of transformers on a machine.

    The steps of the model are found by its structure, not by its name.  What is not known is
    refused: nothing is computed past the machine.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        It is left as it is; weights that the machine holds in the same numbers are shared.
    hardware : Hardware or str
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        The rules of look-ahead, at most one per place.

    Returns
    -------
    Simulated

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
    structure : Structure
        What its modules are.
    """

    family = "transformers"
    """The model's type, by its name in transformers."""

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
        self._original = _skeleton(model)
        self.config = self._original.config
        self.family = self.config.model_type  # type: ignore[misc]
        self.structure = watch(self._original)
        self.shape = sizes(self.config, self.structure)
        self._source = source
        self._set_machine(hardware, lamp)
        self._put()

    def _put(self) -> None:
        """Make the copy of the model that runs on the machine."""
        if self.hardware.layers:
            self._check_shared()
        self.model = _copied(self._original, self._held)
        self._run = Run(self.shape, self.hardware, self.look_ahead)
        put_on_machine(self.model, self.structure, self._run)
        places = (each.untyped_storage().data_ptr() for each in self.model.parameters())
        self._run.weights = frozenset(places)
        if not self._is_causal:
            for config in _configs(self.model):
                config.use_cache = False
            if getattr(self.model, "generation_config", None) is not None:
                self.model.generation_config.use_cache = False
        for module in _entries(self.model):
            module.forward = _entry(module.forward, self._run)

    def _check_shared(self) -> None:
        """Raise a ValueError if layers hold a tensor that they share in different formats."""
        seen: dict[int, tuple[str, Format]] = {}
        for name, parameter in self._original.named_parameters(remove_duplicate=False):
            own = self.structure.format_of(name, self.hardware)
            first, format = seen.setdefault(id(parameter), (name, own))
            if own != format:
                raise ValueError(
                    f"{first} and {name} are one tensor, but {self.hardware.name} holds it in two "
                    f"formats, {format} and {own}"
                )

    def _held(self, name: str, numbers: torch.Tensor) -> torch.Tensor:
        """A parameter as the machine holds it; a buffer has no name."""
        carrier = self.hardware.carrier
        if not name:
            own = torch.float32 if carrier == np.float32 else torch.float64
            return numbers.to(torch.promote_types(numbers.dtype, own))
        return _weights(name, numbers, self.structure.format_of(name, self.hardware), carrier)

    def with_hardware(
        self, hardware: HardwareLike, lamp: LAMP | Iterable[LAMP] | None = None
    ) -> Self:
        """The same model on another machine; see :meth:`lamp.models.Decoder.with_hardware`."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._set_machine(hardware, lamp)
        other._put()
        return other

    @property
    def _weights(self) -> Any:  # type: ignore[override]
        """What native models have."""
        raise ValueError(f"{self!r} runs through transformers: this needs a native GPT-2 or Llama")

    @default_environment()
    def trace(self, tokens: ArrayLike, layer: int) -> Trace:
        """Steps of attention of a layer; see :meth:`lamp.models.Decoder.trace`.

        There are ``"stream"``, ``"query"``, ``"key"``, ``"value"`` and what attention shows, but
        no errors, which depend on what the model does to its scores.
        """
        if not isinstance(layer, (int, np.integer)) or not 0 <= layer < self.shape.layers:
            raise ValueError(f"layer {layer!r} is not in 0..{self.shape.layers - 1}")
        traced = TracedSteps(int(layer))
        self._forward(check_tokens(tokens, self.shape), None, traced)
        return Trace(traced.layer, traced.steps, {})

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
        run, given = self._run, {}
        if cache is not None:
            given = {"use_cache": True, _cache_name(self.model): cache.past}
        elif _takes(self.model, "use_cache"):
            given = {"use_cache": False}
        run.observer = observer
        try:
            result = self.model(input_ids=torch.from_numpy(numbers.copy())[None], **given)
        finally:
            run.observer = None
        if cache is not None:
            cache.length += len(numbers)
        return run.result(array(result.logits)[0])

    def _new_cache(self, capacity: int) -> Any:
        return _Kept(DynamicCache(config=self.model.config))

    @staticmethod
    def _configure(config: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    @staticmethod
    def _shape(config: Any) -> Shape:
        raise NotImplementedError

    @staticmethod
    def _load(tensors: Any, config: Any, hardware: Hardware) -> Any:
        raise NotImplementedError


class _Kept:
    """A cache of transformers and how many tokens it has read."""

    def __init__(self, past: Any) -> None:
        self.past, self.length = past, 0


def _rules(lamp: Any) -> list[LAMP]:
    return [lamp] if isinstance(lamp, LAMP) else list(lamp or [])


# --- copies ---------------------------------------------------------------------------------------


def _copied(model: nn.Module, weights: Callable[[str, torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy of a model with other weights, each of which is asked for once."""
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        memo[id(parameter)] = nn.Parameter(weights(name, parameter.detach()), requires_grad=False)
    for _, buffer in model.named_buffers():
        memo[id(buffer)] = weights("", buffer) if buffer.is_floating_point() else buffer
    return copy.deepcopy(model, memo)


def _skeleton(model: nn.Module) -> nn.Module:
    """A copy of a model that shares its weights and calls our attention."""
    if any(hasattr(module, "_lamp_attend") for module in model.modules()):
        raise ValueError(
            "the model is on a machine already: use with_hardware of what simulate gave"
        )
    for name, module in model.named_modules():
        if "forward" in vars(module):
            raise ValueError(
                f"{name or 'the model'} has a forward function put in place of that of its class: "
                "what it computes is not known"
            )
    for name, parameter in model.named_parameters():
        if parameter.dtype not in _PLAIN:
            raise ValueError(
                f"{name} holds numbers of type {parameter.dtype}: quantized weights are not "
                "implemented"
            )
    found = _copied(model, lambda name, numbers: numbers)
    found.eval()
    for config in _configs(found):
        config._attn_implementation = ATTENTION
        config._experts_implementation = "eager"  # each expert by itself, in order
    return found


def _configs(model: nn.Module) -> list[Any]:
    """All configurations in a model."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return list({id(each): each for each in found if each is not None}.values())


def _weights(
    name: str, numbers: torch.Tensor, format: Format, carrier: np.dtype[Any]
) -> torch.Tensor:
    """A parameter in the format of a machine's weights, in its carrier."""
    plain = numbers if numbers.dtype == torch.float64 else numbers.float()
    held = array(plain.contiguous())
    if not np.isfinite(held).all():
        what = "NaN" if np.isnan(held).any() else "an infinity"
        raise ValueError(f"{name} holds {what}, expected numbers")
    if format.precision < 24 or held.dtype == np.float64:
        rounded = fpemu.round(held, format)
        if rounded.dtype != held.dtype or not np.array_equal(rounded, held):
            held = rounded
    return torch.from_numpy(np.ascontiguousarray(held, carrier))


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


def _entry(forward: Callable[..., Any], run: Run) -> Callable[..., Any]:
    """A forward pass on the machine, the outermost of those that call each other."""

    @functools.wraps(forward)
    def entry(*args: Any, **kwargs: Any) -> Any:
        if run.is_on:
            return forward(*args, **kwargs)
        run.begin()
        run.is_on = True
        try:
            with torch.no_grad(), default_environment(), Inline(run):
                return forward(*args, **kwargs)
        finally:
            run.is_on = False

    return entry


def _takes(model: nn.Module, name: str) -> bool:
    """Whether a model's forward pass takes an argument."""
    return name in inspect.signature(type(model).forward).parameters


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


# --- sizes ----------------------------------------------------------------------------------------


def sizes(configuration: Any, structure: Structure | None = None) -> Shape:
    """The sizes of a model, as far as its configuration names them.

    Parameters
    ----------
    configuration : transformers.PretrainedConfig
    structure : Structure, optional
        What its modules are, if it has been watched.

    Returns
    -------
    Shape
    """
    config = configuration.get_text_config()

    def size(*names: str, default: int) -> int:
        found = (getattr(config, name, None) for name in names)
        return int(next((each for each in found if each), default))

    heads = size("num_attention_heads", default=1)
    width = size("hidden_size", default=1)
    norms = [] if structure is None else list(structure.norms.values())
    activations = [] if structure is None else list(structure.activations.values())
    layers = size("num_hidden_layers", default=0) if structure is None else len(structure.layers)
    return Shape(
        vocabulary=size("vocab_size", default=1),
        positions=size("max_position_embeddings", default=_MANY),
        width=width,
        inner=size("intermediate_size", "n_inner", "d_ff", "ffn_dim", default=4 * width),
        layers=layers,
        heads=heads,
        key_heads=size("num_key_value_heads", default=heads),
        dimension=size("head_dim", default=width // heads),
        activation=activations[-1] if activations else "",
        epsilon=norms[-1].epsilon if norms else 0.0,
    )
