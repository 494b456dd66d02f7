"""Attention by tiles of one head in rationals: every inner operation exact, then rounded once.

It reads the data of a machine and follows the definition number by number, in plain Python.
"""

import math

import mpmath
import numpy as np

from fpemu import devices, reference
from fpemu.accumulators import Sequential
from tests.oracle import decoder, operations, units
from tests.oracle.rounding import round_exact


def attention(query, key, value, machine, tau=None):
    """The outputs of all rows, and which scores were recomputed."""
    divisor = math.sqrt(query.shape[1])
    scores, overflow = decoder.scores_of(query, key, machine.scores, divisor)
    mask = np.zeros(scores.shape, bool)
    if tau is not None:
        high, _ = decoder.scores_of(query, key, machine.recomputed, divisor)
        scores = np.where(overflow, high, scores)
        mask = recomputed(scores, overflow, tau, machine.attention)
        scores = np.where(mask, high, scores)
    step = machine.values
    columns = [decoder.Vector(column, step, step.scale).values for column in value.T]
    rows = [row_of(scores[i, : i + 1].tolist(), columns, machine) for i in range(len(query))]
    return np.array(rows), mask


# --- look-ahead -----------------------------------------------------------------------------------


def recomputed(scores, overflow, tau, tiled):
    """All scores of the parts of which one passes the test of the rule, or has overflowed."""
    mask = np.zeros(scores.shape, bool)
    tokens, width = len(scores), tiled.columns // tiled.parts
    for top in range(0, tokens, tiled.rows):
        rows = range(top, min(top + tiled.rows, tokens))
        for first in range(0, rows[-1] + 1, width):
            keys = range(first, min(first + width, tokens))
            seen = [(i, j) for i in rows for j in keys if j <= i]
            behind = (first // tiled.columns + 1) * tiled.columns  # the end of the tile
            if any(overflow[i, j] or passes(scores[i], i, j, behind, tau) for i, j in seen):
                for i, j in seen:
                    mask[i, j] = True
    return mask


def passes(row, i, j, behind, tau):
    """``|y_j| exp(y_j) > tau max |y_k| exp(y_k)`` over the keys so far, those of the tile too."""
    with mpmath.workdps(40):
        weights = [abs(mpmath.mpf(y)) * mpmath.exp(y) for y in row[: min(behind, i + 1)].tolist()]
        return weights[j] > tau * max(weights)


# --- the online softmax ---------------------------------------------------------------------------


def row_of(scores, columns, machine):
    """The outputs of a row of queries: its scores, and the values' columns as operands."""
    tiled, step = machine.attention, machine.values
    largest, total, outputs = -math.inf, 0.0, [0.0] * len(columns)
    for first in range(0, len(scores), tiled.columns):
        part = scores[first : first + tiled.columns]
        missing = [0.0] * (tiled.columns - len(part))
        before, largest = largest, maximum(largest, part, tiled.running_maximum)
        e = [exponential(y, largest, tiled.exponential) for y in part] + missing
        factor = exponential(before, largest, tiled.rescaling) if before > -math.inf else 1.0
        sums = tiled.running_sum
        total = operations.multiply(total, factor, sums.format, sums.rounding)
        rescaled, total = total, summed(e, [1.0] * len(e), total, sums)
        if tiled.division == "tile":
            softmax, of_outputs = machine.softmax, tiled.rescaling
            e = [operations.divide(x, total, softmax.output, softmax.rounding) for x in e]
            factor = operations.divide(rescaled, total, of_outputs.output, of_outputs.rounding)
        terms = decoder.Vector(e, step, step.scale).values
        for place, column in enumerate(columns):
            seen = (column[first : first + len(part)] + missing)[: tiled.columns]
            start = outputs[place]
            if first:
                start = operations.multiply(start, factor, step.accumulator.format, step.rounding)
            outputs[place] = summed(terms, seen, start, step.accumulator)
    if step.scaling == "tensor":
        both = operations.multiply(step.scale, step.scale, "float64")
        outputs = [operations.multiply(o, both, "float32") for o in outputs]
    if tiled.division == "tile":
        return [round_exact(o, step.output, step.rounding) for o in outputs]
    return [operations.divide(o, total, step.output, step.rounding) for o in outputs]


def maximum(before, scores, step):
    largest = max(before, *scores)
    return largest if step is None else round_exact(largest, step.output, step.rounding)


def exponential(y, largest, step):
    inner = "float64" if step.steps is None else step.steps
    difference = operations.subtract(y, largest, inner, step.rounding if step.steps else "rne")
    return reference.function("exp", difference, step.output, step.rounding)


def summed(a, b, start, accumulator):
    """An inner product that begins with a number."""
    if isinstance(accumulator, Sequential):
        for x, y in zip(a, b, strict=True):
            start = operations.fma(x, y, start, accumulator.format, accumulator.rounding)
        return start
    names = (device.name for device in devices.entries() if device.accumulator == accumulator)
    return units.UNITS[next(names)](a, b, start)
