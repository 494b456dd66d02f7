"""The modules of a model on a machine: each computes its step as the native models do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fpemu
from fpemu import Format
from lamp._kernels import activations, rows
from lamp.bounds.compositions import LayerNorm, RMSNorm
from lamp.integrations.transformers.kinds import NormKind, RotaryKind
from lamp.integrations.transformers.running import Run, array, by_text, tensor
from lamp.integrations.transformers.structure import Product, Structure
from lamp.lookahead import LAMP
from lamp.models import attention as attentions
from lamp.models import layers, transformer
from lamp.models.layers import Matrix, Norm

__all__ = ["put_on_machine"]

_IGNORED: Final = frozenset(
    {
        "position_ids",
        "use_cache",
        "cache",
        "cache_position",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "num_items_in_batch",
        "return_dict",
        "dropout",
        "sliding_window",
        "training",
    }
)
"""What models hand on to attention that changes none of its numbers: windows are in the mask."""


def put_on_machine(model: nn.Module, structure: Structure, run: Run) -> None:
    """Replace what the modules of a model compute; its weights are those of the machine."""
    fitted = _Fitted(model, structure, run)
    rule = run.look_ahead.logits
    if rule is not None and not fitted.has_head:
        raise ValueError(f"{rule} recomputes logits, but the model has no head that gives them")
    for name in structure.products:
        fitted.replace(name, fitted.product(name))
    for name, norm in structure.norms.items():
        fitted.replace(name, fitted.norm(name, norm))
    for name, activation in structure.activations.items():
        fitted.replace(name, fitted.activation(activation))
    for name, rotary in structure.rotaries.items():
        fitted.replace(name, fitted.rotary(rotary))
    for name in structure.experts:
        fitted.replace(name, fitted.experts(name))
    for name, rounds in structure.embeddings.items():
        if rounds:
            fitted.replace(name, fitted.embedding(name))
    for name, number in structure.attentions.items():
        module = model.get_submodule(name)
        module._lamp_attend = fitted.attention(name, number)
        fitted.replace(name, fitted.attending(module.forward))
    for number, name in enumerate(structure.layers):
        fitted.replace(name, fitted.layer(number, model.get_submodule(name).forward))


@dataclass
class _Fitted:
    """Makes the functions that replace those of modules."""

    model: nn.Module
    structure: Structure
    run: Run

    @property
    def has_head(self) -> bool:
        """Whether one of the products gives logits of tokens."""
        head = self.model.get_output_embeddings()
        return head is not None and any(
            self.model.get_submodule(name) is head
            for name, product in self.structure.products.items()
            if product.step == "lm_head"
        )

    def replace(self, name: str, function: Callable[..., Any]) -> None:
        """Give a module another forward function."""
        self.model.get_submodule(name).forward = function

    # --- layers and attention ---------------------------------------------------------------------

    def layer(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A layer: it says that it begins, and that its attention was called."""
        run, count = self.run, len(self.structure.layers)
        expected = sum(layer == number for layer in self.structure.attentions.values())
        name = self.structure.layers[number]

        @functools.wraps(forward)
        def layer(*args: Any, **kwargs: Any) -> Any:
            if not run.is_on:
                raise RuntimeError(f"layer {name} runs by itself: call the model it is part of")
            run.enter(number)
            run.calls[number] = 0
            run.held.clear()
            if args:
                run.show(args[0])
            with run.at("block"):
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
            run.place = "head"
            if number + 1 == count:
                run.show(result[0] if isinstance(result, tuple) else result)
            return result

        return layer

    def attending(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A module around attention: what it computes in front of it are queries and keys."""
        run = self.run

        @functools.wraps(forward)
        def attending(*args: Any, **kwargs: Any) -> Any:
            run.rotated = 0
            with run.at("qkv"):
                return forward(*args, **kwargs)

        return attending

    def attention(self, name: str, layer: int) -> Callable[..., Any]:
        """What transformers' interface calls."""
        run, causal = self.run, self.model_is_causal

        def attend(
            module: nn.Module,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            mask: torch.Tensor | None,
            *,
            scaling: float | None = None,
            softcap: float | None = None,
            s_aux: torch.Tensor | None = None,
            position_bias: torch.Tensor | None = None,
            is_causal: bool | None = None,
            **others: Any,
        ) -> tuple[torch.Tensor, None]:
            unknown = [k for k, v in others.items() if v is not None and k not in _IGNORED]
            if unknown:
                raise ValueError(
                    f"attention of {name} is asked for {', '.join(sorted(unknown))}, which is not "
                    "known here"
                )
            if others.get("dropout"):
                raise ValueError(f"attention of {name} drops out: call eval() on the model")
            run.calls[layer] = run.calls.get(layer, 0) + 1
            run.place = "attention_output"
            q, k, v = (_queries(x, run) for x in (query, key, value))
            if run.observer is not None:
                for part, numbers in (("query", q), ("key", k), ("value", v)):
                    run.observe(part, numbers[0])
            asked = getattr(module, "is_causal", True) if is_causal is None else is_causal
            masks = _masks(mask, len(q), q.shape[2], k.shape[2], bool(asked), name)
            if not causal and asked and q.shape[2] < k.shape[2]:
                raise ValueError(
                    "keys and values of earlier tokens are kept, but on this machine and by these "
                    "rules earlier tokens depend on later ones: pass use_cache=False"
                )
            bias = None if position_bias is None else array(position_bias)
            scale = q.shape[3] ** -0.5 if scaling is None else float(scaling)
            out = np.zeros((len(q), q.shape[2], q.shape[1], v.shape[3]), q.dtype)
            for text in range(len(q)):
                given = _Given(
                    masks[text],
                    None if scale == q.shape[3] ** -0.5 else scale,
                    softcap,
                    None if bias is None else bias[min(text, len(bias) - 1)],
                    None if s_aux is None else array(s_aux).astype(q.dtype),
                )
                self._attend_text(q[text], k[text], v[text], given, layer, out[text])
            return tensor(out), None

        return attend

    @functools.cached_property
    def model_is_causal(self) -> bool:
        """Whether nothing that is computed for a token depends on later tokens."""
        return self.run.look_ahead.is_causal_on(self.run.hardware)

    def _attend_text(
        self,
        query: NDArray[Any],
        key: NDArray[Any],
        value: NDArray[Any],
        given: _Given,
        layer: int,
        out: NDArray[Any],
    ) -> None:
        """Attention of a text: rows that see no key give zeros, and unseen keys are cut off."""
        run = self.run
        mask, seeing, bias = None, None, given.bias
        if given.mask is not None:
            mask, seeing = given.mask
            query = query[:, seeing]
            seen = np.flatnonzero(mask.any(axis=0))
            if not len(seen):
                return
            keys = slice(int(seen[0]), int(seen[-1]) + 1)
            mask, key, value = mask[:, keys], key[:, keys], value[:, keys]
            bias = None if bias is None else bias[:, seeing, keys]
        variant = attentions.Variant(mask, given.scale, given.cap, bias, given.sinks)
        found = attentions.attention(
            *(np.ascontiguousarray(x) for x in (query, key, value)),
            hardware=run.machine,
            lamp=run.look_ahead.softmax,
            layer=layer,
            variant=variant,
            observe=None if run.observer is None else run.observe,
        )
        heads = query.shape[0]
        run.multiply_adds += (
            heads * _pairs(mask, query.shape[1], key.shape[1]) * (key.shape[2] + value.shape[2])
        )
        if run.look_ahead.softmax is not None:
            run.count("scores", found.recomputation)
        joined = found.output.transpose(1, 0, 2)
        if seeing is None:
            out[:] = joined
        else:
            out[seeing] = joined

    # --- products ---------------------------------------------------------------------------------

    @functools.cached_property
    def _matrices(self) -> dict[str, Matrix]:
        return {
            name: _matrix(self.model.get_submodule(name), self._format(name))
            for name in self.structure.products
        }

    def _format(self, name: str) -> Format:
        """The format of a module's weights."""
        return self.structure.format_of(name, self.run.hardware)

    def product(self, name: str) -> Callable[..., Any]:
        """A linear layer."""
        product = self.structure.products[name]
        if product.step == "qkv":
            return self._qkv(name, product)
        if product.step == "lm_head":
            return self._head(name)
        ahead = self.run.look_ahead
        if product.step in ("attention_output", "mlp_down") and ahead.norm is not None:
            return self._into_norm(name, product, ahead.norm)
        if product.step == "mlp_up" and ahead.activation is not None:
            return self._into_activation(name, ahead.activation)
        return self._plain(name, product.step)

    def _plain(self, name: str, step: str) -> Callable[..., Any]:
        run, matrix = self.run, self._matrices[name]

        def forward(x: torch.Tensor) -> torch.Tensor:
            held = run.held.pop(name, None)
            if held is not None and held[0] is x:
                return held[1]
            self._work(x, matrix)
            return self._linear(x, matrix, getattr(run.machine, step))

        return forward

    def _linear(self, x: torch.Tensor, matrix: Matrix, step: Any) -> torch.Tensor:
        numbers = array(x)

        def linear(part: NDArray[Any]) -> NDArray[Any]:
            return layers.linear(part, matrix, step)

        return tensor(by_text(linear, not step.is_stochastic, numbers))

    def _work(self, x: torch.Tensor, matrix: Matrix) -> None:
        self.run.multiply_adds += x.numel() // x.shape[-1] * matrix.weight.size

    def _qkv(self, name: str, product: Product) -> Callable[..., Any]:
        """Queries, keys or values: those of the same numbers are one product."""
        run, names = self.run, product.joined
        if len(names) == 1:
            return self._plain(name, "qkv")
        matrix = self._joined(names)
        ends = np.cumsum([self._matrices[each].weight.shape[1] for each in names])

        def forward(x: torch.Tensor) -> torch.Tensor:
            held = run.held.pop(name, None)
            if held is not None and held[0] is x:
                return held[1]
            self._work(x, matrix)
            parts = torch.tensor_split(
                self._linear(x, matrix, run.machine.qkv), [int(end) for end in ends[:-1]], -1
            )
            for other, part in zip(names, parts, strict=True):
                run.held[other] = x, part
            return run.held.pop(name)[1]

        return forward

    @functools.cached_property
    def _joined_matrices(self) -> dict[tuple[str, ...], Matrix]:
        return {}

    def _joined(self, names: tuple[str, ...]) -> Matrix:
        """The matrices of several linear layers side by side; theirs become parts of it."""
        if names in self._joined_matrices:
            return self._joined_matrices[names]
        parts = [self._matrices[name] for name in names]
        # Rows of torch's layout, so that the parts stay views of one array.
        weights = np.concatenate([part.weight.T for part in parts], axis=0)
        biases = [part.bias for part in parts if part.bias is not None]
        if biases and len(biases) < len(parts):
            biases = [
                np.zeros(part.weight.shape[1], weights.dtype) if part.bias is None else part.bias
                for part in parts
            ]
        bias = np.concatenate(biases) if biases else None
        matrix = Matrix(weights.T, bias, parts[0].format)
        start = 0
        for name, part in zip(names, parts, strict=True):
            rows = weights[start : start + part.weight.shape[1]]
            start += len(rows)
            module = self.model.get_submodule(name)
            if isinstance(module, nn.Linear):
                module.weight = nn.Parameter(torch.from_numpy(rows), requires_grad=False)
            self._matrices[name] = Matrix(rows.T, part.bias, part.format)
        self._joined_matrices[names] = matrix
        return matrix

    def _head(self, name: str) -> Callable[..., Any]:
        run, matrix = self.run, self._matrices[name]
        is_head = self.model.get_submodule(name) is self.model.get_output_embeddings()
        rule = run.look_ahead.logits if is_head else None
        if rule is None:

            def forward(x: torch.Tensor) -> torch.Tensor:
                self._work(x, matrix)
                return self._linear(x, matrix, run.hardware.lm_head)

            return forward

        def project(h: NDArray[Any]) -> NDArray[Any]:
            return transformer.project(h, matrix, run)

        def forward_recomputed(x: torch.Tensor) -> torch.Tensor:
            self._work(x, matrix)
            return tensor(by_text(project, False, array(x)))

        return forward_recomputed

    # --- look-ahead behind products ---------------------------------------------------------------

    def _into_norm(self, name: str, product: Product, rule: LAMP) -> Callable[..., Any]:
        """A product that is added to the residual stream in front of a norm."""
        run, matrix = self.run, self._matrices[name]
        norm_name = self.structure.next_norms.get(name)
        if norm_name is None:
            raise ValueError(
                f"{rule} recomputes what norms read, but {name} is not added to the residual "
                "stream right in front of a norm"
            )
        parameters, kind = self._norm(norm_name), self.structure.norms[norm_name]
        of = LayerNorm if kind.centered else RMSNorm
        f = of(parameters.weight, epsilon=kind.epsilon)
        step = product.step

        def forward(x: torch.Tensor) -> torch.Tensor:
            self._work(x, matrix)
            h = array(x)
            shape = (*h.shape[:-1], matrix.weight.shape[1])
            texts = [h.reshape(-1, h.shape[-1])] if h.ndim < 3 else list(h)
            texts = [np.ascontiguousarray(text) for text in texts]
            machine = run.machine
            found = [transformer.Candidates.of(step, text, matrix, machine) for text in texts]
            low = tensor(np.stack([each.low for each in found]).reshape(shape))

            def added(stream: NDArray[Any]) -> NDArray[Any]:
                parts = np.broadcast_to(stream, shape).reshape(len(found), -1, shape[-1])
                out = []
                for candidates, part in zip(found, parts, strict=True):
                    candidates.add(np.ascontiguousarray(part), machine)
                    candidates.repair()
                    sensitivity = f.sensitivity(candidates.low, 2)
                    out.append(
                        transformer.recompute(candidates, rule, run, sensitivity=sensitivity)
                    )
                return np.stack(out).reshape(shape)

            run.candidates[id(low)] = _Pending(low, added)
            return low

        return forward

    def _into_activation(self, name: str, rule: LAMP) -> Callable[..., Any]:
        """A product that an activation reads, or what the activated gate is multiplied by."""
        gates = self.structure.gates
        if any(name == factor for _, factor, _ in gates.values()):
            return self._plain(name, "mlp_up")
        if name not in gates:
            raise ValueError(
                f"{rule} recomputes what activations read, but the model's {name} is not read by "
                "one that is known"
            )
        activation_name, factor_name, down = gates[name]
        run, matrix = self.run, self._matrices[name]
        factor_matrix = None if factor_name is None else self._matrices[factor_name]
        norms, slope = (
            self._matrices[down].row_norms,
            activations.activation(self.structure.activations[activation_name]).slope,
        )

        def recomputed(text: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
            factor = None
            if factor_matrix is not None:
                factor = transformer.gated_factor(text, factor_matrix, run)
            candidates = transformer.Candidates.of("mlp_up", text, matrix, run.machine)
            candidates.repair()
            slopes = rows.mapped(slope, candidates.low.astype(np.float64))
            sensitivity = np.abs(slopes) * norms
            already = None
            if factor is not None:
                sensitivity *= np.abs(factor.values)
                already = factor.recomputed
            y = transformer.recompute(
                candidates, rule, run, sensitivity=sensitivity, already=already
            )
            return y, None if factor is None else factor.values

        def forward(x: torch.Tensor) -> torch.Tensor:
            h = array(x)
            texts = [h.reshape(-1, h.shape[-1])] if h.ndim < 3 else list(h)
            found = [recomputed(np.ascontiguousarray(text)) for text in texts]
            self._work(x, matrix)
            shape = (*h.shape[:-1], matrix.weight.shape[1])
            if factor_name is not None and factor_matrix is not None:
                self._work(x, factor_matrix)
                factors = np.stack([factor for _, factor in found if factor is not None])
                run.held[factor_name] = x, tensor(factors.reshape(shape))
            return tensor(np.stack([y for y, _ in found]).reshape(shape))

        return forward

    # --- experts ----------------------------------------------------------------------------------

    def experts(self, name: str) -> Callable[..., Any]:
        """Feed-forward layers that a router chooses from, each for the tokens that it is given.

        A token's outputs are multiplied by the router's weights and added up in the order of the
        experts' numbers; each of these results is rounded as the residual stream is.
        """
        run, module = self.run, self.model.get_submodule(name)
        for place in ("activation", "norm"):
            if getattr(run.look_ahead, place) is not None:
                raise ValueError(
                    f"{getattr(run.look_ahead, place)} recomputes products in front of functions, "
                    f"but {name} are experts, where that is not implemented"
                )
        up = "gate_up_proj" if module.has_gate else "up_proj"
        format = self._format(name)
        ups, downs = (_experts(module, each, format) for each in (up, "down_proj"))

        def forward(
            hidden: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor
        ) -> torch.Tensor:
            out = np.zeros(tuple(hidden.shape), run.carrier)
            h, index, share = (array(x) for x in (hidden, chosen, shares))
            machine = run.machine
            for number, (up_matrix, down_matrix) in enumerate(zip(ups, downs, strict=True)):
                tokens, places = np.nonzero(index == number)
                if not len(tokens):
                    continue
                rows_ = tensor(h[tokens])
                self._work(rows_, up_matrix)
                risen = self._linear(rows_, up_matrix, machine.mlp_up)
                gated = module._apply_gate(risen) if module.has_gate else module.act_fn(risen)
                self._work(gated, down_matrix)
                fallen = array(self._linear(gated, down_matrix, machine.mlp_down))
                given = np.broadcast_to(share[tokens, places][:, np.newaxis], fallen.shape)
                step = machine.residual
                weighted = fpemu.multiply(fallen, given, step.output, step.rounding)
                out[tokens] = layers.add(out[tokens], np.asarray(weighted), step)
            return tensor(out)

        return forward

    # --- functions --------------------------------------------------------------------------------

    def _norm(self, name: str) -> Norm:
        """The weights of a norm."""
        module, kind = self.model.get_submodule(name), self.structure.norms[name]
        weight = array(module.weight)
        if kind.one_more:
            weight = 1.0 + weight.astype(np.float64)
        bias = getattr(module, "bias", None)
        return Norm(weight, None if bias is None else array(bias), kind.centered)

    def norm(self, name: str, kind: NormKind) -> Callable[..., Any]:
        """A LayerNorm or RMSNorm."""
        run, parameters = self.run, self._norm(name)

        def forward(x: torch.Tensor) -> torch.Tensor:
            step = run.machine.norm

            def norm(part: NDArray[Any]) -> NDArray[Any]:
                return layers.norm(part, parameters, kind.epsilon, step)

            numbers = array(x).astype(run.carrier, copy=False)
            return tensor(by_text(norm, not step.is_stochastic, numbers))

        return forward

    def activation(self, name: str) -> Callable[..., Any]:
        """The activation of a feed-forward layer."""
        run = self.run

        def forward(x: torch.Tensor) -> torch.Tensor:
            step = run.machine.activation

            def activation(part: NDArray[Any]) -> NDArray[Any]:
                return layers.activation(part, name, step)

            return tensor(by_text(activation, not step.is_stochastic, array(x)))

        return forward

    def rotary(self, kind: RotaryKind) -> Callable[..., Any]:
        """Cosines and sines of positions, in float64."""

        def forward(
            x: torch.Tensor, position_ids: torch.Tensor, layer_type: str = ""
        ) -> tuple[torch.Tensor, torch.Tensor]:
            cosine, sine = kind.tables(position_ids.numpy(), layer_type or "")
            return tensor(cosine), tensor(sine)

        return forward

    def embedding(self, name: str) -> Callable[..., Any]:
        """Vectors of tokens, rounded as the residual stream begins."""
        run, table = self.run, array(self.model.get_submodule(name).weight)

        def forward(numbers: torch.Tensor) -> torch.Tensor:
            step = run.hardware.embedding

            def rounded(x: NDArray[Any]) -> NDArray[Any]:
                return layers.round_into(x, step)

            return tensor(by_text(rounded, not step.is_stochastic, table[numbers.numpy()]))

        return forward


class _Given(NamedTuple):
    """What a text's attention is given beside its numbers."""

    mask: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None
    scale: float | None
    cap: float | None
    bias: NDArray[Any] | None
    sinks: NDArray[Any] | None


class _Pending(NamedTuple):
    """A product that waits for the residual stream, and what gives their sum."""

    tensor: torch.Tensor
    added: Callable[[NDArray[Any]], NDArray[Any]]

    def __call__(self, stream: NDArray[Any]) -> NDArray[Any]:
        return self.added(stream)


def _experts(module: nn.Module, name: str, format: Format) -> list[Matrix]:
    """The matrices of experts."""
    weights = array(getattr(module, name))
    biases = array(getattr(module, f"{name}_bias")) if module.has_bias else [None] * len(weights)
    return [
        Matrix(weight if module.is_transposed else weight.T, bias, format)
        for weight, bias in zip(weights, biases, strict=True)
    ]


def _matrix(module: nn.Module, format: Format) -> Matrix:
    """A linear layer's weights."""
    weight = array(module.weight)
    bias = None if module.bias is None else array(module.bias)
    shaped = weight.T if isinstance(module, nn.Linear) else weight
    return Matrix(shaped, bias, format)


def _queries(x: torch.Tensor, run: Run) -> NDArray[Any]:
    """Queries, keys or values in the carrier; wide ones are rounded as the step qkv is."""
    numbers, carrier = array(x), run.carrier
    step = run.machine.qkv
    if numbers.dtype == carrier and (
        carrier == np.float32 or step.output == fpemu.format("float64")
    ):
        return numbers
    return np.asarray(fpemu.round(numbers, step.output, step.rounding)).astype(carrier, copy=False)


def _pairs(mask: NDArray[np.bool_] | None, rows_: int, tokens: int) -> int:
    """How many pairs of rows and keys there are."""
    if mask is not None:
        return int(np.count_nonzero(mask))
    return rows_ * (tokens - rows_) + rows_ * (rows_ + 1) // 2


def _masks(
    mask: torch.Tensor | None, texts: int, rows_: int, tokens: int, causal: bool, name: str
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]] | None]:
    """The keys that the rows of each text see, and which rows see any; None if causal."""
    if mask is None and causal and rows_ == tokens:
        return [None] * texts
    if mask is None and (not causal or rows_ == 1):
        whole = np.ones((texts, rows_, tokens), np.bool_)
    elif mask is None:
        raise ValueError(
            f"attention of {name} has {rows_} queries, {tokens} keys and no mask: which keys each "
            "query sees is not known"
        )
    else:
        whole = _seen(mask, name)
        whole = np.broadcast_to(whole, (texts, rows_, whole.shape[2]))[:, :, :tokens]
    known = np.tri(rows_, tokens, tokens - rows_, dtype=np.bool_)
    return [None if np.array_equal(each, known) else _of_text(each) for each in whole]


def _of_text(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The rows of a mask that see a key, and which these are."""
    seeing = np.asarray(mask.any(axis=1))
    return mask[seeing], seeing


def _seen(mask: torch.Tensor, name: str) -> NDArray[np.bool_]:
    """A mask of shape (texts, rows, tokens), True where a row sees a key."""
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(
            f"the mask of {name} has shape {tuple(mask.shape)}, expected (texts, 1, rows, keys)"
        )
    numbers = array(mask)[:, 0]
    if numbers.dtype == np.bool_:
        return numbers
    seen = np.asarray(numbers == 0)
    if not (seen | (numbers <= np.finfo(np.float16).min)).all():
        raise ValueError(f"the mask of {name} adds numbers to scores, expected 0 or -inf")
    return seen
