"""Feed-forward layers of few rows, in one piece.

A feed-forward layer is a module around linear layers, an activation and perhaps a product of the
activated gate and another factor.  For a generated token all of that takes less time than torch
takes to go from one to the next.  So a module whose parts were seen to be these, and no others, is
run as one function of arrays.  It is tried on random numbers of the shape that it is called with:
where the module gives anything else, it runs part by part.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lamp.integrations.transformers.fitting import Fitting
from lamp.integrations.transformers.running import Run, array, by_text, tensor
from lamp.models import layers
from lamp.models.layers import Matrix

__all__ = ["in_one_piece"]

_MOST_ROWS: Final = 8  # from there on the products take most of the time
_SHAPES: Final = 64  # that a module is remembered to be known for


class _Parts(NamedTuple):
    """What a feed-forward layer is made of; without a gate the activation reads `up`."""

    gate: Matrix | None
    up: Matrix
    down: Matrix
    activation: str

    @property
    def size(self) -> int:
        """Multiply-adds per row."""
        gate = 0 if self.gate is None else self.gate.size
        return gate + self.up.size + self.down.size


def in_one_piece(fitting: Fitting) -> dict[str, Callable[..., Any]]:
    """The modules that are feed-forward layers, and what takes the place of what they compute.

    Parameters
    ----------
    fitting : Fitting
        Of a model whose modules have the functions that they have on the machine.

    Returns
    -------
    dict of str to callable
        Nothing if look-ahead recomputes what is inside such a layer or follows it.
    """
    ahead = fitting.run.look_ahead
    if ahead.norm is not None or ahead.activation is not None:
        return {}
    found = {}
    for gate, (activation, factor, down) in fitting.structure.gates.items():
        up = gate if factor is None else factor
        holder = _holder(fitting, gate, up, down, activation)
        if holder is not None:
            parts = _Parts(
                None if factor is None else fitting.matrix(gate),
                fitting.matrix(up),
                fitting.matrix(down),
                fitting.structure.activations[activation],
            )
            found[holder] = _joined(fitting.module(holder).forward, parts, fitting.run)
    return found


def _holder(fitting: Fitting, gate: str, up: str, down: str, activation: str) -> str | None:
    """The module that is made of some parts, if it reads one tensor and they have their steps."""
    products = fitting.structure.products
    steps = [products[name].step for name in (gate, up, down)]
    holders = {name.rpartition(".")[0] for name in (gate, up, down, activation)}
    if steps != ["mlp_up", "mlp_up", "mlp_down"] or len(holders) > 1:
        return None
    holder = holders.pop()
    read = inspect.signature(fitting.module(holder).forward).parameters
    return holder if len(read) == 1 else None


def _joined(own: Callable[..., Any], parts: _Parts, run: Run) -> Callable[..., Any]:
    """What takes the place of a module's own forward function."""

    @functools.lru_cache(_SHAPES)
    def is_known(shape: tuple[int, ...]) -> bool:
        return _is_known(own, parts, run, shape)

    def computed(rows: NDArray[Any]) -> NDArray[Any]:
        return _computed(rows, parts, run)

    def forward(x: torch.Tensor) -> Any:
        shape = x.shape
        if (
            run.observer is not None
            or run.place != "block"
            or x.numel() > _MOST_ROWS * shape[-1]
            or _is_stochastic(run)
            or not is_known(shape)
        ):
            return own(x)
        run.multiply_adds += x.numel() // shape[-1] * parts.size
        run.adding = "mlp_down"
        return tensor(by_text(computed, True, array(x)))

    return forward


def _is_stochastic(run: Run) -> bool:
    """Whether a step draws random bits, which go by the places of numbers in each text."""
    machine = run.machine
    steps = machine.mlp_up, machine.activation, machine.mlp_down
    return any(step.is_stochastic for step in steps)


def _is_known(own: Callable[..., Any], parts: _Parts, run: Run, shape: tuple[int, ...]) -> bool:
    """Whether a module gives what we do, bit for bit, for random numbers of a shape."""
    given = np.random.default_rng(0).standard_normal(shape).astype(run.carrier)
    counted, adding = run.multiply_adds, run.adding
    try:
        found = own(tensor(given))
        same = isinstance(found, torch.Tensor) and run.multiply_adds == counted + (
            given.size // shape[-1] * parts.size
        )
        expected = _computed(given.reshape(-1, shape[-1]), parts, run)
        return same and np.array_equal(
            array(found), expected.reshape(*shape[:-1], -1), equal_nan=True
        )
    finally:
        run.multiply_adds, run.adding = counted, adding


def _computed(rows: NDArray[Any], parts: _Parts, run: Run) -> NDArray[Any]:
    """A feed-forward layer as it is natively."""
    machine = run.machine
    up = layers.linear(rows, parts.up, machine.mlp_up)
    read = up if parts.gate is None else layers.linear(rows, parts.gate, machine.mlp_up)
    inner = layers.activation(read, parts.activation, machine.activation)
    if parts.gate is not None:
        inner = layers.multiply(inner, up, machine.activation)
    return layers.linear(inner, parts.down, machine.mlp_down)
