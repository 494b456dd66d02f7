"""Copies of a model, with the weights of a machine or those of the original."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import nn

import fpemu
from fpemu import Format
from lamp.integrations.transformers.running import array
from lamp.integrations.transformers.structure import ATTENTION, Structure
from lamp.machines import Hardware

__all__ = ["check_shared", "configurations", "copied", "skeleton", "weights"]

_PLAIN: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def copied(model: nn.Module, given: Callable[[str, torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy of a model with other weights, each of which is asked for once."""
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        memo[id(parameter)] = nn.Parameter(given(name, parameter.detach()), requires_grad=False)
    for _, buffer in model.named_buffers():
        memo[id(buffer)] = given("", buffer) if buffer.is_floating_point() else buffer
    return copy.deepcopy(model, memo)


def skeleton(model: nn.Module) -> nn.Module:
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
    found = copied(model, lambda name, numbers: numbers)
    found.eval()
    for config in configurations(found):
        config._attn_implementation = ATTENTION
        config._experts_implementation = "eager"  # each expert by itself, in order
    return found


def configurations(model: nn.Module) -> list[Any]:
    """All configurations in a model."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return list({id(each): each for each in found if each is not None}.values())


def check_shared(model: nn.Module, structure: Structure, hardware: Hardware) -> None:
    """Raise a ValueError if a machine holds a tensor that layers share in several formats."""
    seen: dict[int, tuple[str, Format]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        own = structure.format_of(name, hardware)
        first, format = seen.setdefault(id(parameter), (name, own))
        if own != format:
            raise ValueError(
                f"{first} and {name} are one tensor, but {hardware.name} holds it in two formats, "
                f"{format} and {own}"
            )


def weights(
    name: str, numbers: torch.Tensor, *, structure: Structure, hardware: Hardware
) -> torch.Tensor:
    """A parameter as a machine holds it; a buffer, which has no name, in its carrier."""
    carrier = torch.float32 if hardware.carrier == np.float32 else torch.float64
    if not name:
        return numbers.to(torch.promote_types(numbers.dtype, carrier))
    plain = numbers if numbers.dtype == torch.float64 else numbers.float()
    held = array(plain.contiguous())
    if not np.isfinite(held).all():
        what = "NaN" if np.isnan(held).any() else "an infinity"
        raise ValueError(f"{name} holds {what}, expected numbers")
    format = structure.format_of(name, hardware)
    if format.precision < 24 or held.dtype == np.float64:
        rounded = fpemu.round(held, format)
        if rounded.dtype != held.dtype or not np.array_equal(rounded, held):
            held = rounded
    return torch.from_numpy(np.ascontiguousarray(held, hardware.carrier))
