"""A whole decoder in rationals: every step exact and then rounded, one number after the other.

It takes a machine's data and shares no code with the kernels: inner products are those of the other
oracles, functions those of fpemu.reference.
"""

import math
from fractions import Fraction

import mpmath
import numpy as np

from fpemu import devices, reference
from fpemu.accumulators import Promoted, ScaledCore, Sequential
from fpemu.formats import Format
from fpemu.reference import round_exact
from fpemu.scaling import BlockFormat
from tests.oracle import accumulators, units

_NAMES = {"gelu_new": "gelu_tanh", "gelu": "gelu", "silu": "silu", "relu": "relu"}


def fraction(x):
    return Fraction(float(x))


# --- products -------------------------------------------------------------------------------------


def inner(a, b, accumulator):
    """An inner product as an accumulator forms it."""
    if isinstance(accumulator, Sequential):
        return accumulators.sequential(a, b, accumulator.format, accumulator.rounding)
    for device in devices.entries():
        if device.accumulator == accumulator and device.name in units.UNITS:
            return units.UNITS[device.name](a, b)
    assert isinstance(accumulator, Promoted), accumulator
    assert accumulator.outer.name == "float32"
    for device in devices.entries():
        if device.accumulator == accumulator.inner:
            unit = units.UNITS[device.name]
            return units.promoted(unit, a, b, interval=accumulator.interval)
    raise AssertionError(accumulator)


class Vector:
    """A row of the left or a column of the right operand, as a step takes it."""

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
    """What takes the largest magnitude to the largest number of a format."""
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
    """The scale of a matrix of weights, of one that has one."""
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
            # Machines with the same unit have it under several names.
            names = (d.name for d in devices.entries() if d.accumulator == step.accumulator)
            result = units.UNITS[next(names)](a.values, b.values, 0.0, a.scales, b.scales)
        else:
            block = step.operands.block
            spread = [
                [x * v.scales[i // block] for i, x in enumerate(v.values)] for v in (a, b)
            ]  # exact: a power of two or a few bits
            result = inner(*spread, step.accumulator)
        if a.whole == b.whole == 1.0:
            return result
        both = round_exact(fraction(a.whole) * fraction(b.whole), "float32")
        return times(result, both)
    if step.scaling == "none":
        return inner(a.values, b.values, step.accumulator)
    size = step.block if step.scaling == "block" else len(a.values)
    total = None
    parts = zip(pieces(a.values, size), pieces(b.values, size), a.scales, b.scales, strict=True)
    for x, y, of_x, of_y in parts:
        scaled = times(inner(x, y, step.accumulator), fraction(of_x) * fraction(of_y))
        total = scaled if total is None else plus(total, scaled, "float32")
    return total


def times(x, factor):
    return round_exact(fraction(x) * fraction_of(factor), "float32") if x else x


def fraction_of(x):
    return x if isinstance(x, Fraction) else fraction(x)


def plus(x, y, format, rounding="rne"):
    exact = fraction(x) + fraction(y)
    return round_exact(exact, format, rounding) if exact else 0.0


def linear(x, weight, bias, step):
    """``x @ weight + bias``."""
    scale = whole_scale(weight, step.operands, step)
    rows = [Vector(row, step, step.scale) for row in x]
    columns = [Vector(column, step, scale) for column in np.transpose(weight)]
    result = np.empty((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            exact = fraction(product(row, column, step))
            if bias is not None:
                exact += fraction(bias[j])
            result[i, j] = round_exact(exact, step.output, step.rounding) if exact else 0.0
    return result


# --- functions ------------------------------------------------------------------------------------


def rounded(numbers, step):
    return [round_exact(x, step.output, step.rounding) for x in numbers]


def norm(x, weight, bias, epsilon, step):
    if bias is None:
        rows = reference.rms_norm(x, epsilon, weight)
    else:
        rows = reference.layer_norm(x, epsilon, weight, bias)
    return np.array([rounded(row, step) for row in rows])


def activation(x, name, step):
    values = [_activation(float(v), name, step) for v in np.ravel(x)]
    return np.reshape(values, np.shape(x))


def _activation(x, name, step):
    if step.output.precision <= 24:
        return reference.function(_NAMES[name], x, step.output, step.rounding)
    with mpmath.workdps(60):
        root = mpmath.sqrt(2 / mpmath.pi)
        inner_ = root * (x + mpmath.mpf("0.044715") * mpmath.mpf(x) ** 3)
        assert name == "gelu_new"
        return round_exact(x * (1 + mpmath.tanh(inner_)) / 2, step.output, step.rounding)


def add(x, y, step):
    pairs = zip(np.ravel(x), np.ravel(y), strict=True)
    sums = [plus(a, b, step.output, step.rounding) for a, b in pairs]
    return np.reshape(sums, np.shape(x))


def attention(query, key, value, machine):
    """One head."""
    step, divisor = machine.scores, fraction(math.sqrt(query.shape[1]))
    rows = [Vector(row, step, step.scale) for row in query]
    columns = [Vector(row, step, step.scale) for row in key]
    values = [Vector(column, machine.values, machine.values.scale) for column in value.T]
    result = np.empty(query.shape)
    for i, row in enumerate(rows):
        scores = []
        for column in columns[: i + 1]:
            exact = fraction(product(row, column, step)) / divisor
            scores.append(round_exact(exact, step.output, step.rounding) if exact else 0.0)
        probabilities = rounded(reference.softmax(scores), machine.softmax)
        padded = probabilities + [0.0] * (len(key) - len(scores))
        weights = Vector(padded, machine.values, machine.values.scale)
        for j, column in enumerate(values):
            sum_ = product(weights, column, machine.values)
            result[i, j] = round_exact(sum_, machine.values.output, machine.values.rounding)
    return result


# --- GPT-2 ----------------------------------------------------------------------------------------


def gpt2_logits(tensors, config, machine, tokens):
    """The logits of a GPT-2 from its tensors under transformers' names."""
    held = {
        name: np.reshape([round_exact(float(v), machine.weights) for v in np.ravel(x)], x.shape)
        for name, x in tensors.items()
    }

    def take(name):
        return held[f"transformer.{name}.weight"], held[f"transformer.{name}.bias"]

    epsilon, heads = config.layer_norm_epsilon, config.n_head
    embedding = held["transformer.wte.weight"]
    positions = held["transformer.wpe.weight"][: len(tokens)]
    x = add(embedding[tokens], positions, machine.embedding)
    for layer in range(config.n_layer):
        at = f"h.{layer}."
        h = norm(x, *take(at + "ln_1"), epsilon, machine.norm)
        qkv = linear(h, *take(at + "attn.c_attn"), machine.qkv)
        query, key, value = (np.split(part, heads, axis=1) for part in np.split(qkv, 3, axis=1))
        of_heads = [attention(*of_head, machine) for of_head in zip(query, key, value, strict=True)]
        h = linear(np.hstack(of_heads), *take(at + "attn.c_proj"), machine.attention_output)
        x = add(x, h, machine.residual)
        h = norm(x, *take(at + "ln_2"), epsilon, machine.norm)
        h = linear(h, *take(at + "mlp.c_fc"), machine.mlp_up)
        h = activation(h, config.activation_function, machine.activation)
        x = add(x, linear(h, *take(at + "mlp.c_proj"), machine.mlp_down), machine.residual)
    h = norm(x, *take("ln_f"), epsilon, machine.norm)
    return linear(h, embedding.T, None, machine.lm_head)
