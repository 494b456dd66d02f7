"""Every operation that fpemu.torch emulates, against its definition in rational numbers."""

import itertools
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

import fpemu
from fpemu.reference import function, round_exact
from fpemu.torch import emulate, table
from fpemu.torch.arithmetic import Arithmetic

aten = torch.ops.aten

# Four formats, so that a step in a wrong one is seen.
FORMATS = {"matmul": "e8m6", "elementwise": "e8m5", "reductions": "e8m4", "functions": "e8m3"}


# --- the definition -------------------------------------------------------------------------------


def rounder(format):
    return np.frompyfunc(lambda q: Fraction(round_exact(q, format)), 1, 1)


of_product, rounded, of_sum, of_function = map(rounder, FORMATS.values())


def exactly(x):
    """Numbers as fractions; Python numbers as the float32 numbers that they enter as."""
    array = np.asarray(x.detach().double() if isinstance(x, torch.Tensor) else np.float32(x))
    return np.asarray(np.frompyfunc(Fraction, 1, 1)(array.astype(object)))


def total(rows):
    """The sums of rows, term after term, the axis kept."""
    sums = np.zeros(rows.shape[:-1], object)
    for terms in np.moveaxis(rows, -1, 0):
        sums = of_sum(sums + terms)
    return np.asarray(sums)[..., None]


def total_of_squares(rows):
    sums = np.zeros(rows.shape[:-1], object)
    for terms in np.moveaxis(rows, -1, 0):
        sums = of_sum(sums + terms * terms)
    return np.asarray(sums)[..., None]


def product(a, b):
    """The matrix product, term after term, before it becomes a result."""
    sums = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))
    sums = sums.astype(object)
    for k in range(a.shape[-1]):
        sums = of_product(sums + a[..., :, k, None] * b[..., None, k, :])
    return sums


def known(name):
    return np.frompyfunc(lambda x: Fraction(function(name, x, FORMATS["functions"])), 1, 1)


def by_mpmath(compute, arguments=1):
    """A function rounded from 60 digits."""

    def value(*x):
        with mpmath.workdps(60):
            exact = compute(*(mpmath.mpf(each.numerator) / each.denominator for each in x))
            return Fraction(round_exact(mpmath.mpf(exact), FORMATS["functions"]))

    return np.frompyfunc(value, arguments, 1)


def root(x):
    return np.frompyfunc(lambda q: Fraction(function("sqrt", q, FORMATS["elementwise"])), 1, 1)(x)


def along(axis):
    """A function of rows as one along an axis."""
    return lambda compute: lambda x: np.moveaxis(compute(np.moveaxis(x, axis, -1)), -1, axis)


def mean(rows):
    return rounded(total(rows) / rows.shape[-1])


def variance(rows, correction=1):
    centered = rounded(rows - mean(rows))
    return rounded(total_of_squares(centered) / (rows.shape[-1] - correction))


def scanned(combine):
    def scan(rows):
        running = [rows[..., 0]]
        for k in range(1, rows.shape[-1]):
            running.append(rounded(combine(running[-1], rows[..., k])))
        return np.stack(running, -1)

    return scan


def exponentials(rows):
    differences = rounded(rows - rows.max(axis=-1, keepdims=True))
    return differences, known("exp")(differences)


def softmax(rows):
    powers = exponentials(rows)[1]
    return rounded(powers / total(powers))


def log_softmax(rows):
    differences, powers = exponentials(rows)
    return rounded(differences - known("log")(total(powers)))


def log_sum_exp(rows):
    logarithm = known("log")(total(exponentials(rows)[1]))
    return rounded(logarithm + rows.max(axis=-1, keepdims=True))[..., 0]


def normalized(rows, epsilon, correction=0):
    centered = rounded(rows - mean(rows))
    spread = rounded(variance(rows, correction) + Fraction(epsilon))
    return rounded(centered * known("rsqrt")(spread))


def affine(x, weight, bias):
    return rounded(rounded(x * weight) + bias)


def convolution(x, weight, stride, padding, groups=1):
    """By its formula, output by output; (batch, channels, length)."""
    (batch, _, length), (outputs, channels, size) = x.shape, weight.shape
    wide = np.zeros((batch, x.shape[1], length + 2 * padding), object)
    wide[:, :, padding : padding + length] = x
    places = (length + 2 * padding - size) // stride + 1
    result = np.zeros((batch, outputs, places), object)
    for n, o, p in np.ndindex(result.shape):
        first = o // (outputs // groups) * channels
        for c, k in itertools.product(range(channels), range(size)):
            term = wide[n, first + c, p * stride + k] * weight[o, c, k]
            result[n, o, p] = of_product(result[n, o, p] + term)
    return result


def transposed_convolution(x, weight, stride, padding, more=0):
    """The convolution of the input with zeros between its numbers, the kernel turned around."""
    length = (x.shape[2] - 1) * stride + 1
    spread = np.zeros((*x.shape[:2], length + more), object)
    spread[:, :, :length:stride] = x
    turned = weight.swapaxes(0, 1)[:, :, ::-1]
    return convolution(spread, turned, 1, weight.shape[2] - 1 - padding)


def convolution_gradients(x, weight, gradient, stride, padding):
    """For the input, the weights and the bias."""
    reached = (gradient.shape[2] - 1) * stride + weight.shape[2] - 2 * padding
    of_x = transposed_convolution(gradient, weight, stride, padding, x.shape[2] - reached)
    wide = np.zeros((*x.shape[:2], x.shape[2] + 2 * padding), object)
    wide[:, :, padding : padding + x.shape[2]] = x
    of_weight = np.zeros(weight.shape, object)
    for o, c, k in np.ndindex(weight.shape):
        for n, p in np.ndindex(x.shape[0], gradient.shape[2]):
            term = gradient[n, o, p] * wide[n, c, p * stride + k]
            of_weight[o, c, k] = of_product(of_weight[o, c, k] + term)
    rows = gradient.swapaxes(0, 1).reshape(weight.shape[0], -1)
    return rounded(of_x), rounded(of_weight), rounded(total(rows)[:, 0])


def pooled(x, size):
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (-2, -1))
    windows = windows[..., ::size, ::size, :, :]
    return rounded(total(windows.reshape(*windows.shape[:-2], -1))[..., 0] / size**2)


def pooled_3d(x, size):
    windows = np.lib.stride_tricks.sliding_window_view(x, (size,) * 3, (-3, -2, -1))
    windows = windows[..., ::size, ::size, ::size, :, :, :]
    return rounded(total(windows.reshape(*windows.shape[:-3], -1))[..., 0] / size**3)


def added_at(x, places, values):
    """Values added to the numbers at places, one after the other."""
    result = x.copy()
    for place, value in zip(places, values, strict=True):
        result[place] = rounded(result[place] + value)
    return result


def raised(x, exponent):
    return by_mpmath(lambda base: base ** mpmath.mpf(exponent))(x)


# --- the numbers ----------------------------------------------------------------------------------


def numbers(*shape, seed=0, least=-2.0, most=2.0):
    """Numbers of eight bits, more than any format of the machine has."""
    drawn = np.random.default_rng(seed).uniform(least, most, shape)
    return torch.from_numpy(np.asarray(fpemu.round(drawn, "bfloat16"), np.float32))


A, B, C = (numbers(2, 3, seed=seed) for seed in range(3))
POSITIVE = numbers(2, 3, seed=3, least=0.25)
SMALL = numbers(2, 3, seed=4, least=-0.75, most=0.75)
LEFT, RIGHT, ADDED = numbers(3, 4, seed=5), numbers(4, 2, seed=6), numbers(3, 2, seed=7)
BATCH, WIDE = numbers(2, 3, 4, seed=8), numbers(2, 4, 2, seed=9)
SIGNAL, KERNEL, BIAS = numbers(2, 4, 6, seed=10), numbers(4, 2, 3, seed=11), numbers(4, seed=12)
PLAIN = numbers(2, 4, 3, seed=13)
GRADIENT = numbers(2, 2, 4, seed=14)
IMAGE = numbers(1, 2, 4, 4, seed=15)
SOLID = numbers(1, 4, 4, 2, seed=16)
PLACES = torch.tensor([[0, 0, 1], [1, 1, 1]])
FINE = torch.tensor([1 + 2.0**-11 + 2.0**-40, -3.0], dtype=torch.float64)
THIRD = Fraction(float(np.float32(0.3)))


def run_copy():
    target = torch.zeros(2, dtype=torch.float16)
    return target.copy_(FINE)


def float16(x):
    return np.frompyfunc(lambda q: Fraction(round_exact(q, "float16")), 1, 1)(x)


def gradients():
    return aten.convolution_backward(
        GRADIENT, SIGNAL, numbers(2, 4, 3, seed=17), [2], [2], [2], [1], False, [0], 1, [True] * 3
    )


def unary(name, x=A, oracle=None):
    operation = getattr(torch, name)
    return lambda: operation(x), lambda: (oracle or known(name))(exactly(x))


# By the name of an operation: what runs it, and its result by definition, or several of each.
CASES = {
    "add": [
        (lambda: A + B, lambda: rounded(exactly(A) + exactly(B))),
        (
            lambda: torch.add(A, B, alpha=0.3),
            lambda: rounded(exactly(A) + rounded(exactly(B) * THIRD)),
        ),
        (lambda: A + 0.3, lambda: rounded(exactly(A) + THIRD)),
    ],
    "sub": (lambda: A - B, lambda: rounded(exactly(A) - exactly(B))),
    "rsub": (lambda: 0.3 - A, lambda: rounded(THIRD - exactly(A))),
    "mul": [
        (lambda: A * B, lambda: rounded(exactly(A) * exactly(B))),
        (lambda: A * 0.3, lambda: rounded(exactly(A) * THIRD)),
    ],
    "div": [
        (lambda: A / POSITIVE, lambda: rounded(exactly(A) / exactly(POSITIVE))),
        (
            lambda: torch.div(A, POSITIVE, rounding_mode="floor"),
            lambda: rounded(exactly(A) / exactly(POSITIVE)) // 1,
        ),
    ],
    "reciprocal": (lambda: POSITIVE.reciprocal(), lambda: rounded(1 / exactly(POSITIVE))),
    "sqrt": (lambda: POSITIVE.sqrt(), lambda: root(exactly(POSITIVE))),
    "addcmul": (
        lambda: torch.addcmul(A, B, C, value=0.3),
        lambda: rounded(exactly(A) + rounded(rounded(exactly(B) * THIRD) * exactly(C))),
    ),
    "addcdiv": (
        lambda: torch.addcdiv(A, B, POSITIVE),
        lambda: rounded(exactly(A) + rounded(exactly(B) / exactly(POSITIVE))),
    ),
    "lerp": [
        (
            lambda: torch.lerp(A, B, 0.3),
            lambda: rounded(exactly(A) + rounded(THIRD * rounded(exactly(B) - exactly(A)))),
        ),
        (
            lambda: torch.lerp(A, B, torch.tensor(0.75)),
            lambda: rounded(exactly(B) - rounded(rounded(exactly(B) - exactly(A)) / 4)),
        ),
    ],
    "pow": [
        (lambda: A**2, lambda: rounded(exactly(A) ** 2)),
        (lambda: A**3, lambda: rounded(rounded(exactly(A) ** 2) * exactly(A))),
        (lambda: POSITIVE**0.5, lambda: root(exactly(POSITIVE))),
        (lambda: POSITIVE**-0.5, lambda: known("rsqrt")(exactly(POSITIVE))),
        (lambda: POSITIVE**-1, lambda: rounded(1 / exactly(POSITIVE))),
        (lambda: POSITIVE**-2, lambda: rounded(1 / rounded(exactly(POSITIVE) ** 2))),
        (lambda: A**1, lambda: rounded(exactly(A))),
        (lambda: A**0, lambda: exactly(torch.ones(2, 3))),
        (lambda: POSITIVE**1.75, lambda: raised(exactly(POSITIVE), 1.75)),
        (
            lambda: 2**SMALL,
            lambda: by_mpmath(lambda x: mpmath.mpf(2) ** x)(exactly(SMALL)),
        ),
    ],
    "remainder": (
        lambda: A % POSITIVE,
        lambda: rounded(
            np.where(
                exactly(A) < 0,
                rounded(exactly(torch.fmod(A.double(), POSITIVE)) + exactly(POSITIVE)),
                exactly(A) % exactly(POSITIVE),
            )
        ),
    ),
    # --- functions
    **{name: unary(name) for name in ("exp", "exp2", "expm1", "tanh", "sigmoid", "erf")},
    **{name: unary(name, POSITIVE) for name in ("log", "log2", "log1p", "rsqrt")},
    "silu": (lambda: F.silu(A), lambda: known("silu")(exactly(A))),
    "gelu": [
        (lambda: F.gelu(A), lambda: known("gelu")(exactly(A))),
        (lambda: F.gelu(A, approximate="tanh"), lambda: known("gelu_tanh")(exactly(A))),
    ],
    **{
        name: unary(name, oracle=by_mpmath(getattr(mpmath, name)))
        for name in ("sin", "cos", "tan", "atan", "sinh", "cosh", "asinh", "erfc")
    },
    **{
        name: unary(name, SMALL, by_mpmath(getattr(mpmath, name)))
        for name in ("asin", "acos", "atanh")
    },
    "acosh": unary("acosh", POSITIVE + 1, by_mpmath(mpmath.acosh)),
    "log10": unary("log10", POSITIVE, by_mpmath(mpmath.log10)),
    "atan2": (
        lambda: torch.atan2(A, B),
        lambda: by_mpmath(mpmath.atan2, 2)(exactly(A), exactly(B)),
    ),
    "hypot": (
        lambda: torch.hypot(A, B),
        lambda: by_mpmath(mpmath.hypot, 2)(exactly(A), exactly(B)),
    ),
    # --- products
    "mm": (lambda: LEFT @ RIGHT, lambda: rounded(product(exactly(LEFT), exactly(RIGHT)))),
    "bmm": (lambda: BATCH @ WIDE, lambda: rounded(product(exactly(BATCH), exactly(WIDE)))),
    "mv": (
        lambda: LEFT @ RIGHT[:, 0],
        lambda: rounded(product(exactly(LEFT), exactly(RIGHT)))[:, 0],
    ),
    "dot": (
        lambda: LEFT[0] @ RIGHT[:, 0],
        lambda: rounded(product(exactly(LEFT), exactly(RIGHT)))[0, 0],
    ),
    "addmm": [
        (
            lambda: torch.addmm(ADDED, LEFT, RIGHT),
            lambda: rounded(product(exactly(LEFT), exactly(RIGHT)) + exactly(ADDED)),
        ),
        (
            lambda: torch.addmm(ADDED, LEFT, RIGHT, beta=0.3, alpha=0.3),
            lambda: rounded(
                rounded(product(exactly(LEFT), exactly(RIGHT)) * THIRD)
                + rounded(exactly(ADDED) * THIRD)
            ),
        ),
        (
            lambda: torch.addmm(ADDED * np.nan, LEFT, RIGHT, beta=0),
            lambda: rounded(product(exactly(LEFT), exactly(RIGHT))),
        ),
    ],
    "baddbmm": (
        lambda: torch.baddbmm(ADDED, BATCH, WIDE),
        lambda: rounded(product(exactly(BATCH), exactly(WIDE)) + exactly(ADDED)),
    ),
    "addmv": (
        lambda: torch.addmv(ADDED[:, 0], LEFT, RIGHT[:, 0]),
        lambda: rounded(product(exactly(LEFT), exactly(RIGHT)) + exactly(ADDED))[:, 0],
    ),
    "addbmm": (
        lambda: torch.addbmm(ADDED, BATCH, WIDE),
        lambda: rounded(
            product(
                np.concatenate([*exactly(BATCH)], axis=1),
                np.concatenate([*exactly(WIDE)], axis=0),
            )
            + exactly(ADDED)
        ),
    ),
    "_grouped_mm": (
        lambda: aten._grouped_mm(LEFT, WIDE, torch.tensor([1, 3], dtype=torch.int32)),
        lambda: rounded(
            np.concatenate(
                [
                    product(exactly(LEFT)[:1], exactly(WIDE)[0]),
                    product(exactly(LEFT)[1:], exactly(WIDE)[1]),
                ]
            )
        ),
    ),
    "convolution": [
        (
            lambda: F.conv1d(SIGNAL, KERNEL, BIAS, stride=2, padding=1, groups=2),
            lambda: rounded(
                convolution(exactly(SIGNAL), exactly(KERNEL), 2, 1, groups=2)
                + exactly(BIAS)[:, None]
            ),
        ),
        (
            lambda: F.conv_transpose1d(PLAIN, KERNEL, stride=2, padding=1),
            lambda: rounded(transposed_convolution(exactly(PLAIN), exactly(KERNEL), 2, 1)),
        ),
    ],
    "convolution_backward": (
        gradients,
        lambda: convolution_gradients(
            exactly(SIGNAL), exactly(numbers(2, 4, 3, seed=17)), exactly(GRADIENT), 2, 2
        ),
    ),
    # --- sums
    "sum": [
        (lambda: BATCH.sum(1), lambda: rounded(total(exactly(BATCH).swapaxes(1, 2))[..., 0])),
        (lambda: BATCH.sum(), lambda: rounded(total(exactly(BATCH).reshape(-1))[0])),
        (
            lambda: BATCH.sum((0, 2), keepdim=True),
            lambda: rounded(total(exactly(BATCH).swapaxes(0, 1).reshape(3, 8)))[None],
        ),
    ],
    "mean": (lambda: BATCH.mean(-1), lambda: mean(exactly(BATCH))[..., 0]),
    "var": (lambda: BATCH.var(-1), lambda: variance(exactly(BATCH))[..., 0]),
    "std": (
        lambda: BATCH.std(-1, correction=0),
        lambda: root(variance(exactly(BATCH), 0))[..., 0],
    ),
    "var_mean": (
        lambda: torch.var_mean(BATCH, -1),
        lambda: (variance(exactly(BATCH))[..., 0], mean(exactly(BATCH))[..., 0]),
    ),
    "std_mean": (
        lambda: torch.std_mean(BATCH, -1),
        lambda: (root(variance(exactly(BATCH)))[..., 0], mean(exactly(BATCH))[..., 0]),
    ),
    "linalg_vector_norm": [
        (lambda: BATCH.norm(dim=-1), lambda: root(total_of_squares(exactly(BATCH)))[..., 0]),
        (
            lambda: torch.linalg.vector_norm(BATCH, 1, dim=-1),
            lambda: rounded(total(abs(exactly(BATCH))))[..., 0],
        ),
        (
            lambda: torch.linalg.vector_norm(BATCH, float("inf"), dim=-1),
            lambda: abs(exactly(BATCH)).max(axis=-1),
        ),
        (
            lambda: torch.linalg.vector_norm(BATCH, -float("inf"), dim=-1),
            lambda: abs(exactly(BATCH)).min(axis=-1),
        ),
    ],
    "cumsum": (
        lambda: BATCH.cumsum(1),
        lambda: along(1)(scanned(lambda a, b: a + b))(exactly(BATCH)),
    ),
    "cumprod": (
        lambda: BATCH.cumprod(-1),
        lambda: scanned(lambda a, b: a * b)(exactly(BATCH)),
    ),
    "prod": [
        (
            lambda: BATCH.prod(-1),
            lambda: scanned(lambda a, b: a * b)(exactly(BATCH))[..., -1],
        ),
        (
            lambda: A.prod(),
            lambda: scanned(lambda a, b: a * b)(exactly(A).reshape(-1))[-1],
        ),
    ],
    "index_put": (
        lambda: aten.index_put(torch.ones(2), [PLACES], A, accumulate=True),
        lambda: added_at(exactly(torch.ones(2)), PLACES.flatten().tolist(), exactly(A).reshape(-1)),
    ),
    "scatter_add": (
        lambda: B.scatter_add(1, PLACES, A),
        lambda: added_at(
            exactly(B),
            [(i, j) for i, row in enumerate(PLACES.tolist()) for j in row],
            exactly(A).reshape(-1),
        ),
    ),
    "avg_pool2d": (lambda: F.avg_pool2d(IMAGE, 2), lambda: pooled(exactly(IMAGE), 2)),
    "avg_pool3d": (lambda: F.avg_pool3d(SOLID, 2), lambda: pooled_3d(exactly(SOLID), 2)),
    # --- softmax and norms
    "_softmax": (lambda: BATCH.softmax(1), lambda: along(1)(softmax)(exactly(BATCH))),
    "_safe_softmax": (
        lambda: aten._safe_softmax(BATCH, -1),
        lambda: softmax(exactly(BATCH)),
    ),
    "_log_softmax": (lambda: BATCH.log_softmax(-1), lambda: log_softmax(exactly(BATCH))),
    "logsumexp": (lambda: BATCH.logsumexp(-1), lambda: log_sum_exp(exactly(BATCH))),
    "native_layer_norm": (
        lambda: F.layer_norm(BATCH, (4,), RIGHT[:, 0], RIGHT[:, 1], 0.5),
        lambda: affine(normalized(exactly(BATCH), 0.5), *exactly(RIGHT).T),
    ),
    "native_group_norm": (
        lambda: F.group_norm(SIGNAL, 2, BIAS, -BIAS, 0.5),
        lambda: affine(
            normalized(exactly(SIGNAL).reshape(2, 2, 12), 0.5).reshape(2, 4, 6),
            exactly(BIAS)[:, None],
            -exactly(BIAS)[:, None],
        ),
    ),
    "native_batch_norm": (
        lambda: F.batch_norm(SIGNAL, BIAS, BIAS.abs(), BIAS, -BIAS, eps=0.5),
        lambda: batch_norm(),
    ),
    "_native_batch_norm_legit_no_training": (
        lambda: aten._native_batch_norm_legit_no_training(
            SIGNAL, BIAS, -BIAS, BIAS, BIAS.abs(), 0.1, 0.5
        )[0],
        lambda: batch_norm(),
    ),
    # --- conversions from float64, which torch would round twice
    "_to_copy": (lambda: FINE.half(), lambda: float16(exactly(FINE))),
    "copy": (run_copy, lambda: float16(exactly(FINE))),
}


def batch_norm():
    per_channel = exactly(BIAS)[:, None]
    factor = known("rsqrt")(rounded(abs(per_channel) + Fraction(1, 2)))
    centered = rounded(exactly(SIGNAL) - per_channel)
    return affine(rounded(centered * factor), per_channel, -per_channel)


def single_cases():
    for name, given in CASES.items():
        for number, case in enumerate(given if isinstance(given, list) else [given]):
            yield pytest.param(name, *case, id=f"{name}-{number}")


@pytest.mark.parametrize(("name", "run", "define"), single_cases())
def test_an_operation_is_what_its_definition_says(name, run, define):
    with emulate(**FORMATS) as counts:
        results = run()
    assert name in {each.removesuffix("_") for each in counts.emulated} | {*counts.emulated}
    assert not counts.unknown
    assert not counts.torch
    results = results if isinstance(results, tuple) else (results,)
    expected = define()
    expected = expected if isinstance(expected, tuple) else (expected,)
    for result, exact in zip(results, expected, strict=True):
        values = result.double().numpy()
        assert values.shape == np.shape(exact)
        np.testing.assert_array_equal(values, np.asarray(exact).astype(np.float64))


def test_every_handler_has_a_case():
    everything = Arithmetic(matmul=fpemu.Sequential("float32"), elementwise=fpemu.format("float32"))
    handled = {
        getattr(operation, "overloadpacket", operation).__name__
        for operation, handler in table(everything).items()
        if callable(handler)
    }
    assert handled == {*CASES}
