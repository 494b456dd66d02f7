"""The modules of a model on a machine: each computes its step as the native models do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from lamp.integrations.transformers import (
    attention,
    experts,
    feed_forward,
    functions,
    products,
    rotations,
)
from lamp.integrations.transformers.fitting import Fitting
from lamp.integrations.transformers.running import Run
from lamp.integrations.transformers.structure import Structure

__all__ = ["put_on_machine"]


def put_on_machine(model: nn.Module, structure: Structure, run: Run) -> None:
    """Replace what the modules of a model compute; its weights are those of the machine."""
    fitting = Fitting(model, structure, run)
    rule = run.look_ahead.logits
    if rule is not None and not fitting.has_head:
        raise ValueError(f"{rule} recomputes logits, but the model has no head that gives them")
    for name in structure.products:
        fitting.replace(name, products.product(fitting, name))
    for name, norm in structure.norms.items():
        fitting.replace(name, functions.norm(fitting, name, norm))
    for name, activation in structure.activations.items():
        fitting.replace(name, functions.activation(fitting, activation))
    for name, rotary in structure.rotaries.items():
        fitting.replace(name, functions.rotary(fitting, rotary))
    for name, forward in feed_forward.in_one_piece(fitting).items():
        fitting.replace(name, forward)
    for name in structure.experts:
        fitting.replace(name, experts.experts(fitting, name))
    for name, rounds in structure.embeddings.items():
        if rounds:
            fitting.replace(name, functions.embedding(fitting, name))
    for name, number in structure.attentions.items():
        module = model.get_submodule(name)
        module._lamp_attend = attention.attention(fitting, name, number)
        forward = rotations.in_one_piece(module.forward, run)
        fitting.replace(name, _attending(fitting, forward))
    for number, name in enumerate(structure.layers):
        fitting.replace(name, _layer(fitting, number, model.get_submodule(name).forward))


def _layer(fitting: Fitting, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A layer: it says that it begins, and that its attention was called."""
    run, count = fitting.run, len(fitting.structure.layers)
    expected = sum(layer == number for layer in fitting.structure.attentions.values())
    name = fitting.structure.layers[number]

    @functools.wraps(forward)
    def layer(*args: Any, **kwargs: Any) -> Any:
        if not run.is_on:
            raise RuntimeError(f"layer {name} runs by itself: call the model it is part of")
        run.enter(number)
        run.calls[number] = 0
        run.held.clear()
        if args:
            run.show("stream", args[0])
        run.place, run.adding = "block", ""
        result = forward(*args, **kwargs)
        if run.candidates:
            raise RuntimeError(
                f"a product of layer {name} was not added to the residual stream, where "
                "look-ahead recomputes it"
            )
        if run.calls[number] != expected:
            raise RuntimeError(
                f"layer {name} called attention {run.calls[number]} times, expected "
                f"{expected}: something computes it past the machine"
            )
        run.enter(number + 1)
        run.place, run.adding = "head", ""
        if number + 1 == count:
            run.show("stream", result[0] if isinstance(result, tuple) else result)
        return result

    return layer


def _attending(fitting: Fitting, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A module around attention: what it computes in front of it are queries and keys."""
    run = fitting.run

    @functools.wraps(forward)
    def attending(*args: Any, **kwargs: Any) -> Any:
        run.rotated, run.place = 0, "qkv"
        try:
            return forward(*args, **kwargs)
        finally:
            run.place = "block"

    return attending
