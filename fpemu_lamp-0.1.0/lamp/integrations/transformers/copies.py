"""Copies of a model, with the weights of a machine or those of the original."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from fpemu import Format
from lamp.integrations.transformers.running import tensor
from lamp.integrations.transformers.stand_ins import stand_in
from lamp.integrations.transformers.structure import ATTENTION, Structure
from lamp.integrations.transformers.weights import check_finite, held
from lamp.machines import Hardware

__all__ = ["configurations", "on_machine", "skeleton"]

_PLAIN: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def copied(model: nn.Module, given: Callable[[str, torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy of a model with other parameters and buffers, each of which is asked for once."""
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        memo[id(parameter)] = nn.Parameter(given(name, parameter), requires_grad=False)
    for name, buffer in model.named_buffers():
        memo[id(buffer)] = given(name, buffer)
    return copy.deepcopy(model, memo)


def on_machine(
    model: nn.Module, large: Collection[int], structure: Structure, hardware: Hardware
) -> nn.Module:
    """A copy of a model that holds what a machine does, but for the `large` parameters."""
    _check_shared(model, large, structure, hardware)
    carrier = torch.float32 if hardware.carrier == np.float32 else torch.float64

    def given(name: str, numbers: torch.Tensor) -> torch.Tensor:
        if id(numbers) in large or not numbers.is_floating_point():
            return numbers.detach()
        if isinstance(numbers, nn.Parameter):
            format = structure.format_of(name, hardware)
            found = held(numbers, format, hardware.carrier)
            return tensor(found.astype(hardware.carrier, copy=False))
        return numbers.to(torch.promote_types(numbers.dtype, carrier))

    return copied(model, given)


def _check_shared(
    model: nn.Module, large: Collection[int], structure: Structure, hardware: Hardware
) -> None:
    """Raise a ValueError if layers hold a tensor that they share in different formats."""
    seen: dict[int, tuple[str, Format]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        own = structure.format_of(name, hardware)
        first, format = seen.setdefault(id(parameter), (name, own))
        if own != format and id(parameter) not in large:
            raise ValueError(
                f"{first} and {name} are one tensor, but {hardware.name} holds it in two formats, "
                f"{format} and {own}"
            )


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
    check_finite(model)
    found = copied(model, lambda name, numbers: numbers.detach())
    found.eval()
    for module in found.modules():
        stand_in(module)
    for config in configurations(found):
        config._attn_implementation = ATTENTION
        config._experts_implementation = "eager"  # each expert by itself, in order
    return found


def configurations(model: nn.Module) -> list[Any]:
    """All configurations in a model."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return list({id(each): each for each in found if each is not None}.values())
