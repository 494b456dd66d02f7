"""``emulate``: a context in which torch's operations on CPU tensors are emulated."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

from fpemu import devices, formats
from fpemu._environment import in_default_environment
from fpemu.accumulators import Accumulator, ScaledCore, Sequential
from fpemu.formats import Format, FormatLike
from fpemu.rounding import Rounding, RoundingLike, as_rounding
from fpemu.scaling import BlockFormat, block_format
from fpemu.torch.arithmetic import Arithmetic
from fpemu.torch.dispatch import TORCH, Counts, Dispatch, Handler, Unknown
from fpemu.torch.elementwise import ARITHMETIC, FUNCTIONS
from fpemu.torch.exact import EXACT_OPERATIONS
from fpemu.torch.products import PRODUCTS
from fpemu.torch.reductions import SUMS

__all__ = ["emulate", "table"]


def table(arithmetic: Arithmetic) -> dict[Any, Handler | str]:
    """The table of all operations, for :class:`Dispatch`.

    Parameters
    ----------
    arithmetic : Arithmetic
        What is left out of it stays with torch.

    Returns
    -------
    dict
        From operations to handlers, `EXACT` or `TORCH`.
    """
    elementwise = arithmetic.elementwise is not None
    functions = elementwise or arithmetic.functions is not None
    kinds = (
        (PRODUCTS, arithmetic.matmul is not None),
        (ARITHMETIC, elementwise),
        (FUNCTIONS, functions),
        (SUMS, functions or arithmetic.reductions is not None),
    )
    made: dict[Any, Handler | str] = dict(EXACT_OPERATIONS)
    for handlers, emulated in kinds:
        for operation, handler in handlers.items():
            bound = functools.partial(handler, arithmetic)
            made[operation] = in_default_environment(bound) if emulated else TORCH
    return made


# --- what torch would not take apart the same way every time --------------------------------------


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """One matrix product, whatever the memory layout of the input."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    made = rows.mm(weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
    return made.reshape(*x.shape[:-1], weight.shape[0])


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Scores, times the scale, plus the mask, the softmax, the weighted sum: each an operation."""
    if is_causal and attn_mask is not None:
        raise ValueError("attn_mask must be None if is_causal is True")
    if enable_gqa:
        key, value = (
            each.repeat_interleave(query.shape[-3] // each.shape[-3], dim=-3)
            for each in (key, value)
        )
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query.matmul(key.transpose(-2, -1)) * factor
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(attn_mask.logical_not(), -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.ops.aten._safe_softmax(scores, -1)
    if dropout_p:
        weights = torch.dropout(weights, dropout_p, True)
    return weights.matmul(value)


_REPLACED: Final[dict[Any, Callable[..., Any]]] = {
    torch.nn.functional.linear: _linear,
    torch.nn.functional.scaled_dot_product_attention: _attention,
}


class _Replacement(TorchFunctionMode):  # type: ignore[misc]
    """Runs functions that torch takes apart in several ways in one way, gradients included."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def _in_parts() -> Iterator[None]:
    """Without torch's fused layers, which no dispatch sees into."""
    backends = torch.backends
    fused, onednn = backends.mha.get_fastpath_enabled(), backends.mkldnn.enabled
    backends.mha.set_fastpath_enabled(False)
    backends.mkldnn.enabled = False
    try:
        yield
    finally:
        backends.mha.set_fastpath_enabled(fused)
        backends.mkldnn.enabled = onednn


_OF_LISTS: Final = "_foreach_"
_OTHER_NAMES: Final = {"norm": "linalg_vector_norm"}


def _one_by_one(func: Any) -> Handler:
    """An operation on lists of tensors as that on each."""
    name = func.overloadpacket.__name__.removeprefix(_OF_LISTS)
    single = getattr(torch.ops.aten, _OTHER_NAMES.get(name, name))

    def run(first: Any, *args: Any, **kwargs: Any) -> Any:
        each = [x if isinstance(x, list | tuple) else [x] * len(first) for x in args]
        results = [single(*given, **kwargs) for given in zip(first, *each, strict=True)]
        return None if name.endswith("_") else results

    return run


def _decomposition(func: Any) -> Handler | None:
    if func.overloadpacket.__name__.startswith(_OF_LISTS):
        return _one_by_one(func)
    from torch._decomp import decomposition_table  # here, as many programs need none of it

    found: Handler | None = decomposition_table.get(func)
    return found


# --- the context ----------------------------------------------------------------------------------


def _accumulator(name: str, given: Any, rounding: Rounding, scaled: bool = False) -> Any:
    """An accumulator from itself, the name of a unit, or a format that it sums in."""
    if isinstance(given, str) and "." in given:
        given = devices.get(given)
    if isinstance(given, ScaledCore) and scaled:
        return given
    if isinstance(given, ScaledCore):
        raise TypeError(
            f"{name} is a block-scaled unit, whose operands have scales: say in which format, for "
            "example operands='mxfp8_e4m3'"
        )
    if given is None or isinstance(given, Accumulator):
        return given
    try:
        return Sequential(formats.format(given), rounding)
    except TypeError:
        raise TypeError(
            f"{name} must be an accumulator, the name of a unit or a format to sum in, not "
            f"{type(given).__name__}"
        ) from None


def _format(given: FormatLike | None) -> Format | None:
    return None if given is None else formats.format(given)


def emulate(
    *,
    matmul: Accumulator | ScaledCore | FormatLike | None = None,
    elementwise: FormatLike | None = None,
    reductions: Accumulator | FormatLike | None = None,
    functions: FormatLike | None = None,
    rounding: RoundingLike = "rne",
    convert: RoundingLike | None = None,
    operands: BlockFormat | str | None = None,
    unknown: Unknown = "raise",
) -> AbstractContextManager[Counts]:
    """Run a PyTorch program in emulated arithmetic.

    Parameters
    ----------
    matmul : Accumulator, ScaledCore, Format or str, optional
        How sums of matrix products and convolutions are formed: an accumulator, the name of a unit
        such as ``"hopper.wgmma.bfloat16"``, or a format to sum in, term after term.  Left out,
        products are torch's.
    elementwise : Format or str, optional
        The format of results: arithmetic is rounded once into it, and so is what accumulators
        give.  Left out, arithmetic is torch's, and what accumulators give stays as it is.
    reductions : Accumulator, Format or str, optional
        How sums, means, variances and norms are formed, and the sums within softmax; by default
        ``Sequential(elementwise, rounding)``.
    functions : Format or str, optional
        The format of exponentials and other functions; by default `elementwise`.
    rounding : Rounding or str
        The rounding of everything but the sums.  A stochastic one with a seed draws for every step
        by itself; steps are counted from the entry into the context.
    convert : Rounding or str, optional
        How operands of products are rounded into the formats that `matmul` takes.  Left out, other
        operands are an error.
    operands : BlockFormat or str, optional
        A block-scaled format, such as ``"mxfp8_e4m3"`` or ``"nvfp4"``, that both operands of every
        product are brought into, in blocks along the inner dimension, see
        :func:`fpemu.scaling.quantize`.  `matmul` then may be a block-scaled unit, or an accumulator
        that sums the scaled elements.  In a batch, every matrix is an array of its own.
    unknown : {"raise", "pass"}
        What to do with an operation on floating-point numbers that is not emulated: to refuse it,
        or to run it in torch's own arithmetic.

    Returns
    -------
    context manager
        Gives the :class:`Counts` of the operations that ran.  It is a decorator too.

    Raises
    ------
    ValueError, TypeError
        If an argument is none of the above.  In the context, operations raise what fpemu's
        functions raise, and NotImplementedError where they are not emulated.

    Notes
    -----
    Tensors keep their dtypes.  A result that its tensor's dtype does not hold is rounded once more,
    to nearest, into that, as a machine does that stores it.  Python numbers enter as float32
    numbers, or as float64 numbers beside float64 tensors; other operands enter as they are.

    Only the operations of the thread that entered the context are emulated.

    Gradients are those of the exact functions at the emulated values: rounding counts as the
    identity ("straight-through").  A backward pass outside the context is torch's; inside it is
    emulated too.

    Examples
    --------
    >>> import torch
    >>> import fpemu.torch
    >>> x = torch.full((1, 1000), 1 / 16)
    >>> with fpemu.torch.emulate(matmul="bfloat16", elementwise="bfloat16") as counts:
    ...     y = x @ torch.ones(1000, 1)
    >>> x.sum().item(), y.item()
    (62.5, 16.0)
    >>> counts["mm"]
    {'emulated': 1}
    """
    how = as_rounding(rounding)
    if unknown not in ("raise", "pass"):
        raise ValueError(f"unknown must be 'raise' or 'pass', not {unknown!r}")
    if operands is not None and matmul is None:
        raise ValueError("operands are those of matmul: say how their products are summed")
    arithmetic = functools.partial(
        Arithmetic,
        matmul=_accumulator("matmul", matmul, how, operands is not None),
        elementwise=_format(elementwise),
        functions=_format(functions),
        reductions=_accumulator("reductions", reductions, how),
        rounding=how,
        convert=None if convert is None else as_rounding(convert),
        operands=None if operands is None else block_format(operands),
    )
    return _running(arithmetic, unknown)


@contextmanager
def _running(arithmetic: Callable[..., Arithmetic], unknown: Unknown) -> Iterator[Counts]:
    counts = Counts()
    entries = table(arithmetic(approximate=counts.approximate))
    dispatch = Dispatch(entries, decompositions=_decomposition, unknown=unknown, counts=counts)
    with _in_parts(), _Replacement(), dispatch:
        yield counts
