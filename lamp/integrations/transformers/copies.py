"""Copies of a model, with the weights of a machine or those of the original."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from lamp.integrations.transformers.running import tensor
from lamp.integrations.transformers.stand_ins import stand_in
from lamp.integrations.transformers.structure import ATTENTION, Structure
from lamp.integrations.transformers.weights import check_finite, held, small_formats
from lamp.machines import Hardware

__all__ = ["configurations", "on_machine", "skeleton"]

_PLAIN: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def copied(model: nn.Module, given: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy of a model with other parameters and buffers, each of which is asked for once."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(given(parameter), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = given(buffer)
    return copy.deepcopy(model, memo)


def on_machine(
    model: nn.Module, structure: Structure, large: Collection[int], hardware: Hardware
) -> nn.Module:
    """A copy of a model that holds what a machine does, but for the `large` parameters."""
    carrier = hardware.carrier
    of_torch = torch.float32 if carrier == np.float32 else torch.float64
    formats = small_formats(model, structure, large, hardware)

    def given(numbers: torch.Tensor) -> torch.Tensor:
        if id(numbers) in large or not numbers.is_floating_point():
            return numbers.detach()
        if isinstance(numbers, nn.Parameter):
            own = held(numbers, formats[id(numbers)], carrier)
            return tensor(own.astype(carrier, copy=False))
        return numbers.to(torch.promote_types(numbers.dtype, of_torch))

    return copied(model, given)


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
    found = copied(model, torch.Tensor.detach)
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
