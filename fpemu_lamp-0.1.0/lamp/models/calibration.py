"""What a machine takes from a text before it runs a model: the order of the channels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fpemu
from fpemu._kernels.launching import default_environment
from lamp.machines import Hardware, HardwareLike, hardware, sorted_channels
from lamp.models.decoder import Decoder
from lamp.models.tokens import check_tokens

__all__ = ["calibrated"]


@default_environment()
def calibrated(machine: HardwareLike, model: Decoder, tokens: ArrayLike) -> Hardware:
    """A machine with the order of channels that its scores ask for, found on a text.

    The channels of queries and keys are sorted by the root mean square of their products over the
    causal pairs of the text, head by head.  A pair of probability z weighs z (1 - z), as its error
    does in the softmax: unweighted, the many pairs that do not matter decide.  The model runs on
    the machine with its scores in high precision, so that the order does not depend on the
    precision that it is for.

    Parameters
    ----------
    machine : Hardware or str
        Its scores, in some layers at least, have ``order="ascending"`` or ``"descending"``.
    model : Decoder
        The weights.
    tokens : array_like of int, shape (length,), or sequence of them
        The text; each of several windows is a text of its own.  An order that is found on the text
        that a machine is measured on flatters it.

    Returns
    -------
    Hardware
        It fits models of the same numbers of layers, heads and channels.  A machine that holds
        permutations already is returned as it is.

    Raises
    ------
    ValueError
        If the machine asks for no order, there are no tokens or too many, a token is not in the
        vocabulary, or the model's queries or keys overflow.
    TypeError
        If tokens are not integers.

    Notes
    -----
    Sums of few bits lose what is small against the sum so far; small products first lose least.
    Sums along a tree hardly depend on the order, exact ones not at all.  The order is one of
    summation, with rotary positions and without: weights stay as they are.

    Examples
    --------
    >>> import lamp
    >>> model = lamp.from_pretrained("embedded")
    >>> wanted = lamp.Hardware("ascending", scores=lamp.Product("e8m4", order="ascending"))
    >>> machine = lamp.calibrated(wanted, model, model.encode("When shall we three meet again?"))
    >>> machine.scores.order.shape
    (6, 4, 64)
    """
    asked = hardware(machine)
    orders = {each.scores.order for each in asked.machines.values()}
    if orders == {None}:
        raise ValueError(
            f"the scores of {asked.name!r} ask for no order of channels, such as 'ascending'"
        )
    names = {order for order in orders if isinstance(order, str)}
    if not names:
        return asked
    exact = model.with_hardware(asked.mapped(lambda each: replace(each, scores=each.levels[-1])))
    totals: Any = 0.0
    for window in _windows(tokens):
        found = _Magnitudes()
        exact._forward(check_tokens(window, model.shape), None, found)
        totals = totals + np.stack(found.sums)
    tables = {name: sorted_channels(totals, name) for name in names}

    def ordered(each: Hardware) -> Hardware:
        order = each.scores.order
        found = tables[order] if isinstance(order, str) else order
        return replace(each, scores=replace(each.scores, order=found))

    return asked.mapped(ordered)


def _windows(tokens: Any) -> Any:
    """The windows of a text, or the text as the only one."""
    several = isinstance(tokens, (list, tuple, np.ndarray)) and len(tokens) and np.ndim(tokens[0])
    return tokens if several else [tokens]


@dataclass
class _Magnitudes:
    """An observer that sums the squares of products of queries and keys, head by head."""

    sums: list[NDArray[np.float64]] = field(default_factory=list)
    _squares: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __call__(self, name: str, layer: int, numbers: NDArray[Any]) -> None:
        """Take a result of a forward pass; probabilities come last in their layer."""
        if name in ("query", "key"):
            self._squares[name] = np.square(numbers, dtype=np.float64)
        elif name == "probabilities":
            queries, keys = self._squares["query"], self._squares["key"]
            shared = np.repeat(keys, len(queries) // len(keys), axis=0)
            z = numbers.astype(np.float64)
            # Sums in a fixed order, so that equal texts give equal orders.
            met = fpemu.matmul(z * (1.0 - z), shared, fpemu.Sequential("float64"))
            self.sums.append(np.cumsum(queries * met, axis=1)[:, -1])
