"""numpy's functions on arrays without elements, of no dimension and others: shapes are numpy's."""

import itertools
import warnings

import numpy as np
import pytest

import fpemu
from fpemu.arrays import protocol
from tests.cases import for_each

SHAPES = [(), (0,), (3,), (0, 3), (3, 0), (2, 3), (1, 1), (2, 0, 3), (0, 2, 3)]
AXES = (None, 0, 1, -1, (0, 1))

# Calls of functions that take more than an array; those that are not listed take one alone.
CALLS = {
    np.reshape: lambda x: np.reshape(x, -1),
    np.swapaxes: lambda x: np.swapaxes(x, 0, 1),
    np.moveaxis: lambda x: np.moveaxis(x, 0, -1),
    np.expand_dims: lambda x: np.expand_dims(x, 0),
    np.broadcast_to: lambda x: np.broadcast_to(x, (2, *x.shape)),
    np.roll: lambda x: np.roll(x, 1),
    np.repeat: lambda x: np.repeat(x, 2),
    np.tile: lambda x: np.tile(x, 2),
    np.take: lambda x: np.take(x, [0]),
    np.take_along_axis: lambda x: np.take_along_axis(x, np.zeros((1,) * x.ndim, int), 0),
    np.split: lambda x: np.split(x, 1),
    np.array_split: lambda x: np.array_split(x, 2),
    np.array_equal: lambda x: np.array_equal(x, x),
    np.allclose: lambda x: np.allclose(x, x),
    np.isclose: lambda x: np.isclose(x, x),
    np.dot: lambda x: np.dot(x, x),
    np.outer: lambda x: np.outer(x, x),
    np.clip: lambda x: np.clip(x, 2, 4),
    np.full_like: lambda x: np.full_like(x, 3),
    np.where: lambda x: np.where(x > 2, x, 0.5),
    np.empty_like: lambda x: np.empty_like(x) * 0 if isinstance(x, fpemu.Array) else x * 0,
    **{
        join: lambda x, join=join: join([x, x])
        for join in (np.concatenate, np.stack, np.vstack, np.hstack, np.column_stack)
    },
}
REDUCING = (np.sum, np.mean, np.prod, np.max, np.min, np.cumsum, np.cumprod, np.linalg.norm)
METHODS = ("sum", "mean", "prod", "max", "min", "argmax", "argmin", "cumsum", "any", "all")


def numbers(shape):
    return np.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape)


def outcome(call, *arrays):
    """What a call gives, or the class of what it raises; a warning counts as an error of value."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return call(*arrays)
        except RuntimeWarning:
            return ValueError
        except (ValueError, TypeError, IndexError) as error:
            return ValueError if isinstance(error, IndexError) else type(error)


def assert_alike(call, *shapes):
    given = [numbers(shape) for shape in shapes]
    expected = outcome(call, *given)
    found = outcome(call, *(fpemu.array(x, "float32") for x in given))
    if isinstance(expected, type) or isinstance(found, type):
        assert found is expected, shapes
    elif isinstance(expected, list | tuple):
        assert [np.shape(x) for x in found] == [np.shape(x) for x in expected]
    elif not isinstance(expected, str):
        assert np.shape(found) == np.shape(expected), shapes
        np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=1e-6)


def name_of(function):
    return function.__name__


EVERY = [*protocol._FUNCTIONS, *protocol._REARRANGEMENTS, *protocol._QUERIES]


@for_each("function", sorted(EVERY, key=name_of))
def test_functions_have_numpys_shapes(function):
    for shape in SHAPES:
        if function is np.dot and len(shape) > 2:
            continue
        assert_alike(CALLS.get(function, function), shape)


@pytest.mark.parametrize("function", REDUCING, ids=name_of)
def test_reductions_have_numpys_shapes_along_any_axes(function):
    kept = () if function in (np.cumsum, np.cumprod) else ({"keepdims": True},)
    for shape, axis, options in itertools.product(SHAPES, AXES, ({}, *kept)):
        assert_alike(lambda x, axis=axis, o=options: function(x, axis=axis, **o), shape)


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_numpys_shapes(name):
    for shape, axis in itertools.product(SHAPES, (None, 0)):
        assert_alike(lambda x, axis=axis: getattr(x, name)(axis=axis), shape)


UFUNCS = sorted({*protocol._ROUNDED, *protocol._EXACT, *protocol._PLAIN} - {np.power}, key=name_of)


@for_each("ufunc", UFUNCS)
def test_ufuncs_have_numpys_shapes(ufunc):
    for shapes in itertools.product(SHAPES, repeat=ufunc.nin):
        assert_alike(lambda *x: ufunc(*(each / 8 for each in x)), *shapes)


@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.maximum, np.minimum], ids=name_of)
def test_methods_of_ufuncs_have_numpys_shapes(ufunc):
    for shape, axis in itertools.product(SHAPES, (None, 0, 1)):
        assert_alike(lambda x, axis=axis: ufunc.reduce(x, axis=axis), shape)
        if ufunc in protocol._SCANS and (shape or axis != 1):
            assert_alike(lambda x, axis=axis: ufunc.accumulate(x, axis=axis), shape)


def test_products_have_numpys_shapes():
    for shapes in itertools.product(SHAPES, repeat=2):
        assert_alike(np.matmul, *shapes)


def test_an_array_may_be_the_condition():
    condition = fpemu.array([0.0, 1.0, 2.0], "bfloat16")
    found = np.where(condition, condition, 0.3)
    assert isinstance(found, fpemu.Array)
    assert found.tolist() == [0.30078125, 1.0, 2.0]
    assert np.where(condition, 1.0, 0.3).tolist() == [0.3, 1.0, 1.0]  # no operand is emulated
    assert np.where(condition)[0].tolist() == [1, 2]
