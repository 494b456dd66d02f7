"""Hypothesis strategies of machines in which every field may have any value."""

import itertools
from dataclasses import fields, replace

from hypothesis import strategies as st

import fpemu
from fpemu import (
    Blocked,
    Chained,
    Exact,
    FlooredCore,
    Format,
    Pairwise,
    Promoted,
    Rounding,
    Sequential,
    TensorCore,
    devices,
)
from fpemu.accumulators import ScaledCore
from fpemu.rounding import MODES, OVERFLOWS
from fpemu.scaling import FORMATS, BlockFormat
from lamp.machines import LAYER_FIELDS, STEPS, Function, Hardware, Product, Sum, Tiled
from lamp.machines.steps import DIVISIONS

P3109 = ("Binary8p4se", "Binary8p4sf", "binary8p4sf", "Binary6p1ue", "Binary10p3uf")
COMMON = ("float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "e8m7", *P3109)
UNITS = [
    device.accumulator
    for device in devices.entries()
    if not isinstance(device.accumulator, ScaledCore)
    and len(set(device.accumulator.input_formats)) == 1
]


def custom_format(name, precision, exponent_bits, shift, facts):
    """A format by its facts, such as no named one has, under any name."""
    return Format(
        name,
        exponent_bits + precision,
        precision,
        2 ** (exponent_bits - 1) - shift,
        subnormals=facts[0],
        infinities=facts[1],
        high_nans=int(facts[2]),
        negative_zero=facts[3],
    )


names = st.text(max_size=12)
blocks = st.integers(1, 300)
formats = st.sampled_from(COMMON).map(fpemu.format) | st.builds(
    custom_format,
    names | st.sampled_from(COMMON),
    st.integers(2, 12),
    st.integers(3, 7),
    st.integers(0, 2),
    st.sampled_from(list(itertools.product((False, True), repeat=4))),
)
# The values of a P3109 format, projected as IEEE 754 has it, under any name.
formats |= st.builds(
    lambda name, known, p3109: replace(fpemu.format(known), name=name, p3109=p3109),
    names | st.sampled_from(COMMON),
    st.sampled_from(P3109),
    st.booleans(),
)
optional = st.none() | formats
roundings = (
    st.sampled_from(
        [
            Rounding(mode, overflow)
            for mode in MODES
            if mode not in ("sr_b", "sr_c")
            for overflow in OVERFLOWS
        ]
    )
    | st.builds(
        Rounding,
        st.just("sr"),
        st.sampled_from(OVERFLOWS),
        st.none() | st.integers(1, 64),
        st.none() | st.integers(0, 2**64 - 1),
    )
    | st.builds(
        Rounding,
        st.sampled_from(("sr_b", "sr_c")),
        st.sampled_from(OVERFLOWS),
        st.integers(1, 63),
        st.none() | st.integers(0, 2**64 - 1),
    )
)
conversions = st.none() | roundings
tensor_formats = st.sampled_from(("float16", "bfloat16", "tf32", "float8_e5m2")).map(fpemu.format)
sequential = st.builds(
    Sequential, formats, roundings, st.booleans(), optional, optional, st.none() | tensor_formats
)
tensor_cores = st.builds(
    TensorCore,
    st.sampled_from((4, 8, 16)),
    st.integers(7, 30),
    st.sampled_from(("float32", "float16")),
    roundings.filter(lambda rounding: rounding.overflow in ("ieee", "infinity")),
    st.none() | st.integers(-140, 0),
    tensor_formats,
    st.none() | st.just("float32"),
    st.none() | st.just((0, 2, 1, 3)),
    st.sampled_from((1, 2, 4)),
    conversions,
)
floored_cores = st.builds(
    FlooredCore,
    st.sampled_from((4, 8)),
    tensor_formats,
    st.integers(20, 26),
    st.integers(27, 32),
    st.integers(27, 31),
    st.booleans(),
    st.none() | st.integers(1, 60),
    conversions,
)
chained = st.builds(
    Chained,
    st.sampled_from((4, 8)),
    tensor_formats,
    st.just(1),
    st.none() | st.just((1, 0)),
    st.booleans(),
    conversions,
) | st.builds(Chained, st.sampled_from((4, 8)), tensor_formats, st.sampled_from((2, 4)))
simple = st.one_of(
    sequential,
    st.builds(Blocked, formats, blocks, sequential, roundings),
    st.builds(
        Pairwise,
        formats,
        roundings,
        st.booleans(),
        optional,
        st.none() | blocks,
        st.sampled_from((None, "signed", "positive")),
        optional,
    ),
    st.builds(Exact, formats, roundings, st.none() | blocks, optional),
    tensor_cores,
    floored_cores,
    chained,
    st.sampled_from(UNITS),
)
accumulators = simple | st.builds(Promoted, simple, formats, blocks, roundings)
# Of which products are float64 numbers, with a scale in float32 besides.
parts = formats.filter(lambda x: x.precision <= 14 and x.quantum_exponent > -400 and x.emax < 400)
block_formats = st.sampled_from(list(FORMATS.values())) | st.builds(
    BlockFormat, names | st.sampled_from(list(FORMATS)), parts, parts, blocks, st.booleans()
)
results = st.fixed_dictionaries(
    {
        "output": optional,
        "rounding": roundings,
        "scale": st.integers(1, 2**23).map(lambda significand: significand * 2.0**-20),
        "block": blocks,
    }
)


def fitted(scalings):
    """Products of plain operands with one of some kinds of scales."""

    def product(accumulator, operands, scaling, result):
        taken = accumulator.input_formats[0]
        operands = operands if taken is None else None
        scaling = scaling if operands or taken else "none"
        return Product(accumulator, operands, scaling=scaling, **result)

    return st.builds(product, accumulators, optional, st.sampled_from(scalings), results)


def block_scaled(operands, core, is_unit, result):
    """A product of block-scaled operands, on a block-scaled unit or in sequential sums."""
    if is_unit and operands.element.carrier == "float32":
        core = TensorCore(core.block, 7, inputs=operands.element, group=core.group)
        return Product(ScaledCore(core, operands.scale, operands.block), operands, **result)
    return Product("float32", operands, **result)


sums = st.builds(Sum, formats, roundings)
functions = st.builds(Function, formats, roundings, optional)
activations = st.builds(Function, formats, roundings)
narrow = formats.filter(lambda format: format.precision <= 24)
exponentials = st.builds(Function, formats, roundings) | st.builds(
    Function, narrow, roundings, formats
)
tiles = st.tuples(st.integers(1, 200), st.integers(1, 20), st.integers(1, 8)).flatmap(
    lambda sizes: st.builds(
        Tiled,
        st.just(sizes[0]),
        st.just(sizes[1] * sizes[2]),
        st.just(sizes[2]),
        exponentials,
        exponentials,
        st.none() | activations,
        formats
        | sequential.filter(lambda sums: sums.inputs is None)
        | st.builds(Pairwise, formats, roundings),
        st.sampled_from(DIVISIONS),
    )
)
causal = fitted(("none", "tensor"))
products = fitted(("none", "tensor", "row", "block")) | st.builds(
    block_scaled, block_formats, tensor_cores, st.booleans(), results
)
orders = st.sampled_from((None, "ascending", "descending")) | st.tuples(
    st.integers(1, 2), st.integers(1, 2), st.permutations(range(3)), st.permutations(range(3))
).map(lambda drawn: [[drawn[2 + head] for head in range(drawn[1])]] * drawn[0])
scores = st.builds(lambda step, order: replace(step, order=order), products, orders)
STRATEGIES = {Product: products, Function: functions, Sum: sums, Tiled: tiles}
OF_STEPS = {name: STRATEGIES[kind] for name, kind in STEPS.items()} | {
    "scores": scores,
    "recomputed": products | st.lists(products, min_size=1, max_size=3).map(tuple),
    "values": causal,
    "activation": activations,
}
steps = st.sampled_from(list(OF_STEPS)).flatmap(
    lambda name: st.tuples(st.just(name), OF_STEPS[name])
)
plain_machines = st.builds(
    lambda name, weights, own, attention: Hardware(name, weights, attention=attention, **dict(own)),
    names,
    formats,
    st.lists(steps, max_size=4),
    st.none() | tiles,
)
in_layers = (
    steps.filter(lambda step: step[0] in LAYER_FIELDS)
    | st.tuples(st.just("weights"), formats)
    | st.tuples(st.just("attention"), st.none() | tiles)
)
layers = st.dictionaries(
    st.integers(-4, 4), plain_machines | st.lists(in_layers, min_size=1, max_size=2).map(dict)
)
machines = plain_machines | st.builds(
    lambda machine, layers: replace(machine, layers=layers), plain_machines, layers
)


def changed_in_one_place(value, draw):
    """A copy of a machine, or of one of its steps, with one field drawn again."""
    if isinstance(value, Hardware) and value.layers and draw(st.booleans()):
        number = draw(st.sampled_from([number for number, _ in value.layers]))
        own = changed_in_one_place(value.machines[number], draw)
        return value.with_layers({number: replace(own, layers=())}, value.name)
    name = draw(st.sampled_from([field.name for field in fields(value)]))
    own = getattr(value, name)
    if isinstance(own, (Product, Function, Sum, Tiled)) and draw(st.booleans()):
        return replace(value, **{name: changed_in_one_place(own, draw)})
    strategy = machines if isinstance(value, Hardware) else STRATEGIES[type(value)]
    return replace(value, **{name: getattr(draw(strategy), name)})
