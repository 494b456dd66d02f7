"""A forward pass on a machine: where it stands, what it has counted, and the arithmetic of a step.

Numbers between modules are tensors in the machine's carrier.  A step reads them as numpy arrays,
text by text where random bits or budgets belong to a text, and all rows together elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from lamp.lookahead import Recomputation
from lamp.models import Forward, State
from lamp.models.attention import Variant

__all__ = ["Run", "array", "by_text", "one_thread", "tensor", "unseen", "wide"]

unseen: Final[Any] = torch._C._DisableTorchDispatch
"""Hides operations from modes: going from one library to the other is none of the model's."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to the calling thread: its others wait in a loop, on the cores of the machine."""
    threads = torch.get_num_threads()
    if threads == 1:  # or it would be set for threads that are yet to come
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def array(x: torch.Tensor) -> NDArray[Any]:
    """The numbers of a tensor, without a copy."""
    with unseen():
        found: NDArray[Any] = (x.detach() if x.requires_grad else x).numpy()
        return found


def wide(x: torch.Tensor) -> NDArray[Any]:
    """The numbers of a tensor of floating-point numbers, in float32 at least."""
    with unseen():
        return np.asarray((x if x.dtype == torch.float64 else x.float()).detach().numpy())


def tensor(x: NDArray[Any]) -> torch.Tensor:
    """An array as a tensor, without a copy."""
    with unseen():
        return torch.from_numpy(np.ascontiguousarray(x))


def by_text(
    function: Callable[..., NDArray[Any]], together: bool, *given: NDArray[Any]
) -> NDArray[Any]:
    """A function of rows, of all rows at once or of each text's.

    Parameters
    ----------
    function : callable
        Of arrays of shape (rows, n).
    together : bool
        Whether rows do not depend on each other.
    given : ndarray, shape (..., n)
        Texts come first if there are three or more dimensions.

    Returns
    -------
    ndarray, shape (..., m)
    """
    shape = given[0].shape
    flat = [np.ascontiguousarray(x).reshape(-1, x.shape[-1]) for x in given]
    if together or len(shape) < 3 or shape[0] == 1:
        out = function(*flat)
    else:
        parts = zip(*(np.split(x, shape[0]) for x in flat), strict=True)
        out = np.concatenate([function(*part) for part in parts])
    return out.reshape(*shape[:-1], out.shape[-1])


@dataclass
class Run(State):
    """The state of a forward pass of a model of transformers.

    Attributes
    ----------
    is_on : bool
        Whether a pass goes on.
    place : str
        What is computed: ``"embedding"``, ``"qkv"``, ``"attention_output"``, ``"block"`` (elsewhere
        in a layer) or ``"head"``.
    multiply_adds : int
    held : dict
        Results that were computed with another one, for the module that asks for them.
    candidates : dict
        Products that look-ahead may recompute once they are in the residual stream.
    adding : str
        The step whose product is on its way into the residual stream, "" if there is none.
    rotated : int
        How many sums of rotated numbers the layer has had.
    calls : dict
        How often each layer has called attention.
    counts : dict
        What was recomputed, by step and layer.
    masks : dict
        What is known of the masks of the pass, each of which many layers read.
    variants : dict
        Where there is an observer, what each layer's attention did to the scores of its last text.
    carrier : numpy.dtype
        That of the machine.
    weights : frozenset
        Where the weights of the model are in memory.
    large : frozenset
        Where those of them are that stay as they are, see :mod:`.weights`.
    """

    is_on: bool = field(default=False, init=False)
    place: str = field(default="embedding", init=False)
    multiply_adds: int = field(default=0, init=False)
    held: dict[str, Any] = field(default_factory=dict, init=False)
    candidates: dict[int, Any] = field(default_factory=dict, init=False)
    adding: str = field(default="", init=False)
    rotated: int = field(default=0, init=False)
    calls: dict[int, int] = field(default_factory=dict, init=False)
    counts: dict[str, dict[int, Recomputation]] = field(default_factory=dict, init=False)
    masks: dict[Any, Any] = field(default_factory=dict, init=False)
    variants: dict[int, Variant] = field(default_factory=dict, init=False)
    weights: frozenset[int] = field(default=frozenset(), init=False)
    large: frozenset[int] = field(default=frozenset(), init=False)
    carrier: np.dtype[Any] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.carrier = self.hardware.carrier

    def begin(self) -> None:
        """Begin a forward pass."""
        self.layer, self.machine, self.place = 0, self.hardware, "embedding"
        self.adding = ""
        self.rules = self.look_ahead
        self.multiply_adds = 0
        for each in (self.held, self.candidates, self.calls, self.counts, self.masks):
            each.clear()
        self.variants.clear()

    def is_weight(self, x: torch.Tensor) -> bool:
        """Whether a tensor is one of the model's weights, or a view of one."""
        return x.untyped_storage().data_ptr() in self.weights

    def show(self, name: str, x: Any) -> None:
        """Show a result for the tokens of a text to the observer, of shape (tokens, n)."""
        if self.observer is not None and isinstance(x, torch.Tensor):
            self.observe(name, array(x).reshape(-1, x.shape[-1]))

    @contextmanager
    def unobserved(self) -> Iterator[None]:
        """Show the observer nothing for a while."""
        observer, self.observer = self.observer, None
        try:
            yield
        finally:
            self.observer = observer

    def count(self, step: str, recomputation: Recomputation) -> None:
        """Add what was recomputed in a step of the current layer."""
        layers = self.counts.setdefault(step, {})
        so_far = layers.get(self.layer)
        layers[self.layer] = recomputation if so_far is None else so_far + recomputation

    def result(self, logits: NDArray[Any]) -> Forward:
        """What a pass gave, with the logits of a text."""
        recomputed: Mapping[str, tuple[Recomputation, ...]] = {
            step: tuple(layers[number] for number in sorted(layers))
            for step, layers in self.counts.items()
        }
        return Forward(logits, recomputed, self.multiply_adds)
