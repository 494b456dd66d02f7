"""Machines: each preset against the oracle of whole models, and what a Hardware may be."""

from dataclasses import replace

import numpy as np
import pytest

import fpemu
import lamp
from fpemu import Rounding, Sequential, devices
from lamp import Function, Hardware, Product, Sum, Tiled
from lamp.machines import differences
from lamp.machines import presets as machines
from lamp.machines.descriptions import unit_names
from lamp.machines.machine import STEPS
from lamp.models.attention import softmax
from tests.lamp.tiny_models import FAMILIES, SHALLOW, TOKENS

FP8, MX = "hopper.wgmma.e4m3", "blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32"


def presets():
    for name in machines.names():
        yield from (name.format(mu=mu) for mu in (2, 7)) if "{mu}" in name else (name,)


MIXED = Hardware(
    "every step its own",
    weights="bfloat16",
    embedding=Sum("float16", "rtp"),
    norm=Function("bfloat16", "rtz"),
    qkv=Product("e8m9", "float8_e4m3fn", "bfloat16", Rounding("rne", "saturate"), "row"),
    scores=Product("e8m5", output="e8m3", rounding="rna"),
    softmax=Function("e5m7", "rtn"),
    values=Product("e8m10", "float8_e5m2", "bfloat16", scaling="tensor", scale=0.25),
    attention_output=Product("e8m12", "float8_e4m3fn", "float16", scaling="block", block=8),
    mlp_up=Product(devices.get("hopper.wgmma.bfloat16"), output="tf32"),
    activation=Function("e5m9", Rounding("rtp", "saturate")),
    mlp_down=Product("float32", "mxfp6_e2m3", "bfloat16"),
    residual=Sum("tf32", "rto"),
    lm_head=Product("float32", output="tf32", rounding="rto"),
    recomputed=Product("float32", output="tf32"),
)


SATURATING = Rounding("rne", "saturate")
# Whose sums look like their output but are not: sums that a scale or a saturation changes.
ALIKE = Hardware(
    "sums and output alike",
    qkv=Product("e8m7", "nvfp4"),
    attention_output=Product("e8m9", "nvfp4"),
    mlp_up=Product("e8m6", "nvfp4"),
    mlp_down=Product("float8_e5m2", rounding=SATURATING),
    lm_head=Product("float8_e4m3", rounding=SATURATING),
)
# Between float64 and what qkv stores are two bits: most turned numbers are near a middle.
TWICE = Hardware("rounded twice", qkv=Product("float64", output="e11m50"))
IN_STEPS = Hardware(
    "functions in steps",
    norm=Function("e8m9", "rtp", "tf32"),
    softmax=Function("bfloat16", "rna", "e6m8"),
)


def named(spec):
    return spec if isinstance(spec, str) else getattr(spec, "name", None)


def assert_same(found, expected):
    """The same numbers, and zeros of the same sign."""
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


# Presets differ in their arithmetic, which both families hand to the same steps: each runs on one
# layer of one of them, in turn.  Machines that differ from step to step run on two layers of both.
CASES = [
    *((spec, sorted(FAMILIES)[number % 2]) for number, spec in enumerate(presets())),
    *((spec, family) for spec in (MIXED, ALIKE, TWICE, IN_STEPS) for family in FAMILIES),
]


@pytest.mark.parametrize(("spec", "family"), CASES, ids=named)
def test_every_machine_computes_what_the_oracle_does(spec, family):
    """Step by step."""
    machine = lamp.hardware(spec)
    tiny = (SHALLOW if isinstance(spec, str) else FAMILIES)[family]
    held = tiny.tensors(tiny.config)
    if spec is ALIKE:
        for name in ("lm_head.weight", "transformer.wte.weight"):
            held = {**held, name: held[name] * 600} if name in held else held
    model = tiny.model(machine, tensors=held)
    # Of presets three tokens: their sums over keys are within a block of any unit either way.
    tokens = TOKENS[:3] if isinstance(spec, str) else TOKENS
    logits = model.logits(tokens)
    assert logits.dtype == machine.carrier
    *layers, last = tiny.oracle(held, tiny.config, machine, tokens)
    expected = last["lm_head"]
    if spec == "fp64":
        # Its functions are accurate but not correctly rounded into float64.
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-14 * np.abs(expected).max())
        return
    for layer, steps in enumerate(layers):
        trace = model.trace(tokens, layer)
        assert not trace.steps["mask"].any()
        for name in trace.steps.keys() - {"mask"}:
            assert_same(trace.steps[name], steps[name])
    assert_same(logits, expected)
    if spec is ALIKE:
        assert np.abs(logits).max() == fpemu.format("float8_e4m3").max_finite


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*STEPS, "weights"])
def test_every_step_matters(name, family):
    """An oracle and a model that took no notice of a step would agree, too."""
    tiny, exact = FAMILIES[family], lamp.hardware("fp32")
    plain = tiny.model(exact).logits(TOKENS)
    other = replace(exact, **{name: getattr(MIXED, name)})
    changed = tiny.model(other).logits(TOKENS)
    assert (changed != plain).any() == (name != "recomputed")


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_are_those_of_the_machine(family):
    """Units whose storage does not hide their sums tell them apart."""
    names = ("fp32", "bf16", "fp16", "ampere-tf32", "ps7", "ps2", "scores-ps2")
    logits = [FAMILIES[family].model(name).logits(TOKENS).tobytes() for name in names]
    assert len(set(logits)) == len(names)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["fp32", "bf16", "hopper", "hopper-fp8", "mxfp8", "nvfp4"])
def test_a_token_does_not_depend_on_later_ones_and_can_be_generated(name, family):
    model = FAMILIES[family].model(name)
    assert model.hardware.is_causal
    np.testing.assert_array_equal(model.logits(TOKENS)[:3], model.logits(TOKENS[:3]))
    text = model.generate(TOKENS[:2], 4)
    for end in range(2, 6):
        assert text[end] == model.logits(text[:end])[-1].argmax()


def test_stochastic_steps_have_bits_of_their_own_in_every_layer():
    rounding = Rounding("sr", seed=5)
    machine = Hardware("s", residual=Sum("bfloat16", rounding), mlp_up=Product("e8m9"))
    derived = [machine.derived(layer) for layer in (0, 1)]
    assert derived[0] != derived[1]
    assert derived[0].residual.rounding.seed not in (5, derived[1].residual.rounding.seed)
    assert derived[0].mlp_up == machine.mlp_up
    assert not machine.is_causal
    model = FAMILIES["gpt2"].model(machine)
    np.testing.assert_array_equal(model.logits(TOKENS), model.logits(TOKENS))
    other = replace(machine, residual=Sum("bfloat16", Rounding("sr", seed=6)))
    assert (model.with_hardware(other).logits(TOKENS) != model.logits(TOKENS)).any()
    plain = lamp.hardware("fp32")
    assert plain.derived(3) is plain


def test_softmax_in_rounded_rows_is_that_of_all_rows(monkeypatch):
    y = np.random.default_rng(0).normal(0, 3, (50, 20)).astype(np.float32)
    lengths = np.arange(50) % 20 + 1
    for step in (Function("bfloat16"), Function("bfloat16", steps="float16")):
        whole = softmax(y, lengths, step)
        monkeypatch.setattr("lamp.models.attention._ROUNDED_ROWS", 7)
        np.testing.assert_array_equal(softmax(y, lengths, step), whole)
        monkeypatch.undo()
    exists = np.arange(20) < lengths[:, None]
    masked = np.where(exists, y, -np.inf).astype(np.float32)
    inner = dict.fromkeys(("difference", "exponential"), "float16")
    expected = fpemu.functions.softmax(
        masked, "bfloat16", accumulator=Sequential("float16"), **inner
    )
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Product("hopper.wgmma.e4m3"), ValueError, "a matrix unit is fpemu.devices.get"),
        (lambda: Product(3), TypeError, "accumulator must be an accumulator or a format, not 3"),
        (lambda: Product("float32", scaling="rows"), ValueError, "unknown scaling 'rows'"),
        (lambda: Product("float32", scaling="row"), ValueError, "needs a format of the operands"),
        (lambda: Product("float32", "mxfp8_e4m3", scaling="row"), ValueError, "not mxfp8_e4m3"),
        (lambda: Product("float32", scale=0.1), ValueError, "positive float32 number, not 0.1"),
        (lambda: Product("float32", scale=0.0), ValueError, "positive float32 number, not 0.0"),
        (lambda: Product("float32", block=0), ValueError, "block must be a positive integer"),
        (lambda: Product("float32", "mxfp9"), ValueError, "unknown format 'mxfp9'"),
        (
            lambda: Product(devices.get(FP8), "float8_e4m3"),
            ValueError,
            r"takes float8_e4m3fn \(largest 448\), not \S*e4m3 \(largest 240\)",
        ),
        (lambda: Product(devices.get(FP8), "float8_e5m2"), ValueError, "takes float8_e4m3fn"),
        (lambda: Product(devices.get(FP8), "mxfp8_e4m3"), ValueError, "takes float8_e4m3fn, not"),
        (lambda: Product(devices.get(MX)), ValueError, "takes blocks of 32 float8_e4m3fn, not"),
        (lambda: Product(devices.get(MX), "mxfp4"), ValueError, "float8_e4m3fn, not mxfp4"),
        (lambda: Hardware("h", norm=Product()), TypeError, "norm must be a Function, not a Prod"),
        (lambda: Hardware("h", qkv="float33"), ValueError, "unknown format 'float33'"),
        (lambda: Hardware("h", recomputed=()), ValueError, "must be 1 to 255 products, not 0"),
        (lambda: Hardware("h", recomputed=["e8m4"] * 256), ValueError, "255 products, not 256"),
        (lambda: Hardware("h", recomputed=["e8m4", Sum()]), TypeError, "be a Product, not a Sum"),
        (
            lambda: Hardware("h", recomputed=("e8m4", Product(order="ascending"))),
            ValueError,
            "recomputed: only scores have an order",
        ),
        (lambda: Hardware("h", weights="f"), ValueError, "unknown format 'f'"),
        (lambda: Hardware("h", attention="tiled"), TypeError, "attention must be a Tiled or None"),
        (lambda: Tiled(rows=2.5), ValueError, "rows must be a positive integer, not 2.5"),
        (lambda: Tiled(columns=0), ValueError, "columns must be a positive integer, not 0"),
        (lambda: Tiled(parts=6), ValueError, "parts must divide the columns of a tile, not 6 of"),
        (lambda: Tiled(exponential=Sum()), TypeError, "exponential must be a Function or a form"),
        (lambda: Tiled(rescaling=None), TypeError, "rescaling must be a Function or a format"),
        (
            lambda: Tiled(rescaling=Function("e8m24", steps="float32")),
            ValueError,
            "rescaling with steps is rounded correctly, into at most 24 significand bits",
        ),
        (
            lambda: Tiled(running_maximum=Function("float32", steps="float16")),
            ValueError,
            "running_maximum has no inner steps",
        ),
        (
            lambda: Tiled(running_sum=devices.get("hopper.wgmma.bfloat16")),
            ValueError,
            "running_sum: .* takes bfloat16, not float32",
        ),
        (lambda: Tiled(running_sum=devices.get(MX)), ValueError, "plain numbers, not blocks"),
        (lambda: Tiled(running_sum=3), TypeError, "must be an accumulator or a format, not 3"),
        (lambda: Tiled(division="first"), ValueError, "division must be 'last' or 'tile', not"),
        (
            lambda: Hardware("h", values=Product("float32", "float8_e5m2", scaling="row")),
            ValueError,
            "values can have no scales by row or block",
        ),
        (
            lambda: Hardware("h", activation=Function("float32", steps="float16")),
            ValueError,
            "an activation has no inner steps",
        ),
    ],
)
def test_what_is_impossible_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_products_that_recompute_are_steps_each():
    machine = Hardware("h", scores="float32", recomputed=["e8m10", "float64"])
    assert [step.accumulator.format.name for step in machine.levels] == ["e8m10", "float64"]
    assert machine.carrier == np.float64
    assert machine.scores_are_low
    assert not replace(machine, scores="float64").scores_are_low
    assert machine.derived(3) is machine
    drawn = replace(
        machine,
        recomputed=(machine.levels[0], Product("e8m10", rounding=fpemu.Rounding("sr", seed=1))),
    )
    assert not drawn.is_causal
    twice = replace(drawn, recomputed=(drawn.levels[1], drawn.levels[1])).derived(3)
    seeds = [step.rounding.seed for step in twice.levels]
    assert len({*seeds, drawn.derived(3).levels[1].rounding.seed, None}) == 3
    other, one = (replace(machine, recomputed=levels) for levels in (("e8m9", "float64"), "e8m9"))
    words = [f"sequential({name}, rne) -> {name} (rne)" for name in ("e8m10", "float64", "e8m9")]
    found = {each.what: each.values for each in differences([machine, other])}
    assert found == {"product 1": (words[0], words[2])}
    found = {each.what: each.values for each in differences([machine, one])}
    assert found == {"product 1": (words[0], words[2]), "product 2": (words[1], "-")}
    assert {each.labels() for each in differences([machine, one])} == {("recomputed",)}


def test_differences_name_the_inner_steps_of_attention():
    plain = lamp.hardware("fp32")
    tiled = replace(plain, attention=Tiled(exponential=Function("bfloat16", steps="float16")))
    other = replace(plain, attention=replace(tiled.attention, rows=64, running_sum="float64"))
    found = {each.what: each.values for each in differences([tiled, other])}
    assert found.keys() == {"goes by", "running sum"}
    assert found["goes by"] == ("tiles of 128 x 64", "tiles of 64 x 64")
    by_rows = {each.what: each.values for each in differences([plain, tiled])}
    assert by_rows["goes by"] == ("rows", "tiles of 128 x 64")
    assert by_rows["parts of a tile"] == ("-", "4")


def test_a_preset_without_a_unit_of_its_own_is_not_there():
    used = {unit for line in machines._UNITS.values() for unit in line[:2] if unit}
    assert {unit for unit in used if unit != "float32"} <= set(devices.list())
    architectures = {unit.split(".")[0] for unit in devices.list()}
    named = {unit.split(".")[0] for unit in used} - {"float32"}
    assert named == architectures


def test_units_are_found_by_what_they_compute():
    units = devices.entries()
    for unit in units:
        equal = [each.name for each in units if each.accumulator == unit.accumulator]
        is_specific = not isinstance(unit.accumulator, Sequential)
        assert unit_names(unit.accumulator) == (equal if is_specific else [])
    assert unit_names(None) == unit_names(fpemu.Pairwise("e8m9")) == unit_names([]) == []


def test_scales_are_numbers_of_python():
    made = {repr(Product(scale=scale)) for scale in (2, 2.0, np.float32(2), np.float64(2))}
    assert len(made) == 1
    for wrong in (True, np.True_, "2", None, [2.0], float("nan")):
        with pytest.raises(ValueError, match="scale must be a positive float32 number"):
            Product(scale=wrong)
