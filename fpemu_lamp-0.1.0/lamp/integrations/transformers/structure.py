"""The steps of a model, found by watching a few tokens go through it.

Modules are told by what they are (:mod:`lamp.integrations.transformers.kinds`); a linear layer's
step follows from when it is called: before attention it makes queries, keys and values, the first
behind attention is its output, and those after it are the feed-forward layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

from fpemu import Format
from fpemu.torch import EXACT, EXACT_OPERATIONS, Dispatch
from lamp.integrations.transformers import kinds
from lamp.integrations.transformers.kinds import NormKind, RotaryKind
from lamp.machines import LAYER_FIELDS, STEPS, Hardware

__all__ = ["ATTENTION", "Product", "Structure", "watch"]

ATTENTION: Final = "lamp"
"""The name of our attention in transformers' ``AttentionInterface``."""

_TOKENS: Final = 3  # that are sent through a model
_NORMS_OF_HEADS: Final = ("query_norm", "key_norm", "value_norm")
_INLINE: Final = ("add", "sub", "rsub", "mul", "div")
_ACTIVATIONS: Final = ("gelu", "relu", "sigmoid", "silu", "tanh")
# What layers are told by, and what any of them does with the residual stream.
_IN_LAYERS: Final = frozenset({"scores", "softmax", "values", "residual"})


@dataclass(frozen=True)
class Product:
    """A linear layer's place in a model.

    Parameters
    ----------
    step : str
        The step of a machine: ``"qkv"``, ``"attention_output"``, ``"mlp_up"``, ``"mlp_down"`` or
        ``"lm_head"``.
    layer : int or None
        The number of the layer, None outside of all.
    joined : tuple of str
        The linear layers of the step that read the same numbers, in order; itself among them.
    """

    step: str
    layer: int | None
    joined: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """What the modules of a model are, by their names.

    Parameters
    ----------
    layers : tuple of str
        The layers, in the order in which they run.
    attentions : mapping of str to int
        The modules that call attention, and the layer of each.
    products : mapping of str to Product
    norms : mapping of str to NormKind
    norm_names : mapping of str to str
        What traces call the result of each norm in a layer or behind the last one.
    activations : mapping of str to str
    rotaries : mapping of str to RotaryKind
    embeddings : mapping of str to bool
        The embeddings outside of layers; whether their vectors are rounded: not where they are
        added to others at once.
    experts : tuple of str
        The modules that hold the feed-forward layers of experts.
    next_norms : mapping of str to str
        For a product that is added to the residual stream, the norm that reads the sum.
    gates : mapping of str to tuple
        For a product that an activation reads: the activation, the product that the activated gate
        is multiplied by, or None, and the product that reads the result.
    steps : tuple of frozenset of str
        The steps that each layer has, and at last those outside of layers.
    positional : tuple of str
        The operations between modules on numbers that depend on positions alone: they are left to
        torch's own arithmetic.
    """

    layers: tuple[str, ...]
    attentions: Mapping[str, int]
    products: Mapping[str, Product]
    norms: Mapping[str, NormKind]
    norm_names: Mapping[str, str]
    activations: Mapping[str, str]
    rotaries: Mapping[str, RotaryKind]
    embeddings: Mapping[str, bool]
    experts: tuple[str, ...]
    next_norms: Mapping[str, str]
    gates: Mapping[str, tuple[str, str | None, str]]
    steps: tuple[frozenset[str], ...]
    positional: tuple[str, ...]

    def named_in_vain(self, machine: Hardware) -> dict[str, tuple[int, ...]]:
        """The steps that a machine names and the model does not have.

        Parameters
        ----------
        machine : Hardware

        Returns
        -------
        dict of str to tuple of int
            By step, the numbers of the layers that lack it; none if it is a step outside of layers.
        """
        machines = machine.counted(len(self.layers)).machines
        inside, outside = set(LAYER_FIELDS), set(STEPS) - set(LAYER_FIELDS)
        rest = [layer for layer in range(len(self.layers)) if layer not in machines]
        found: dict[str, tuple[int, ...]] = {}
        for number, own in machines.items():
            if number is None:
                known, layers = outside | (inside if rest else set()), rest
                has = self.steps[-1].union(*(self.steps[layer] for layer in rest))
            else:
                known, layers, has = inside, [number], self.steps[number]
            for step in own.named_steps(known - has):
                lacking = layers if step in inside else []
                found[step] = tuple(sorted({*found.get(step, ()), *lacking}))
        return found

    def format_of(self, name: str, machine: Hardware) -> Format:
        """The format in which a machine holds the weights of a module, or a parameter.

        Parameters
        ----------
        name : str
            The full name; what is in no layer is held as the rest of the machine has it.
        machine : Hardware

        Returns
        -------
        Format
        """
        if not machine.layers:
            return machine.weights  # type: ignore[no-any-return]
        number = _number_of(name, self.layers)
        return machine.of_layer(number, len(self.layers)).weights  # type: ignore[no-any-return]


def _number_of(name: str, layers: tuple[str, ...]) -> int:
    """The number of the layer that a module is in; that of layers if it is in none."""
    inside = (i for i, layer in enumerate(layers) if f"{name}.".startswith(f"{layer}."))
    return next(inside, len(layers))


# --- watching -------------------------------------------------------------------------------------


@dataclass
class _Call:
    """A module, the attention function or an inline operation that ran, and what it read."""

    kind: str
    name: str
    read: tuple[int, ...]
    gave: tuple[int, ...]
    module: str = ""


@dataclass
class _Watched:
    """Everything that ran, in order; tensors are told by their memory, which is kept."""

    calls: list[_Call] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)
    kept: list[torch.Tensor] = field(default_factory=list)
    attention_calls: list[str] = field(default_factory=list)
    activated: set[str] = field(default_factory=set)
    positional: dict[str, None] = field(default_factory=dict)
    from_positions: set[int] = field(default_factory=set)

    def memory(self, *given: Any) -> tuple[int, ...]:
        """Where the floating-point tensors among some objects are."""
        found: list[int] = []
        for x in given:
            if isinstance(x, list | tuple):
                found += self.memory(*x)
            elif isinstance(x, torch.Tensor) and x.is_floating_point():
                self.kept.append(x)
                found.append(x.untyped_storage().data_ptr())
        return tuple(found)


def watch(model: nn.Module) -> Structure:
    """The structure of a model.

    Parameters
    ----------
    model : PreTrainedModel
        Its attention implementation is ours; it may be changed back afterwards.

    Returns
    -------
    Structure

    Raises
    ------
    ValueError
        If attention is not called by transformers' interface, or a module with weights is of a
        kind that is not known.
    """
    names = {module: name for name, module in model.named_modules()}
    norms = _named(names, kinds.norm_of)
    activations = _named(names, kinds.activation_of)
    rotaries = _named(names, kinds.rotary_of)
    whole = {*norms, *activations, *rotaries}
    linears = {name for module, name in names.items() if kinds.is_linear(module)}
    watched = _run(model, names, whole | linears)
    if not watched.attention_calls:
        raise ValueError(
            f"{type(model).__name__} does not call transformers' AttentionInterface: its attention "
            "cannot be put on a machine"
        )
    layers = _layers(watched, model)
    products = _products(watched, model, layers, linears)
    experts = tuple(name for module, name in names.items() if kinds.is_experts(module))
    return Structure(
        layers=layers,
        attentions={
            name: layers.index(_layer_of(name, model) or "") for name in watched.attention_calls
        },
        products=products,
        norms=norms,
        norm_names=_norm_names(watched, layers, products, norms),
        activations=activations,
        rotaries=rotaries,
        embeddings=_embeddings(watched, names, layers),
        experts=experts,
        next_norms=_next_norms(watched, linears, norms),
        gates=_gates(watched, linears, activations),
        steps=_steps(
            layers,
            [
                *((name, product.step) for name, product in products.items()),
                *((name, "norm") for name in norms),
                *((name, "activation") for name in (*activations, *watched.activated, *experts)),
                *((name, step) for name in experts for step in ("mlp_up", "mlp_down")),
            ],
        ),
        positional=tuple(watched.positional),
    )


def _named(names: Mapping[nn.Module, str], kind_of: Callable[[nn.Module], Any]) -> dict[str, Any]:
    """The modules of a kind, by name."""
    found = {name: kind_of(module) for module, name in names.items()}
    return {name: kind for name, kind in found.items() if kind is not None}


def _run(model: nn.Module, names: Mapping[nn.Module, str], whole: set[str]) -> _Watched:
    """Send a few tokens through a model and note what runs, `whole` modules as one."""
    watched = _Watched()

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        watched.inside.append(names[module])

    def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        name = watched.inside.pop()
        given = result if isinstance(result, tuple) else (result,)
        read, gave = watched.memory(*args, *kwargs.values()), watched.memory(*given)
        if name in whole or isinstance(module, nn.Embedding):
            watched.calls.append(_Call("module", name, read, gave))

    def attend(module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> Any:
        name = names[module]
        batch, heads, rows, _width = query.shape
        out = torch.zeros(batch, rows, heads, value.shape[3], dtype=query.dtype)
        read = watched.memory(query, key, value)
        watched.calls.append(_Call("attention", name, read, watched.memory(out)))
        if name not in watched.attention_calls:
            watched.attention_calls.append(name)
        return out, None

    hooks = []
    for module in names:
        hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.append(module.register_forward_hook(leave, with_kwargs=True))
        module._lamp_attend = attend
    try:
        with torch.no_grad(), _Watching(watched, whole):
            model(**_tokens(model))
    finally:
        for hook in hooks:
            hook.remove()
        for module in names:
            del module._lamp_attend
    return watched


class _Watching(Dispatch):
    """Notes the arithmetic between modules, and which of it depends on positions alone."""

    def __init__(self, watched: _Watched, whole: set[str]) -> None:
        super().__init__({**EXACT_OPERATIONS}, unknown="pass")
        self._watched, self._whole = watched, whole

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        watched = self._watched
        place = watched.inside[-1] if watched.inside else ""
        if place in self._whole:
            return result
        packet = func.overloadpacket.__name__.strip("_")
        read, gave = watched.memory(*args), watched.memory(result)
        if packet in _ACTIVATIONS:
            watched.activated.add(place)
        if packet in _INLINE and gave:
            watched.calls.append(_Call("inline", packet, read, gave, place))
        if not watched.from_positions.issuperset(read):
            watched.from_positions.difference_update(gave if func._schema.is_mutable else ())
        elif gave:
            watched.from_positions.update(gave)
            if read and self._rounds(func):
                watched.positional[packet] = None
        return result

    def _rounds(self, func: Any) -> bool:
        """Whether an operation is arithmetic."""
        entry = self.table.get(func, self.table.get(func.overloadpacket))
        return entry != EXACT and not func.is_view


def _tokens(model: nn.Module) -> dict[str, Any]:
    """A few tokens as a model takes them."""
    numbers = torch.arange(_TOKENS)[None] % max(1, int(model.config.get_text_config().vocab_size))
    given = {
        "input_ids": numbers,
        "attention_mask": torch.ones_like(numbers),
        "decoder_input_ids": numbers,
        "use_cache": False,
    }
    taken = inspect.signature(model.forward).parameters
    if "input_ids" not in taken:
        raise ValueError(
            f"{type(model).__name__} does not read tokens: models are expected to take input_ids, "
            f"not {', '.join(taken)}"
        )
    return {name: value for name, value in given.items() if name in taken}


# --- what follows from what was seen --------------------------------------------------------------


def _layer_of(name: str, model: nn.Module) -> str | None:
    """The layer that a module is in: its outermost parent in a ModuleList, or None."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[:length])), nn.ModuleList):
            return ".".join(parts[: length + 1])
    return None


def _layers(watched: _Watched, model: nn.Module) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in watched.attention_calls:
        layer = _layer_of(name, model)
        if layer is None:
            raise ValueError(f"attention {name} is in no list of layers: its layer has no number")
        found[layer] = None
    return tuple(found)


def _products(
    watched: _Watched, model: nn.Module, layers: tuple[str, ...], linears: set[str]
) -> dict[str, Product]:
    """The step of each linear layer, from the order in which those of a layer are called."""
    steps: dict[str, tuple[str, int | None, int]] = {}
    for number, layer in enumerate(layers):
        calls = [c for c in watched.calls if c.name.startswith(f"{layer}.")]
        for call, step in _steps_of_layer(calls, model, linears):
            steps[call.name] = step, number, call.read[0]
    last = max(index for index, call in enumerate(watched.calls) if call.kind == "attention")
    for index, call in enumerate(watched.calls):
        if call.name in linears and call.name not in steps:
            if index < last:
                raise ValueError(
                    f"{call.name} is a linear layer in front of the layers or between them, which "
                    "no step of a machine is"
                )
            steps[call.name] = "lm_head", None, call.read[0]
    return {
        name: Product(step, layer, _joined(name, steps)) for name, (step, layer, _) in steps.items()
    }


def _steps_of_layer(
    calls: list[_Call], model: nn.Module, linears: set[str]
) -> Iterator[tuple[_Call, str]]:
    """The steps of a layer's products, in the order of its calls."""
    attended = [index for index, call in enumerate(calls) if call.kind == "attention"]
    output_of = None
    products = [(index, call) for index, call in enumerate(calls) if call.name in linears]
    for position, (index, call) in enumerate(products):
        ahead = any(where > index for where in attended)
        before = [where for where in attended if where < index]
        if before and output_of != before[-1]:
            output_of = before[-1]
            yield call, "attention_output"
        elif ahead:
            follows = next(calls[where] for where in attended if where > index)
            if not call.name.startswith(f"{follows.name}."):
                raise ValueError(
                    f"{call.name} runs in front of attention but is no part of {follows.name}: its "
                    "step is not known"
                )
            yield call, "qkv"
        else:
            inputs, outputs = _sizes(model, call.name)
            width = int(model.config.get_text_config().hidden_size)
            is_last = position == len(products) - 1
            down = outputs == width and (inputs != width or is_last)
            yield call, "mlp_down" if down else "mlp_up"


def _steps(
    layers: tuple[str, ...], places: Iterable[tuple[str, str]]
) -> tuple[frozenset[str], ...]:
    """The steps of each layer and outside of them, from names of modules and their steps."""
    found = [*(set(_IN_LAYERS) for _ in layers), {"embedding"}]
    for name, step in places:
        found[_number_of(name, layers)].add(step)
    return tuple(map(frozenset, found))


def _sizes(model: nn.Module, name: str) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    module = model.get_submodule(name)
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, nn.Linear) else (rows, columns)


def _joined(name: str, steps: Mapping[str, tuple[str, int | None, int]]) -> tuple[str, ...]:
    """The products of queries, keys and values that read the same numbers."""
    if steps[name][0] != "qkv":
        return (name,)
    return tuple(other for other, found in steps.items() if found == steps[name])


def _embeddings(
    watched: _Watched, names: Mapping[nn.Module, str], layers: tuple[str, ...]
) -> dict[str, bool]:
    """The embeddings outside of layers, and whether their vectors are rounded by themselves."""
    found = {}
    modules = {name: module for module, name in names.items()}
    for call in watched.calls:
        module = modules.get(call.name)
        if not isinstance(module, nn.Embedding) or call.kind != "module":
            continue
        if any(call.name.startswith(f"{layer}.") for layer in layers):
            continue
        scaled = type(module).forward is not nn.Embedding.forward
        reads = _readers(watched, call)
        added = bool(reads) and reads[0].kind == "inline"
        found[call.name] = not scaled and not added
    return found


def _readers(watched: _Watched, call: _Call) -> list[_Call]:
    """What reads the result of a call, in order."""
    behind = watched.calls[watched.calls.index(call) + 1 :]
    return [other for other in behind if set(other.read) & set(call.gave)]


def _norm_names(
    watched: _Watched,
    layers: tuple[str, ...],
    products: Mapping[str, Product],
    norms: Mapping[str, NormKind],
) -> dict[str, str]:
    """What traces call the results of norms."""
    found = {}
    for layer in layers:
        calls = [call for call in watched.calls if call.name.startswith(f"{layer}.")]
        heads = iter(_NORMS_OF_HEADS)
        for call in calls:
            if call.name in norms and call.name not in found:
                found[call.name] = _norm_name(call, calls, products) or next(heads, "")
    last = max(index for index, call in enumerate(watched.calls) if call.kind == "attention")
    behind = (call.name for call in watched.calls[last:] if call.name in norms)
    found |= {name: "final_norm" for name in behind if name not in found}
    return {name: shown for name, shown in found.items() if shown}


def _norm_name(norm: _Call, calls: list[_Call], products: Mapping[str, Product]) -> str:
    """What traces call the result of a norm in a layer, "" if it is one of queries or keys."""

    def steps(of: list[_Call]) -> list[str]:
        return [products[call.name].step for call in of if call.name in products]

    position = calls.index(norm)
    before, behind = calls[:position], calls[position + 1 :]
    readers = steps([call for call in behind if set(call.read) & set(norm.gave)])
    read = steps([call for call in before if set(call.gave) & set(norm.read)])
    inside = any(
        call.kind == "attention" and norm.name.startswith(f"{call.name}.") for call in behind
    )
    if "qkv" in readers:
        return "norm_1"
    if inside:
        return ""
    if read:
        return f"{read[-1]}_norm"
    further = [step for step in steps(behind) if step.startswith("mlp_")]
    return "mlp_down_norm" if "mlp_down" in steps(before) and not further else "norm_2"


def _next_norms(
    watched: _Watched, linears: set[str], norms: Mapping[str, NormKind]
) -> dict[str, str]:
    """For a product that is added to the residual stream, the norm that reads the sum."""
    found = {}
    for call in watched.calls:
        if call.name not in linears:
            continue
        reads = _readers(watched, call)
        if not reads or (reads[0].kind, reads[0].name) != ("inline", "add"):
            continue
        readers = _readers(watched, reads[0])
        norm = next((each for each in readers if each.name in norms), None)
        others = [each for each in readers[:1] if each is not norm]
        if norm is not None and not others:
            found[call.name] = norm.name
    return found


def _gates(
    watched: _Watched, linears: set[str], activations: Mapping[str, str]
) -> dict[str, tuple[str, str | None, str]]:
    """For a product that an activation reads, what becomes of the activation's values."""
    found: dict[str, tuple[str, str | None, str]] = {}
    by_memory = {
        where: call for call in watched.calls if call.name in linears for where in call.gave
    }
    for call in watched.calls:
        if call.name not in activations or not call.read or call.read[0] not in by_memory:
            continue
        gate = by_memory[call.read[0]].name
        reads = _readers(watched, call)
        if not reads:
            continue
        if reads[0].name in linears:
            found[gate] = call.name, None, reads[0].name
        elif (reads[0].kind, reads[0].name) == ("inline", "mul"):
            others = [by_memory.get(each) for each in reads[0].read if each not in call.gave]
            factor = others[0] if others else None
            down = _readers(watched, reads[0])
            is_other = factor is not None and factor.name != gate
            if factor is not None and is_other and down and down[0].name in linears:
                found[gate] = call.name, factor.name, down[0].name
    return found
