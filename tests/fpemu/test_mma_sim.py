"""Matrix units against MMA-Sim, on inner products that show how they sum.

The oracle of tests/oracle/units.py and the kernels are compared on the same inner products, so that
all three agree.  `analysis/check_units.py` does it at length.
"""

import numpy as np
import pytest

import fpemu
from fpemu import devices, scaling
from fpemu.accumulators import ScaledCore
from tests.oracle import directed, mma_sim
from tests.oracle.bits import assert_same_bits, differences
from tests.oracle.units import UNITS

ROWS = 48
BY_ORACLE = 5  # of these


@pytest.fixture(autouse=True, scope="module")
def _mma_sim():
    """Ask for MMA-Sim where it is needed: to import it takes seconds, which collectors need not."""
    if reason := mma_sim.missing():
        pytest.skip(reason)


def formats_of(name):
    unit = UNITS[name]
    return (*unit.input_formats, unit.c_format)


def is_mixed(name):
    return len(set(UNITS[name].input_formats)) > 1


def drawn_scales(generator, unit, shape, *, with_nan):
    """Scales of both operands, near one another or any."""
    pool = fpemu.values(unit.scale)
    pool = pool[pool >= 0]
    middle = len(pool) // 2
    pool = pool if generator.random() < 0.5 else pool[middle - 3 : middle + 4]
    pool = [*pool, np.nan] if with_nan else pool
    return tuple(generator.choice(pool, shape) for _ in "ab")


def by_kernel(name, a, b, c, scales=None):
    """The inner products of rows."""
    accumulator = devices.get(name)
    if scales is None:
        product = fpemu.matmul(a[:, None, :], b[:, :, None], accumulator, c=c[:, None, None])
        return product.reshape(-1)
    formats = (
        scaling.BlockFormat("own", element, accumulator.scale, accumulator.scale_block)
        for element in accumulator.input_formats
    )
    left, right = (
        scaling.Scaled(*((x.T, s.T) if axis == 0 else (x, s)), format, axis)
        for x, s, format, axis in zip((a, b), scales, formats, (1, 0), strict=True)
    )
    return np.diagonal(scaling.matmul(left, right, accumulator, c=np.diag(c)))


def by_oracle(name, a, b, c, scales=None):
    scales = () if scales is None else scales
    rows = zip(a.tolist(), b.tolist(), c.tolist(), *(x.tolist() for x in scales), strict=True)
    return [UNITS[name](*row) for row in rows]


def drawn(name, kind, generator, rows=ROWS):
    """Operands of an instruction, and scales if it takes them."""
    accumulator, terms = devices.get(name), mma_sim.INSTRUCTIONS[name].length
    terms = terms if terms > 4 else 8
    operands = directed.drawn(kind, generator, formats_of(name), rows, terms)
    if not isinstance(accumulator, ScaledCore):
        return operands
    shape = rows, -(-terms // accumulator.scale_block)
    with_nan = kind is directed.special
    return (*operands, drawn_scales(generator, accumulator, shape, with_nan=with_nan))


def test_every_unit_is_in_mma_sim_or_has_a_reason():
    others = [name for name in devices.list() if name not in mma_sim.INSTRUCTIONS]
    assert set(mma_sim.INSTRUCTIONS) <= set(devices.list())
    # fp8 through mma on data-center parts, a way to use a unit, and processors.
    known = ("hopper.mma.e", "blackwell.mma.e", "hopper.wgmma-promoted.", "intel.", "arm.")
    assert all(name.startswith(known) for name in others)


# Of units that are the same one is asked everything.
FIRST = set({devices.get(name): name for name in mma_sim.INSTRUCTIONS}.values())


@pytest.mark.parametrize("name", mma_sim.INSTRUCTIONS)
def test_units_agree_with_mma_sim_and_the_oracle(name):
    generator = np.random.default_rng(len(name))
    few = is_mixed(name) or name not in FIRST
    for kind in directed.KINDS[2:4] if few else directed.KINDS:
        operands = drawn(name, kind, generator)
        actual = by_kernel(name, *operands)
        assert_same_bits(actual, mma_sim.results(name, *operands), about=kind.__name__)
        some = [
            tuple(s[:BY_ORACLE] for s in x) if isinstance(x, tuple) else x[:BY_ORACLE]
            for x in operands
        ]
        assert_same_bits(actual[:BY_ORACLE], by_oracle(name, *some), about=kind.__name__)


WITH_FLOOR = [
    name
    for name in mma_sim.INSTRUCTIONS
    if name.endswith(("mma.bfloat16", "mma.tf32", "wgmma.bfloat16", "tcgen05.bfloat16"))
    or name.endswith("float16.float16")
    if getattr(devices.get(name), "exponent_floor", None) is not None
]


@pytest.mark.parametrize("name", WITH_FLOOR)
def test_the_floors_are_those_of_mma_sim(name):
    operands = drawn(name, directed.floors, np.random.default_rng(3), 600)
    expected = mma_sim.results(name, *operands)
    assert_same_bits(by_kernel(name, *operands), expected)
    core = devices.get(name)
    for change in (-1, 1):
        other = fpemu.TensorCore(
            core.block,
            core.fraction_bits,
            core.format,
            core.rounding.mode,
            core.exponent_floor + change,
            core.inputs,
        )
        a, b, _ = operands
        changed = fpemu.matmul(a[:, None, :], b[:, :, None], other).reshape(-1)
        assert differences(changed, expected).size


# What was wrong once, in single inner products: the unit, a, b, c, the result.
SETTLED = [
    # The sum of products is floored 32 bits behind the larger exponent, the result 31 bits.
    ("cdna3.mfma.bfloat16", [2.0**-11, 2.0**-15], [2.0**-11, 2.0**-16], 2 - 2.0**-23, 2.0),
    (
        "cdna3.mfma.bfloat16",
        [-255.0, -128.0],
        [2.0**-32, 2.0**-32],
        1.0,
        float.fromhex("0x1.fffffep-1"),
    ),
    # A zero accumulator has exponent -126: what lies 32 bits below is floored.
    ("cdna3.mfma-k4.bfloat16", [-(2.0**-100)], [2.0**-100], 0.0, -0.0),
    # Zero products never align, c is kept.
    ("hopper.mma.bfloat16", [2.0**-40, 0.0], [2.0**-40, 2.0**127], 0.0, 2.0**-80),
    # A negative sum that rounds to zero is +0.
    ("ampere.mma.float16.float16", [-(2.0**-14)], [2.0**-14], 0.0, 0.0),
    ("hopper.wgmma.bfloat16", [-(2.0**-76)], [2.0**-76], -0.0, 0.0),
    # CDNA1 and 2 give +0 for zeros that all are negative.
    ("cdna1.mfma.float16", [-0.0] * 4, [1.0] * 4, -0.0, 0.0),
    ("cdna2.mfma.float16", [-0.0] * 4, [1.0] * 4, -0.0, 0.0),
    # A product beyond float32 beside the opposite infinity.
    ("cdna3.mfma.bfloat16", [2.0**64, np.inf], [-(2.0**64), 1.0], 0.0, np.nan),
]


@pytest.mark.parametrize(("name", "a", "b", "c", "expected"), SETTLED)
def test_what_was_settled_with_mma_sim(name, a, b, c, expected):
    assert_same_bits(fpemu.dot(a, b, devices.get(name), c=c), expected)
    assert_same_bits(UNITS[name](a, b, c), expected)
    rows = np.array([a]), np.array([b]), np.array([c])
    assert_same_bits(mma_sim.results(name, *rows)[0], expected)


NVFP4 = "blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16"
MXFP4 = "blackwell.tcgen05-mxf4nvf4.e2m1-e8m0-32"
ZEROS, CANCELLED = [0.0] * 64, [6.0, -6.0] * 8 + [0.0] * 48


@pytest.mark.parametrize(
    ("a", "c", "scales", "expected"),
    [
        # A group of zero products does not align, one whose products cancel does.
        (ZEROS, 2.0**-34, [16.0, 1.0, 1.0, 1.0], 2.0**-34),
        (CANCELLED, 2.0**-34, [16.0, 1.0, 1.0, 1.0], 0.0),
        (CANCELLED, 2.0**-34, [0.0, 1.0, 1.0, 1.0], 2.0**-34),
    ],
)
def test_groups_align_as_in_mma_sim(a, c, scales, expected):
    given = np.array([scales]), np.ones((1, len(scales)))
    rows = np.array([a]), np.ones((1, 64)), np.array([c])
    for result in (by_kernel, by_oracle, mma_sim.results):
        assert_same_bits(result(NVFP4, *rows, given), [expected])


def test_mxf4nvf4_has_a_floor_of_its_own():
    """2**-149 less 2**-k: it shows down to 35 bits behind the floor of -139."""
    for k, expected in ((174, 0.0), (175, 2.0**-149)):
        a = np.array([[1.0] + [0.0] * 31 + [-1.0] + [0.0] * 31])
        given = np.array([[2.0**-74, 2.0**-87]]), np.array([[2.0**-75, 2.0 ** (87 - k)]])
        rows = a, np.ones((1, 64)), np.zeros(1)
        for result in (by_kernel, by_oracle, mma_sim.results):
            assert_same_bits(result(MXFP4, *rows, given), [expected])
