"""A whole decoder in rationals: every number computed exactly, then rounded as its step says.

It reads a machine's data and shares no code with the kernels: inner products are those of the other
oracles, functions those of fpemu.reference.
"""

import functools
import math

import mpmath
import numpy as np
from gmpy2 import mpq

from fpemu import devices, reference
from fpemu.accumulators import Promoted, ScaledCore, Sequential
from fpemu.formats import Format
from fpemu.scaling import BlockFormat
from lamp.machines.steps import Sum
from tests.oracle import accumulators, operations, units
from tests.oracle.matrices import sequential_matrix
from tests.oracle.rounding import round_exact
from tests.oracle.rounding import rounded as rounded_to

_NAMES = {
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "silu": "silu",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}


def fraction(x):
    return mpq(float(x))


# --- products -------------------------------------------------------------------------------------


def inner(a, b, accumulator):
    """An inner product as an accumulator forms it."""
    if isinstance(accumulator, Sequential):
        return accumulators.sequential(a, b, accumulator.format, accumulator.rounding)
    unit = unit_of(accumulator)
    if unit is not None:
        return unit(a, b)
    assert isinstance(accumulator, Promoted), accumulator
    assert accumulator.format.name == "float32"
    return units.promoted(unit_of(accumulator.inner), a, b, interval=accumulator.block)


@functools.cache
def unit_of(accumulator):
    """The first of the units that add like this; machines with the same have several names."""
    names = (device.name for device in devices.entries() if device.accumulator == accumulator)
    return next((units.UNITS[name] for name in names if name in units.UNITS), None)


class Vector:
    """A row of the left or a column of the right operand, rounded as a step does."""

    def __init__(self, numbers, step, scale):
        """`scale` is that of the whole operand."""
        numbers = [float(x) for x in numbers]
        operands, count = step.operands, len(numbers)
        self.scales, self.whole = None, 1.0
        if operands is None:
            self.values = numbers
        elif isinstance(operands, BlockFormat):
            self.whole = scale if operands.tensor_scale else 1.0
            blocks = pieces(numbers, operands.block)
            self.scales = [block_scale(block, operands, self.whole) for block in blocks]
            self.values = [
                over(x, fraction(s) * fraction(self.whole), operands.element, step.rounding.mode)
                for block, s in zip(blocks, self.scales, strict=True)
                for x in block
            ]
        elif step.scaling == "none":
            self.values = [round_exact(x, operands, step.rounding) for x in numbers]
        else:
            blocks = pieces(numbers, step.block if step.scaling == "block" else count)
            self.scales = [
                scale if step.scaling == "tensor" else to_largest(block, operands)
                for block in blocks
            ]
            self.values = [
                round_exact(fraction(x) / fraction(s), operands, step.rounding) if x else x
                for block, s in zip(blocks, self.scales, strict=True)
                for x in block
            ]


def pieces(numbers, size):
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def to_largest(numbers, format):
    """The scale that divides the largest magnitude into the largest number of a format."""
    largest = max(abs(x) for x in numbers) or format.max_finite
    return round_exact(fraction(largest) / fraction(format.max_finite), "float32", "rtp")


def block_scale(block, format, whole):
    largest = max(abs(x) for x in block)
    if format.tensor_scale:
        exact = fraction(largest) / (fraction(format.element.max_finite) * fraction(whole))
        return round_exact(exact, format.scale, "rne", "saturate")
    if largest == 0:
        return 2.0**format.scale.emin
    exponent = math.frexp(largest)[1] - 1 - format.element.emax
    return 2.0 ** min(max(exponent, format.scale.emin), format.scale.emax)


def over(x, scale, format, mode):
    if not x or not scale:
        return 0.0
    return round_exact(fraction(x) / scale, format, mode, "saturate")


def whole_scale(matrix, operands, step):
    """The scale of a whole matrix of weights, 1 where the step has none."""
    largest = max((abs(float(x)) for x in np.ravel(matrix)), default=0.0)
    if isinstance(operands, BlockFormat):
        reach = fraction(operands.element.max_finite) * fraction(operands.scale.max_finite)
        return round_exact(fraction(largest) / reach, "float32") if largest else 1.0
    if isinstance(operands, Format) and step.scaling == "tensor":
        return to_largest(np.ravel(matrix).tolist(), operands)
    return 1.0


def product(a, b, step):
    """The sum of a row and a column, before it is rounded into the output."""
    if isinstance(step.operands, BlockFormat):
        if isinstance(step.accumulator, ScaledCore):
            unit = unit_of(step.accumulator)
            result = unit(a.values, b.values, 0.0, a.scales, b.scales)
        else:
            block = step.operands.block
            spread = [
                [x * v.scales[i // block] for i, x in enumerate(v.values)] for v in (a, b)
            ]  # exact: a power of two or a few bits
            result = inner(*spread, step.accumulator)
        if a.whole == b.whole == 1.0:
            return result
        return operations.multiply(
            result, operations.multiply(a.whole, b.whole, "float32"), "float32"
        )
    if step.scaling == "none":
        return inner(a.values, b.values, step.accumulator)
    size = step.block if step.scaling == "block" else len(a.values)
    total = None
    parts = zip(pieces(a.values, size), pieces(b.values, size), a.scales, b.scales, strict=True)
    for x, y, of_x, of_y in parts:
        both = operations.multiply(of_x, of_y, "float64")  # exact, of two float32 numbers
        scaled = operations.multiply(inner(x, y, step.accumulator), both, "float32")
        total = scaled if total is None else operations.add(total, scaled, "float32")
    return total


def products(rows, columns, step):
    """:func:`product` of every row and every column."""
    accumulator = step.accumulator
    scaled = isinstance(step.operands, BlockFormat) or step.scaling != "none"
    if scaled or not isinstance(accumulator, Sequential):
        return [[product(row, column, step) for column in columns] for row in rows]
    a, b = (np.array([each.values for each in operand]) for operand in (rows, columns))
    return sequential_matrix(a, b.T, accumulator.format, accumulator.rounding).tolist()


def linear(x, weight, bias, step):
    """``x @ weight + bias``."""
    return checked(x, weight, bias, step)[0]


def checked(x, weight, bias, step):
    """``x @ weight + bias``, and where the sum or that may have overflowed."""
    scale = whole_scale(weight, step.operands, step)
    rows = [Vector(row, step, step.scale) for row in x]
    columns = [Vector(column, step, scale) for column in np.transpose(weight)]
    result = np.empty((len(rows), len(columns)))
    overflow = np.empty(result.shape, bool)
    sums = products(rows, columns, step)
    for i in range(len(rows)):
        for j in range(len(columns)):
            sum_ = sums[i][j]
            if bias is None:
                result[i, j] = round_exact(sum_, step.output, step.rounding)
            else:
                result[i, j] = operations.add(sum_, bias[j], step.output, step.rounding)
            overflow[i, j] = may_overflow(sum_, step.accumulator.format) or may_overflow(
                result[i, j], step.output
            )
    return result, overflow


def may_overflow(x, format):
    """Whether a number may have overflowed in a format: NaN, infinite, or the largest."""
    return not abs(x) < format.max_finite


# --- functions ------------------------------------------------------------------------------------


def rounded(numbers, step):
    return [round_exact(x, step.output, step.rounding) for x in numbers]


def norm(x, weight, bias, epsilon, step):
    """LayerNorm, or RMSNorm where there is no bias."""
    if step.steps is not None:
        return np.array([norm_in_steps(row, weight, bias, epsilon, step) for row in x])
    if bias is None:
        rows = reference.rms_norm(x, epsilon, weight)
    else:
        rows = reference.layer_norm(x, epsilon, weight, bias)
    return np.array([rounded(row, step) for row in rows])


def norm_in_steps(row, weight, bias, epsilon, step):
    """A row whose every inner step is rounded, the sums term after term."""
    inner_, mode, count = step.steps, step.rounding, len(row)

    def mean(a, b):
        sum_ = accumulators.sequential(a, b, inner_, mode)
        return operations.divide(sum_, count, inner_, mode)

    centered = [float(x) for x in row]
    if bias is not None:
        center = mean(centered, [1.0] * count)
        centered = [operations.subtract(x, center, inner_, mode) for x in centered]
    raised = operations.add(mean(centered, centered), epsilon, inner_, mode)
    root = reference.function("rsqrt", raised, inner_, mode)
    result = []
    for x, w, b in zip(centered, weight, weight if bias is None else bias, strict=True):
        normalized = operations.multiply(x, root, inner_, mode)
        if bias is None:
            result.append(operations.multiply(normalized, w, step.output, mode))
        else:
            scaled = operations.multiply(normalized, w, inner_, mode)
            result.append(operations.add(scaled, b, step.output, mode))
    return result


def softmax(scores, step):
    if step.steps is None:
        return rounded(reference.softmax(scores), step)
    inner_, mode, top = step.steps, step.rounding, max(scores)
    differences = [operations.subtract(score, top, inner_, mode) for score in scores]
    exponentials = [reference.function("exp", x, inner_, mode) for x in differences]
    total = accumulators.sequential(exponentials, [1.0] * len(exponentials), inner_, mode)
    return [operations.divide(e, total, step.output, mode) for e in exponentials]


def activation(x, name, step):
    values = [
        reference.function(_NAMES[name], float(v), step.output, step.rounding) for v in np.ravel(x)
    ]
    return np.reshape(values, np.shape(x))


def elementwise(operation, x, y, step):
    """A sum or product of two arrays."""
    pairs = zip(np.ravel(x), np.ravel(y), strict=True)
    values = [operation(float(a), float(b), step.output, step.rounding) for a, b in pairs]
    return np.reshape(values, np.shape(x))


def add(x, y, step):
    return elementwise(operations.add, x, y, step)


# --- attention ------------------------------------------------------------------------------------


def scores_of(query, key, step, divisor):
    """All causal scores of a head, zeros after them, and where they may have overflowed."""
    rows = [Vector(row, step, step.scale) for row in query]
    columns = [Vector(row, step, step.scale) for row in key]
    scores = np.zeros((len(query), len(key)))
    overflow = np.zeros(scores.shape, bool)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns[: i + 1]):
            sum_ = product(row, column, step)
            scores[i, j] = operations.divide(sum_, divisor, step.output, step.rounding)
            overflow[i, j] = may_overflow(sum_, step.accumulator.format) or may_overflow(
                scores[i, j], step.output
            )
    return scores, overflow


def attention(query, key, value, machine, mask=None):
    """A head: its steps by the names they have in a trace.

    Where there is a mask, and where they overflowed, scores are those of the recomputed step, or of
    the one whose number, from 1, the mask holds.
    """
    divisor = math.sqrt(query.shape[1])
    low, overflow = scores_of(query, key, machine.scores, divisor)
    steps = {"low_scores": low, "scores": low}
    if mask is not None:
        levels = [scores_of(query, key, step, divisor)[0] for step in again(machine)]
        steps = mixture("scores", low, levels, overflow, mask) | {"low_scores": low}
    steps["probabilities"] = np.zeros(low.shape)
    for i, row in enumerate(steps["scores"]):
        steps["probabilities"][i, : i + 1] = softmax(row[: i + 1].tolist(), machine.softmax)
    step = machine.values
    weights = [Vector(row, step, step.scale) for row in steps["probabilities"]]
    columns = [Vector(column, step, step.scale) for column in value.T]
    result = [
        [round_exact(product(w, v, step), step.output, step.rounding) for v in columns]
        for w in weights
    ]
    return {**steps, "heads": np.array(result)}


def again(machine):
    """The products that recompute, the lowest precision first."""
    return machine.recomputed if isinstance(machine.recomputed, tuple) else [machine.recomputed]


def mixture(name, low, levels, overflow, mask):
    """A step of which parts are recomputed, what its rule sees, and what overflowed."""
    mixed = np.array(low)
    for place, own in np.ndenumerate(np.where(overflow, len(levels), mask)):
        if own:
            mixed[place] = levels[int(own) - 1][place]
    return {
        name: mixed,
        f"{name}_before": np.where(overflow, levels[-1], low),  # what a rule sees
        f"{name}_overflow": overflow,
    }


def rotate(heads, rotary, step):
    """Queries or keys rotated by their positions in float64, then rounded once more.

    Cosines and sines are correctly rounded into float64, as those of the first 64 positions are.
    """
    result = np.empty(heads.shape)
    half = heads.shape[2] // 2
    for head, position, i in np.ndindex(heads.shape[0], heads.shape[1], half):
        with mpmath.workdps(60):
            angle = position * frequency(rotary, i)
            c, s = (round_exact(f(angle), "float64") for f in (mpmath.cos, mpmath.sin))
        a, b = (float(heads[head, position, place]) for place in (i, half + i))
        left = operations.subtract(in_double(a, c), in_double(b, s), "float64")
        right = operations.add(in_double(b, c), in_double(a, s), "float64")
        result[head, position, i] = round_exact(left, step.output, step.rounding)
        result[head, position, half + i] = round_exact(right, step.output, step.rounding)
    return result


def in_double(a, b):
    return operations.multiply(a, b, "float64")


def frequency(rotary, pair):
    """The angle of a pair in radians per position."""
    plain = mpmath.power(rotary.theta, mpmath.mpf(-2 * pair) / rotary.dimension)
    if rotary.kind == "default":
        return plain
    if rotary.kind == "linear":
        return plain / rotary.factors[0]
    factor, low, high, positions = rotary.factors
    wavelength = 2 * mpmath.pi / plain
    if wavelength < positions / mpmath.mpf(high):
        return plain
    if wavelength > positions / mpmath.mpf(low):
        return plain / factor
    smooth = (positions / wavelength - low) / (mpmath.mpf(high) - low)
    return (1 - smooth) * plain / factor + smooth * plain


# --- layers ---------------------------------------------------------------------------------------


def attended(qkv, counts, machine, rotary=None, mask=None):
    """All heads of a layer: its steps by their names."""
    heads, key_heads = counts
    size = qkv.shape[1] // (heads + 2 * key_heads)
    columns = np.split(qkv, qkv.shape[1] // size, axis=1)
    query = np.array(columns[:heads])
    key = np.array(columns[heads : heads + key_heads])
    value = np.array(columns[heads + key_heads :])
    if rotary is not None:
        query, key = rotate(query, rotary, machine.qkv), rotate(key, rotary, machine.qkv)
    found = []
    for head in range(heads):
        own = head * key_heads // heads
        of_head = None if mask is None else mask[head]
        found.append(attention(query[head], key[own], value[own], machine, of_head))
    steps = {name: np.array([each[name] for each in found]) for name in found[0]}
    steps["heads"] = np.hstack(list(steps["heads"]))
    return {"query": query, "key": key, "value": value, **steps}


def into_stream(x, h, matrix, machine, name, masks):
    """The stream plus a product; where there is a mask, parts of the sum are recomputed."""
    product_, overflow = checked(h, *matrix, getattr(machine, name))
    low = add(x, product_, machine.residual)
    mask = masks.get(f"{name}_mask")
    if mask is None:
        return {name: low}
    for index, number in np.ndenumerate(low):
        overflow[index] |= may_overflow(number, machine.residual.output)
    levels = [
        add(x, linear(h, *matrix, step), Sum(step.output, step.rounding)) for step in again(machine)
    ]
    return mixture(name, low, levels, overflow, mask)


def alone(h, matrix, machine, name, masks):
    """A product; where there is a mask, parts of it are recomputed."""
    low, overflow = checked(h, *matrix, getattr(machine, name))
    mask = masks.get(f"{name}_mask")
    if mask is None:
        return {name: low}
    levels = [linear(h, *matrix, step) for step in again(machine)]
    return mixture(name, low, levels, overflow, mask)


def held_by(tensors, machine):
    """The weights as a machine stores them."""
    return {name: rounded_to(x, machine.weights) for name, x in tensors.items()}


# --- GPT-2 ----------------------------------------------------------------------------------------


def gpt2(tensors, config, machine, tokens, masks=None, of_layers=None):
    """The steps of each layer of a GPT-2, by their names in a trace, and the logits behind them.

    Tensors have transformers' names.  Masks say what is recomputed, by layer and name.  Each layer
    may have a machine of its own.
    """
    outside, held = machine, held_by(tensors, machine)

    def take(name):
        return held[f"transformer.{name}.weight"], held[f"transformer.{name}.bias"]

    epsilon, heads, layers = config.layer_norm_epsilon, config.n_head, []
    embedding = held["transformer.wte.weight"]
    positions = held["transformer.wpe.weight"][: len(tokens)]
    x = add(embedding[tokens], positions, machine.embedding)
    for layer in range(config.n_layer):
        at, imposed = f"h.{layer}.", {} if masks is None else masks[layer]
        if of_layers is not None:
            machine, held = of_layers[layer], held_by(tensors, of_layers[layer])
        steps = {"stream": x, "norm_1": norm(x, *take(at + "ln_1"), epsilon, machine.norm)}
        qkv = linear(steps["norm_1"], *take(at + "attn.c_attn"), machine.qkv)
        steps |= attended(qkv, (heads, heads), machine, mask=imposed.get("mask"))
        matrix, name = take(at + "attn.c_proj"), "attention_output"
        steps |= into_stream(x, steps["heads"], matrix, machine, name, imposed)
        x = steps[name]
        steps["norm_2"] = norm(x, *take(at + "ln_2"), epsilon, machine.norm)
        steps |= alone(steps["norm_2"], take(at + "mlp.c_fc"), machine, "mlp_up", imposed)
        h = activation(steps["mlp_up"], config.activation_function, machine.activation)
        steps["activation"] = h
        matrix, name = take(at + "mlp.c_proj"), "mlp_down"
        steps |= into_stream(x, h, matrix, machine, name, imposed)
        x = steps[name]
        layers.append(steps)
    machine, held = outside, held_by(tensors, outside)
    h = norm(x, *take("ln_f"), epsilon, machine.norm)
    imposed = {} if masks is None else masks[-1]
    return [*layers, alone(h, (embedding.T, None), machine, "lm_head", imposed)]


# --- Llama ----------------------------------------------------------------------------------------


def llama(tensors, config, machine, tokens, masks=None, of_layers=None):
    """The same for a Llama."""
    outside, held = machine, held_by(tensors, machine)

    def take(name):
        """Inputs by outputs: transformers stores them transposed."""
        return held[f"model.{name}.weight"].T, held.get(f"model.{name}.bias")

    def normed(x, name):
        return norm(x, held[f"model.{name}.weight"], None, config.rms_norm_eps, machine.norm)

    counts, layers = (config.num_attention_heads, config.num_key_value_heads), []
    embedding = held["model.embed_tokens.weight"]
    x = np.array([rounded(row, machine.embedding) for row in embedding[tokens]])
    for layer in range(config.num_hidden_layers):
        at, imposed = f"layers.{layer}.", {} if masks is None else masks[layer]
        if of_layers is not None:
            machine, held = of_layers[layer], held_by(tensors, of_layers[layer])
        steps = {"stream": x, "norm_1": normed(x, at + "input_layernorm")}
        parts = [take(f"{at}self_attn.{name}_proj") for name in "qkv"]
        bias = None if parts[0][1] is None else np.concatenate([part[1] for part in parts])
        qkv = linear(steps["norm_1"], np.hstack([part[0] for part in parts]), bias, machine.qkv)
        steps |= attended(qkv, counts, machine, config.rotary, imposed.get("mask"))
        matrix, name = take(at + "self_attn.o_proj"), "attention_output"
        steps |= into_stream(x, steps["heads"], matrix, machine, name, imposed)
        x = steps[name]
        h = steps["norm_2"] = normed(x, at + "post_attention_layernorm")
        gated, overflow = checked(h, *take(at + "mlp.up_proj"), machine.mlp_up)
        if "mlp_up_mask" in imposed:
            high = linear(h, *take(at + "mlp.up_proj"), again(machine)[-1])
            gated = np.where(overflow, high, gated)
            steps |= {"gated": gated, "gated_overflow": overflow}
        steps |= alone(h, take(at + "mlp.gate_proj"), machine, "mlp_up", imposed)
        h = activation(steps["mlp_up"], config.hidden_act, machine.activation)
        h = steps["activation"] = elementwise(operations.multiply, h, gated, machine.activation)
        matrix, name = take(at + "mlp.down_proj"), "mlp_down"
        steps |= into_stream(x, h, matrix, machine, name, imposed)
        x = steps[name]
        layers.append(steps)
    machine, held = outside, held_by(tensors, outside)
    head = embedding if config.tie_word_embeddings else held["lm_head.weight"]
    imposed = {} if masks is None else masks[-1]
    return [*layers, alone(normed(x, "norm"), (head.T, None), machine, "lm_head", imposed)]
