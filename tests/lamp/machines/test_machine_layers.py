"""Machines that differ by layer: what they are, what they compute, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

import lamp
from fpemu import Pairwise, Rounding
from lamp import LAMP, Function, Hardware, Product, Sum, Tiled
from lamp.evaluation import stochastic
from lamp.machines import LAYER_FIELDS, STEPS, differences, digest, presets, read_numbers, spelled
from lamp.machines import files as machine_files
from tests.lamp.machines.test_machines import IN_STEPS, MIXED, assert_same
from tests.lamp.tiny_models import FAMILIES, TOKENS

FP8 = lamp.hardware("hopper-fp8")
BF16 = lamp.hardware("bf16")
FIRST_AND_LAST = """
    preset = "hopper-fp8"
    [layers."0,-1"]
    preset = "bf16"
    """


def named(machine):
    return replace(machine, name="m")


# --- one machine in many spellings ----------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        FP8.with_layers({(0, -1): "bf16"}),
        FP8.with_layers({"0,-1": BF16}),
        FP8.with_layers({-1: BF16, 0: replace(BF16, name="mine", lm_head="e8m4")}),
        FP8.with_layers({0: "bf16", 1: "hopper-fp8"}).with_layers({(-1,): BF16, 0: {}}),
        lamp.hardware("hopper-fp8@0,-1=bf16"),
        lamp.hardware("hopper-fp8@0=ps4@-1=bf16@0=bf16"),
        Hardware("x", **{name: getattr(FP8, name) for name in STEPS}, weights="bfloat16", layers={
            (0, -1): {name: getattr(BF16, name) for name in LAYER_FIELDS}
        }),
        machine_files.loads('preset = "hopper-fp8"\n[layers]\n0 = "bf16"\n-1 = "bf16"'),
        machine_files.loads('preset = "hopper-fp8@0,-1=bf16"'),
    ],
    ids=lambda machine: machine.name,
)  # fmt: skip
def test_a_machine_may_be_spelled_in_many_ways(other):
    machine = machine_files.loads(FIRST_AND_LAST)
    assert named(other) == named(machine)
    assert digest(other) == digest(machine) != digest(FP8)
    assert hash(named(other)) == hash(named(machine))
    assert machine_files.dumps(named(other)) == machine_files.dumps(named(machine))


def test_layers_that_do_as_the_rest_are_no_layers():
    for same in (FP8.with_layers({}), FP8.with_layers({(0, 5): FP8, -1: {"scores": FP8.scores}})):
        assert same == FP8
        assert same.layers == ()
        assert digest(same) == digest(FP8)
    assert "layers" not in machine_files.dumps(FP8)


def test_a_machine_with_layers_has_a_name_of_its_own():
    machine = FP8.with_layers({0: {"scores": "e8m4"}})
    assert machine.name == f"hopper-fp8-{digest(machine)[:8]}"
    assert FP8.with_layers({0: {"scores": "e8m4"}}, "mine").name == "mine"
    assert machine_files.loads(FIRST_AND_LAST).name == FP8.with_layers({(0, -1): "bf16"}).name
    assert lamp.hardware("fp64@scores=ps4").name == "fp64@scores=ps4"


def test_each_layer_has_its_own_machine():
    machine = FP8.with_layers({(0, 1): {"scores": "e8m4"}, -1: "bf16"}, "m")
    plain = [machine.of_layer(layer, 4) for layer in range(5)]
    assert [each.layers for each in plain] == [()] * 5
    assert [each.scores.accumulator.format.name for each in plain[:2]] == ["e8m4", "e8m4"]
    assert plain[1] == replace(FP8, name="m, layer 1", scores="e8m4")
    assert plain[2] == plain[4] == replace(FP8, name="m")
    assert [plain[3].qkv, plain[3].norm] == [BF16.qkv, BF16.norm]
    assert plain[3].lm_head == FP8.lm_head  # no step of a layer
    steps = machine_files.loads("[layers.1.scores]\naccumulator = 'e8m4'\noutput = 'e8m5'")
    assert steps.of_layer(1, 2).scores == Product("e8m4", output="e8m5")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((0, 1, 2), "0-2"), ((0, 2, 3, -3, -2, -1), "0,2-3,-3--1"), ((7,), "7"), ((0, -1), "0,-1")],
)
def test_numbers_are_spelled_as_they_are_read(numbers, text):
    assert spelled(numbers) == text
    assert read_numbers(text) == numbers


def test_steps_of_a_file_are_changed_where_they_are():
    """Groups, lists and inner tables in a layer; what a layer leaves out is that of the rest."""
    machine = machine_files.loads(
        """
        recomputed = ["e8m10", "float32"]
        scores = {accumulator = "e8m7", output = "e8m3", order = "ascending"}
        attention = {kind = "tiled", rows = 8, running_maximum = "bfloat16"}
        [layers.1]
        weights = "bfloat16"
        products = {output = "float16"}
        attention = "plain"
        [layers.1.scores]
        accumulator = "e8m4"
        [[layers.2.recomputed]]
        accumulator = "e8m9"
        [[layers.2.recomputed]]
        rounding = "rtz"
        [layers.3]
        attention = {rows = 4}
        recomputed = "e8m8"
        [layers.4]
        attention = {kind = "tiled", rows = 4}
        """
    )
    one, two, three, four = (machine.of_layer(layer, 5) for layer in (1, 2, 3, 4))
    assert (one.weights.name, one.attention) == ("bfloat16", None)
    assert one.qkv == Product(output="float16")
    assert one.scores == Product("e8m4", output="float16", order="ascending")
    assert one.recomputed == machine.recomputed
    assert two.recomputed == (Product("e8m9", output="float32"), Product(rounding="rtz"))
    assert three.attention == replace(machine.attention, rows=4)
    assert three.recomputed == Product("e8m8", output="float32")
    assert four.attention == Tiled(rows=4)
    assert machine_files.loads(machine_files.dumps(machine)) == machine


# --- what they compute ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", [1, -1])
def test_each_layer_computes_what_the_oracle_does_on_its_machine(family, order):
    tiny, held = FAMILIES[family], FAMILIES[family].tensors()
    plain = [replace(each, lm_head=MIXED.lm_head) for each in (MIXED, IN_STEPS)][::order]
    outside = replace(FP8, weights="float16")
    machine = outside.with_layers({0: plain[0], -1: plain[1]})
    model = tiny.model(machine)
    *layers, last = tiny.oracle(held, tiny.config, outside, TOKENS, of_layers=plain)
    for layer, steps in enumerate(layers):
        trace = model.trace(TOKENS, layer)
        for name in trace.steps.keys() - {"mask"}:
            assert_same(trace.steps[name], steps[name])
    assert_same(model.logits(TOKENS), last["lm_head"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", LAYER_FIELDS)
def test_every_field_of_a_layer_matters(name, family):
    model = FAMILIES[family].model("fp32")
    other = replace(MIXED, attention=Tiled(2, 2, 1, "bfloat16"))
    logits = [
        model.with_hardware(
            lamp.hardware("fp32").with_layers({layer: {name: getattr(other, name)}})
        )
        .logits(TOKENS)
        .tobytes()
        for layer in (0, 1)
    ]
    expected = 1 if name == "recomputed" else 3
    assert len({*logits, model.logits(TOKENS).tobytes()}) == expected


def test_a_machine_whose_layers_are_all_alike_is_that_machine():
    """As is one whose negative numbers name all layers."""
    other = replace(MIXED, embedding=FP8.embedding, lm_head=FP8.lm_head)
    model = FAMILIES["gpt2"].model(FP8.with_layers({(-2, -1): other}))
    # The last norm and the embeddings are those of the rest.
    outside = replace(other, norm=FP8.norm, weights=FP8.weights)
    same = FAMILIES["gpt2"].model(
        outside.with_layers({(0, 1): {"norm": MIXED.norm, "weights": MIXED.weights}})
    )
    np.testing.assert_array_equal(model.logits(TOKENS), same.logits(TOKENS))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["fp32", "scores-ps4", "hopper-fp8", "nvfp4", "volta"])
def test_no_result_depends_on_the_carrier(name, family):
    """One number in float64 anywhere, and all arrays are float64: here one that nobody reads."""
    machine = lamp.hardware(name)
    wide = replace(machine, recomputed="float64")
    assert (machine.carrier, wide.carrier) == (np.float32, np.float64)
    model = FAMILIES[family].model(machine)
    found = model.with_hardware(wide).logits(TOKENS)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, model.logits(TOKENS))


def test_the_carrier_is_that_of_the_widest_layer():
    machine = lamp.hardware("fp32").with_layers({1: {"softmax": "float64"}})
    assert machine.carrier == np.float64
    assert FAMILIES["gpt2"].model(machine).logits(TOKENS).dtype == np.float64


def test_weights_are_kept_if_all_layers_hold_them_alike():
    model = FAMILIES["llama"].model("fp32")
    kept = model.with_hardware(lamp.hardware("fp32").with_layers({0: {"scores": "e8m4"}}))
    assert kept._weights is model._weights
    rounded = model.with_hardware(lamp.hardware("fp32").with_layers({1: {"weights": "e8m4"}}))
    first, second = (block.qkv for block in rounded._weights.blocks)
    assert (first.format.name, second.format.name) == ("float32", "e8m4")
    np.testing.assert_array_equal(first.weight, model._weights.blocks[0].qkv.weight)
    assert (second.weight != model._weights.blocks[1].qkv.weight).any()
    again = rounded.with_hardware("fp32")
    np.testing.assert_array_equal(again.logits(TOKENS), model.logits(TOKENS))


def test_look_ahead_recomputes_each_layer_by_its_own_products():
    """Layer 0 is in low precision, layer 1 is not: each as on a machine that is so all over."""
    rule = LAMP("total_variation", budget=0.3)
    low, high = lamp.hardware("scores-ps2"), lamp.hardware("fp32")
    tiny = FAMILIES["gpt2"]
    found, both, neither = (
        tiny.model(machine, rule).forward(TOKENS).recomputed["scores"]
        for machine in (high.with_layers({0: low}), low, high)
    )
    assert found == (both[0], neither[1])
    assert both[1].selected > 0 == neither[1].selected
    mixed = high.with_layers({0: replace(low, recomputed="e8m4")})
    first, second = (
        tiny.model(machine, rule).trace(TOKENS, 0).steps["scores"]
        for machine in (mixed, replace(low, recomputed="e8m4"))
    )
    np.testing.assert_array_equal(first, second)


def test_random_bits_are_those_of_the_layer():
    noisy = Hardware("noisy", residual=Sum("bfloat16", Rounding("sr", seed=5)))
    machine = lamp.hardware("fp32").with_layers({1: noisy})
    assert not machine.is_causal
    assert machine.of_layer(1, 2).residual == noisy.derived(1).residual
    assert machine.of_layer(0, 2) == replace(lamp.hardware("fp32"), name=machine.name)
    drawn = stochastic(lamp.hardware("ps7").with_layers({0: {"scores": "e8m3"}}, "m"))
    assert str(drawn.of_layer(0, 2).scores.accumulator) == "sequential(e8m3, sr)"
    assert drawn.name == "m, stochastic"


def test_one_layer_may_keep_a_model_from_generating_token_by_token():
    tree = lamp.hardware("fp32").with_layers({1: {"values": Product(Pairwise("float32"))}})
    assert not tree.is_causal
    tiles = lamp.hardware("ps4").with_layers({0: {"attention": Tiled(4, 4, 2)}})
    rule = LAMP("relaxed", tau=0.1)
    assert FAMILIES["gpt2"].model(tiles)._is_causal
    assert not FAMILIES["gpt2"].model(tiles, rule)._is_causal
    text = FAMILIES["gpt2"].model(tiles, rule).generate(TOKENS[:2], 3)
    assert len(text) == 5


def test_tiles_of_some_layers_are_counted():
    from lamp.evaluation import evaluate

    machine = lamp.hardware("scores-ps2").with_layers({1: {"attention": Tiled(2, 2, 1)}})
    model = FAMILIES["gpt2"].model(machine, LAMP("relaxed", tau=0.5))
    rates = evaluate(model.with_hardware("fp64"), model, TOKENS).step_rates
    assert [len(rates[name]) for name in ("scores", "tiles", "parts")] == [2, 2, 2]
    assert rates["tiles"][0] == 0.0 < rates["tiles"][1]


def test_a_layer_may_ask_for_an_order_of_channels():
    model = lamp.from_pretrained("embedded")
    tokens = model.encode("When shall we three meet again?")
    order = Product("e8m4", order="ascending")
    everywhere = lamp.calibrated(Hardware("a", scores=order), model, tokens)
    found = lamp.calibrated(Hardware("a", layers={(1, -1): {"scores": order}}), model, tokens)
    assert found.scores.order is None
    for layer in (1, 5):
        own = found.of_layer(layer, 6).scores.order.permutations[layer]
        assert own == everywhere.scores.order.permutations[layer]


def test_certificates_know_the_layers():
    """Bounds are the same whichever of two machines is that of the rest."""
    model = FAMILIES["gpt2"].model("fp64")
    low, high = lamp.hardware("fp32"), lamp.hardware("fp64")
    outside = {name: getattr(low, name) for name in ("weights", "embedding", "norm", "lm_head")}
    inside = {name: getattr(high, name) for name in ("weights", "norm")}
    other = replace(high, **outside).with_layers({0: low, 1: inside})
    first, second, all_low, all_high = (
        lamp.certify(model, TOKENS, machine).stream
        for machine in (low.with_layers({1: high}), other, low, high)
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[1], all_low[1])
    assert all_low[2].mean() > first[2].mean() > all_high[2].mean()
    with pytest.raises(ValueError, match="m, layer -1 has attention by tiles: that is not bounded"):
        lamp.certify(model, TOKENS, Hardware("m", layers={-1: {"attention": Tiled()}}))


# --- what differs ---------------------------------------------------------------------------------


def test_differences_name_the_layers():
    rest = lamp.hardware("fp32")
    machine = rest.with_layers({(0, 1, -1): {"scores": "e8m4", "norm": "bfloat16"}})
    found = [(each.labels(), each.what, each.values) for each in differences([rest, machine])]
    assert found == [
        (("layers 0-1,-1: norm",), "result", ("float32", "bfloat16")),
        (("layers 0-1,-1: scores",), "sums", ("sequential(float32, rne)", "sequential(e8m4, rne)")),
        (("layers 0-1,-1: scores",), "result", ("float32", "e8m4")),
    ]
    # Where two machines that differ are alike in a layer, that is told.
    low = lamp.hardware("scores-ps4").with_layers({2: {"scores": "float32"}})
    found = [(each.labels(), each.what, each.values) for each in differences([rest, low])]
    sums, result = ("sequential(float32, rne)", "sequential(e8m4, rne)"), ("float32", "e8m4")
    assert found == [
        (("scores",), "sums", sums),
        (("scores",), "result", result),
        (("layer 2: scores",), "sums", (sums[0],) * 2),
        (("layer 2: scores",), "result", (result[0],) * 2),
    ]
    assert differences([low, replace(low, name="b")]) == []
    drop = lamp.hardware("fp32").with_layers({0: {"recomputed": "e8m4"}})
    assert differences([rest, drop], recomputed=False) == []
    assert len(differences([rest, drop])) == 2


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (3, TypeError, "layers must be a mapping of layers to machines or steps, not 3"),
        ({0: 5}, TypeError, "layer 0 must be a machine or a mapping of steps, not 5"),
        ({True: {}}, TypeError, "the number of a layer must be an integer, not True"),
        ({0.5: {}}, TypeError, "the number of a layer must be an integer, not 0.5"),
        ({(): {}}, ValueError, "there must be the number of a layer, not none"),
        ({2**16: {}}, ValueError, "must lie in -65536..65535: 65536"),
        ({"0;1": {}}, ValueError, "'0;1' is no list of layers: expected numbers and ranges"),
        ({"2-1": {}}, ValueError, "the range 2-1 of layers must go up, from the same side"),
        ({"1--1": {}}, ValueError, "the range 1--1 of layers must go up, from the same side"),
        ({"0-999999999": {}}, ValueError, "the range 0-999999999 of layers must go up"),
        ({0: {"lm_head": "e8m4"}}, ValueError, "'lm_head' is no step of a layer: expected weights"),
        ({0: {"scores": "e8"}}, ValueError, "layer 0: scores: unknown format 'e8'"),
        ({"0-1": {"norm": Sum()}}, TypeError, "layers? 0-1: norm must be a Function, not a Sum"),
        (
            {0: {"values": Product("float32", "float8_e5m2", scaling="row")}},
            ValueError,
            "layer 0: values can have no scales by row",
        ),
        (
            {0: {"activation": Function("float32", steps="float16")}},
            ValueError,
            "layer 0: activation: an activation has no inner steps",
        ),
        ({0: {"attention": "tiled"}}, TypeError, "layer 0: attention must be a Tiled or None"),
        (
            {(0, 1): {"norm": "float16"}, 1: {"norm": "bfloat16"}},
            ValueError,
            "layer 1 is given norm twice: in float64 -> float16 .*, and in float64 -> bfloat16",
        ),
        (
            {0: lamp.hardware("fp32@0=bf16")},
            ValueError,
            "layer 0: 'fp32@0=bf16' differs by layer itself",
        ),
    ],
)
def test_layers_that_cannot_be_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        FP8.with_layers(layers)
    if not (isinstance(layers, dict) and any(isinstance(key, str) for key in layers)):
        with pytest.raises(error, match=message):
            Hardware("h", layers=layers)


def test_layers_that_a_model_does_not_have_are_refused():
    model = FAMILIES["gpt2"].model("fp32")
    for layer in (2, -3):
        machine = lamp.hardware("fp32").with_layers({layer: {"scores": "e8m4"}}, "mine")
        message = rf"'mine' says what layer {layer} computes, but GPT2 has 2 layers, 0 to 1"
        with pytest.raises(ValueError, match=message):
            model.with_hardware(machine)
    twice = lamp.hardware("fp32").with_layers({(1, -1): {"scores": "e8m4"}}, "mine")
    message = "'mine' has layers 1 and -1, which are the same one of GPT2, of 2 layers"
    with pytest.raises(ValueError, match=message):
        FAMILIES["gpt2"].model(twice)


def test_rules_must_fit_every_layer():
    machine = lamp.hardware("scores-ps4").with_layers({1: {"recomputed": ["e8m10", "e8m12"]}}, "m")
    with pytest.raises(ValueError, match="m, layer 1 recomputes by 2 products, so that a rule"):
        FAMILIES["gpt2"].model(machine, LAMP(tau=1.2))
    tiled = lamp.hardware("scores-ps4").with_layers({1: {"attention": Tiled()}})
    with pytest.raises(ValueError, match="attention by tiles takes the rule relaxed with a tau"):
        FAMILIES["gpt2"].model(tiled, LAMP(tau=1.2))
    order = lamp.hardware("fp32").with_layers({0: {"scores": Product(order="ascending")}}, "m")
    with pytest.raises(ValueError, match="channels of 'm, layer 0' is yet to be found"):
        FAMILIES["gpt2"].model(order)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers = 3", "line 1: layers must be tables by number, not 3"),
        (
            "[layers]\n0 = 5",
            r"line 2: \[layers.0\] must be a table or the name of a machine, not 5",
        ),
        ("[layers]\n0 = 'bf17'", "line 2: unknown hardware 'bf17': did you mean bf16"),
        ("\n[layers.a]\nnorm = 'e8m4'", "line 2: 'a' is no list of layers"),
        ("[layers.2-1]\nnorm = 'e8m4'", "line 1: the range 2-1 of layers must go up"),
        ("[layers.0]\n\nscors = 'e8m4'", r"line 3: unknown key 'scors' of \[layers.0\] - did you"),
        ("[layers.0]\nlm_head = 'e8m4'", r"line 2: unknown key 'lm_head' of \[layers.0\] - expect"),
        ("[layers.0]\nname = 'a'", r"line 2: unknown key 'name' of \[layers.0\]"),
        ("[layers.0]\npreset = 5", "line 2: preset must be a name, not 5"),
        ("[layers.0]\n\npreset = 'bf16@1=ps4'", "line 3: 'bf16@1=ps4' differs by layer itself"),
        ("[layers.0]\n\nweights = 'e8'", "line 3: unknown format 'e8'"),
        ("[layers.0.scores]\n\nacc = 'x'", r"line 3: unknown key 'acc' of \[layers.0.scores\]"),
        ("[layers.0.scores]\n\naccumulator = 'x'", r"line 3: \[layers.0.scores\]: unknown format"),
        ("[layers.0.scores]\npreset = 'x9'", "line 2: unknown hardware 'x9'"),
        ("layers.0.scores = 'e8mx'", r"line 1: \[layers.0.scores\]: unknown format 'e8mx'"),
        (
            "[layers.0-1]\nnorm = 'bfloat16'\n[layers.1]\nnorm = 'float16'",
            "line 3: layer 1 is given norm twice",
        ),
        (
            "[layers.0.values]\n\nscaling = 'row'\noperands = 'float8_e5m2'",
            "line 1: values can have no scales by row",
        ),
        ("[layers.0.attention]\nkind = 'tiled'\nrows = 0", r"line 3: \[layers.0.attention\]: rows"),
        ("\n[layers.0]\nattention = 'no'", "line 3: attention needs a kind, 'plain' or 'tiled'"),
        (
            "[[layers.0.recomputed]]\n[[layers.0.recomputed]]\nx = 4",
            r"line 3: unknown key 'x' of \[layers.0.recomputed\]",
        ),
        (
            "[layers.0.scores.accumulator]\nkind = 'blocked'\nblocks = 4",
            "line 1: accumulator of .layers.0.scores.: unknown key 'blocks' of blocked",
        ),
    ],
)
def test_errors_name_the_line(text, message):
    with pytest.raises(ValueError, match=message):
        machine_files.loads(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bf16@", "unknown hardware 'bf16@': '' is not WHERE=NAME, such as 0,-1=bf16"),
        ("bf16@0", "'0' is not WHERE=NAME"),
        ("bf16@=ps4", "'=ps4' is not WHERE=NAME"),
        ("bf17@0=ps4", "unknown hardware 'bf17': did you mean bf16"),
        ("bf16@0=ps99", "'bf16@0=ps99': unknown hardware 'ps99'"),
        ("bf16@norms=ps4", "unknown step 'norms': expected weights, embedding, norm"),
        ("bf16@0.lm_head=ps4", "unknown step 'lm_head': expected weights, norm"),
        ("bf16@0;1=ps4", "'0;1' is no list of layers"),
    ],
)
def test_names_that_say_nothing_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        presets.preset(name)


def test_names_take_steps_of_layers():
    machine = lamp.hardware("fp64@2-3.scores,values=ps4@lm_head=bf16")
    ps4 = lamp.hardware("ps4")
    assert [number for number, _ in machine.layers] == [2, 3]
    assert dict(machine.layers[0][1]) == {"scores": ps4.scores, "values": ps4.values}
    assert machine.lm_head == BF16.lm_head
    assert machine.norm == lamp.hardware("fp64").norm
