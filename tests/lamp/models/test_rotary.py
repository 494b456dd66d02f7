"""Rotary positions: tables and rotated vectors against mpmath, and how checkpoints spell them."""

import itertools
import threading

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamp.models.llama import LlamaConfig
from lamp.models.rotary import Rotary, _exact, _table

UNIT = 2.0**-53
# Of Llama 3.1 with the dimension of its heads: all three kinds of frequencies.
LLAMA_3 = Rotary(128, 5e5, "llama3", (8.0, 1.0, 4.0, 8192.0))
ROTARIES = {
    "default": Rotary(10),
    "a pair": Rotary(2, 3.0),
    "linear": Rotary(8, 500.0, "linear", (2.5,)),
    "llama3": LLAMA_3,
    "llama3, few positions": Rotary(6, 30.0, "llama3", (4.0, 1.0, 2.0, 28.0)),
}


def exact_frequencies(rotary):
    """By the wavelengths, as transformers has them; in mpmath's precision."""
    plain = [mpmath.power(rotary.theta, -mpmath.mpf(i) / rotary.dimension)
             for i in range(0, rotary.dimension, 2)]  # fmt: skip
    if rotary.kind == "default":
        return plain
    if rotary.kind == "linear":
        return [f / mpmath.mpf(rotary.factors[0]) for f in plain]
    factor, low, high, positions = map(mpmath.mpf, rotary.factors)
    result = []
    for f in plain:
        length = 2 * mpmath.pi / f
        if length > positions / low:
            f /= factor
        elif length >= positions / high:
            smooth = (positions / length - low) / (high - low)
            f = (1 - smooth) * f / factor + smooth * f
        result.append(f)
    return result


def exact_table(rotary, position):
    angles = [position * f for f in exact_frequencies(rotary)]
    return [mpmath.cos(a) for a in angles], [mpmath.sin(a) for a in angles]


def largest_error(rotary, first, count):
    """Of a table, in units of 2**-53."""
    tables = _table(rotary, first, count)
    assert all(table.shape == (count, rotary.dimension // 2) for table in tables)
    errors = [
        abs(mpmath.mpf(found) - target)
        for row in range(count)
        for table, targets in zip(tables, exact_table(rotary, first + row), strict=True)
        for found, target in zip(table[row].tolist(), targets, strict=True)
    ]
    return float(max(errors)) / UNIT


@pytest.mark.parametrize("name", ROTARIES)
def test_tables_are_within_three_units(name):
    """Two of four rounded factors, two products and their sum; measured below 2.2."""
    rotary = ROTARIES[name]
    with mpmath.workdps(60):
        for first, count in ((0, 3), (62, 5), (127, 2), (8191, 2), (99_990, 12)):
            assert largest_error(rotary, first, count) < 3


@pytest.mark.parametrize("name", ROTARIES)
def test_tables_of_the_first_positions_are_correctly_rounded(name):
    with mpmath.workdps(60):
        assert largest_error(ROTARIES[name], 0, 64) <= 0.5
        assert largest_error(ROTARIES[name], 6400, 1) <= 0.5


@given(
    pairs=st.integers(1, 12),
    theta=st.floats(1.0, 1e7),
    kind=st.sampled_from(["default", "linear", "llama3"]),
    factor=st.floats(1.0, 40.0),
    low=st.floats(0.1, 4.0),
    between=st.floats(0.1, 10.0),
    trained=st.integers(1, 10_000),
    first=st.integers(0, 100_000),
)
def test_tables_of_any_model_are_within_three_units(
    pairs, theta, kind, factor, low, between, trained, first
):
    factors = {
        "default": (),
        "linear": (factor,),
        "llama3": (factor, low, low + between, float(trained)),
    }
    rotary = Rotary(2 * pairs, theta, kind, factors[kind])
    with mpmath.workdps(60):
        assert largest_error(rotary, first, 2) < 3


def test_the_frequencies_of_llama_3_are_of_three_kinds():
    with mpmath.workdps(40):
        plain = Rotary(128, 5e5).frequencies()
        ratios = [float(a / b) for a, b in zip(plain, LLAMA_3.frequencies(), strict=True)]
    assert ratios[:29] == [1.0] * 29
    assert all(1 < a < b < 8 for a, b in itertools.pairwise(ratios[29:35]))
    np.testing.assert_allclose(ratios[35:], 8.0, rtol=1e-15)


@pytest.mark.parametrize("first", [0, 1, 61, 99_997])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ROTARIES)
def test_vectors_are_rotated_by_their_positions(name, dtype, first):
    rotary = ROTARIES[name]
    heads = np.random.default_rng(first).normal(0, 2, (3, 5, rotary.dimension)).astype(dtype)
    before = heads.copy()
    found = rotary.rotated(heads, first)
    np.testing.assert_array_equal(heads, before)
    assert found.shape == heads.shape
    assert found.dtype == np.float64
    half = rotary.dimension // 2
    with mpmath.workdps(60):
        for head, row in np.ndindex(3, 5):
            cosines, sines = exact_table(rotary, first + row)
            for i, (c, s) in enumerate(zip(cosines, sines, strict=True)):
                a, b = (mpmath.mpf(float(heads[head, row, at])) for at in (i, half + i))
                # Component i turns with component i + d/2: the errors of c and s, and a rounding
                # of each product and of their sum.
                bound = (3 * (abs(a) + abs(b)) + 2 * mpmath.hypot(a, b)) * UNIT
                assert abs(found[head, row, i] - (a * c - b * s)) < bound
                assert abs(found[head, row, half + i] - (b * c + a * s)) < bound


def test_vectors_are_rotated_in_float64_product_by_product():
    """As the docstring of lamp.Llama says, from the tables."""
    heads = np.random.default_rng(4).normal(size=(2, 70, 10))
    found = ROTARIES["default"].rotated(heads, 30)
    cosines, sines = (table.tolist() for table in _table(ROTARIES["default"], 30, 70))
    for head, row, i in np.ndindex(2, 70, 5):
        a, b = float(heads[head, row, i]), float(heads[head, row, 5 + i])
        c, s = cosines[row][i], sines[row][i]
        assert found[head, row, i] == a * c - b * s
        assert found[head, row, 5 + i] == b * c + a * s


@pytest.mark.parametrize("name", ROTARIES)
def test_rows_are_rotated_alike_wherever_they_begin(name):
    """What a cache of keys rests on."""
    heads = np.random.default_rng(0).normal(size=(2, 200, ROTARIES[name].dimension))
    whole = ROTARIES[name].rotated(heads, 0)
    for first, stop in ((0, 1), (1, 2), (63, 64), (64, 65), (50, 150), (199, 200)):
        part = ROTARIES[name].rotated(heads[:, first:stop], first)
        np.testing.assert_array_equal(part, whole[:, first:stop])


def test_lengths_and_relative_positions_are_kept():
    rotary = LLAMA_3
    query, key = np.random.default_rng(1).normal(size=(2, 1, 1, 128))
    at_origin = rotary.rotated(query, 0)
    np.testing.assert_array_equal(at_origin, query)
    far = rotary.rotated(query, 90_000)
    np.testing.assert_allclose((far**2).sum(), (query**2).sum(), rtol=1e-14)
    scores = [
        (rotary.rotated(query, n + 37) * rotary.rotated(key, n)).sum()
        for n in (0, 64, 1000, 90_000)
    ]
    np.testing.assert_allclose(scores, scores[0], rtol=0, atol=1e-13)


def test_what_has_overflowed_is_turned_without_a_word():
    """Infinite or NaN, as IEEE 754 says; warnings are errors here."""
    heads = np.array([[[np.inf, 1.0], [np.inf, -np.inf], [np.nan, 0.0], [1.7e308, 1.7e308]]])
    turned = ROTARIES["a pair"].rotated(heads, 0)[0]
    np.testing.assert_array_equal(turned[0], [np.inf, np.nan])  # inf * sin(0)
    np.testing.assert_array_equal(turned[1], [np.inf, np.nan])
    assert np.isnan(turned[2]).all()
    assert ROTARIES["a pair"].rotated(heads[:, 3:], 1)[0, 0, 1] == np.inf


def test_nobody_s_precision_of_mpmath_matters():
    """Neither the one that is set, nor what other threads do to it meanwhile."""
    rotaries = [Rotary(12, 1000.0 + i) for i in range(30)]
    expected = [_exact.__wrapped__(rotary, range(40)) for rotary in rotaries]
    with mpmath.workdps(4):
        before = mpmath.mp.prec
        found = _exact.__wrapped__(rotaries[0], range(40))
        assert mpmath.mp.prec == before
    np.testing.assert_array_equal(found, expected[0])
    done = threading.Event()

    def disturb():
        while not done.is_set():
            with mpmath.workdps(3):
                pass

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        found = [_exact.__wrapped__(rotary, range(40)) for rotary in rotaries]
    finally:
        done.set()
        thread.join()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7,), "even head dimension, not 7"),
        ((0,), "even head dimension, not 0"),
        ((-2,), "even head dimension, not -2"),
        ((4.0,), r"even head dimension, not 4\.0"),
        (("8",), "even head dimension, not '8'"),
        ((8, 0.0), r"type 'default' need 1 positive numbers, not \(0\.0,\)"),
        ((8, -1.0), "need 1 positive"),
        ((8, np.inf), "need 1 positive"),
        ((8, np.nan), "need 1 positive"),
        ((8, 10.0, "yarn"), "'yarn' are not implemented: expected one of default, linear, llama3"),
        ((8, 10.0, "default", (2.0,)), "need 1 positive numbers"),
        ((8, 10.0, "linear"), "need 2 positive numbers"),
        ((8, 10.0, "linear", (0.0,)), "need 2 positive numbers"),
        ((8, 10.0, "llama3", (8.0, 1.0, 4.0)), "need 5 positive numbers"),
        ((8, 10.0, "llama3", (8.0, 4.0, 4.0, 64.0)), "high_freq_factor must be above"),
        ((8, 10.0, "llama3", (8.0, 4.0, 1.0, 64.0)), r"but they are 1\.0 and 4\.0"),
    ],
)
def test_bad_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rotary(*arguments)


NUMBERS = {
    "factor": 8,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
STRETCHED = Rotary(8, 500.0, "llama3", (8.0, 1.0, 4.0, 64.0))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, Rotary(8)),
        ({"rope_theta": None}, Rotary(8)),
        ({"rope_theta": 500}, Rotary(8, 500.0)),
        ({"rope_type": "default", "rope_theta": 500.0}, Rotary(8, 500.0)),
        ({"rope_type": "linear", "factor": 3}, Rotary(8, kind="linear", factors=(3.0,))),
        ({"type": "linear", "factor": 3}, Rotary(8, kind="linear", factors=(3.0,))),
        ({"rope_type": "llama3", "rope_theta": 500.0, **NUMBERS}, STRETCHED),
        # What the type does not need is not looked at.
        ({"rope_type": "default", "factor": 2.0, "partial_rotary_factor": 1.0}, Rotary(8)),
    ],
)
def test_parameters_are_read(parameters, expected):
    assert Rotary.from_mapping(8, parameters) == expected


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rope_type": "yarn", "factor": 2.0}, "type 'yarn' are not implemented"),
        ({"type": "dynamic", "factor": 2.0}, "type 'dynamic' are not implemented"),
        ({"rope_type": "linear"}, "type 'linear' need factor"),
        (
            {"rope_type": "llama3", "factor": 8.0},
            "need low_freq_factor, high_freq_factor, original_max_position_embeddings",
        ),
        ({"rope_type": "linear", "factor": None}, "factor of rotary positions is None, expected a"),
        ({"rope_theta": "much"}, "rope_theta of rotary positions is 'much', expected a number"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not implemented"),
    ],
)
def test_parameters_that_cannot_be_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Rotary.from_mapping(8, parameters)


SIZES = {
    "vocab_size": 9,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", **NUMBERS}},
        {"rope_theta": 500.0, "rope_scaling": {"type": "llama3", **NUMBERS}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **NUMBERS}},
    ],
    ids=["old", "older", "new"],
)
def test_both_spellings_of_a_configuration_mean_the_same(config):
    assert LlamaConfig.from_mapping({**SIZES, **config}).rotary == STRETCHED


def test_a_configuration_that_says_nothing_of_rotary_positions_has_the_usual_ones():
    for config in ({}, {"rope_scaling": None}, {"rope_parameters": None}):
        assert LlamaConfig.from_mapping({**SIZES, **config}).rotary == Rotary(8)
