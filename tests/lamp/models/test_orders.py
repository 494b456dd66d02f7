"""The order of the channels of scores: found on a text, kept in files, taken by every sum."""

from dataclasses import replace

import numpy as np
import pytest

import fpemu
import lamp
from fpemu import Blocked, Pairwise, Sequential
from lamp import LAMP, Hardware, Product
from lamp.machines import Order, digest, sorted_channels
from lamp.machines import files as machine_files
from lamp.models.attention import attention
from tests.lamp.tiny_models import FAMILIES, TOKENS
from tests.threads import on_threads

HEADS, KEY_HEADS, COUNT, CHANNELS = 4, 2, 24, 20
RULES = [
    None,
    LAMP("total_variation", tau=0.02, weights="abs"),
    LAMP("kl", budget=0.1, weights="running_2"),
    LAMP("kl", budget=0.1, weights="errors"),
    LAMP("value_aware", tau=0.05, weights="running_1"),
]


@pytest.fixture(scope="module")
def factors():
    generator = np.random.default_rng(4)
    shapes = [(HEADS, COUNT, CHANNELS), (KEY_HEADS, COUNT, CHANNELS), (KEY_HEADS, COUNT, CHANNELS)]
    return [generator.normal(0, 1.5, shape).astype(np.float32) for shape in shapes]


@pytest.fixture(scope="module")
def table():
    """Another permutation for each of two layers and four heads."""
    generator = np.random.default_rng(5)
    each = np.tile(np.arange(CHANNELS), (2, HEADS, 1))
    return generator.permuted(each, axis=-1)


def ordered(scores, order):
    return Hardware("ordered", scores=replace(scores, order=order))


@pytest.mark.parametrize("settings", RULES, ids=str)
@pytest.mark.parametrize(
    "scores",
    [
        Product("e8m4"),
        Product(Blocked("e8m3", 5, Sequential("e8m3"))),
        Product(Pairwise("float16"), "float8_e4m3fn", scaling="block", block=5),
        Product("e8m4", "nvfp4"),
        Product(fpemu.devices.get("hopper.wgmma.bfloat16")),
    ],
    ids=["sequential", "blocks", "scaled", "nvfp4", "unit"],
)
def test_sums_are_those_of_permuted_channels(factors, table, scores, settings):
    if settings and settings.weights.startswith("running") and scores != Product("e8m4"):
        settings = replace(settings, weights="norms")  # not all accumulators have running sums
    query, key, value = factors
    shared = np.repeat(np.arange(KEY_HEADS), HEADS // KEY_HEADS)
    key, value = key[shared], value[shared]
    for layer in (0, 1):
        found = attention(*factors, hardware=ordered(scores, table), lamp=settings, layer=layer)
        # Head by head, in plain indexing; a budget is over all heads, and so all are given at once.
        q, k = query.copy(), key.copy()
        for head, places in enumerate(table[layer]):
            for to, channel in enumerate(places):
                q[head, :, to] = query[head, :, channel]
                k[head, :, to] = key[head, :, channel]
        expected = attention(q, k, value, hardware=Hardware("x", scores=scores), lamp=settings)
        np.testing.assert_array_equal(found.output, expected.output)
        assert found.recomputation == expected.recomputation
        assert settings is None or found.recomputation.selected
    plain = attention(query, key, value, hardware=Hardware("x", scores=scores), lamp=settings)
    assert (plain.output != found.output).any()


def test_exact_sums_do_not_depend_on_the_order(factors, table):
    scores = Product(fpemu.Exact("float64"))
    plain, other = (
        attention(*factors, hardware=Hardware("x", scores=replace(scores, order=order)))
        for order in (None, table)
    )
    np.testing.assert_array_equal(plain.output, other.output)


def test_the_order_of_the_channels_as_they_come_changes_nothing(factors):
    identity = np.tile(np.arange(CHANNELS), (1, HEADS, 1))
    for settings in RULES:
        plain, other = (
            attention(*factors, hardware=ordered(Product("e8m4"), order), lamp=settings)
            for order in (None, identity)
        )
        np.testing.assert_array_equal(plain.output, other.output)


def test_the_order_alone_leaves_nothing_to_recompute(factors, table):
    machine = ordered(Product(), table)
    assert not machine.scores_are_low
    found = attention(*factors, hardware=machine, lamp=LAMP(tau=1.05))
    assert found.recomputation.selected == 0


def test_grouping_heads_to_save_memory_changes_nothing(factors, table, monkeypatch):
    found = []
    for size in (1, 2**24):
        monkeypatch.setattr("lamp.models.attention._GROUP_BYTES", size)
        machine = ordered(Product("e8m4"), table)
        found.append(attention(*factors, hardware=machine, lamp=LAMP("kl", tau=0.01)))
    np.testing.assert_array_equal(found[0].output, found[1].output)
    assert found[0].recomputation == found[1].recomputation


# --- orders ---------------------------------------------------------------------------------------


def test_channels_are_sorted_by_magnitude():
    magnitudes = [[[3.0, 0.5, 3.0, 0.0], [1.0, 1.0, 1.0, 1.0]]]
    ascending = sorted_channels(magnitudes, "ascending")
    assert ascending.permutations == (((3, 1, 0, 2), (0, 1, 2, 3)),)
    assert sorted_channels(magnitudes, "descending").permutations == (((0, 2, 1, 3), (0, 1, 2, 3)),)
    assert ascending.shape == (1, 2, 4)
    with pytest.raises(ValueError, match="unknown order 'up': expected ascending, descending"):
        sorted_channels(magnitudes, "up")
    with pytest.raises(ValueError, match="NaN"):
        sorted_channels([[[np.nan, 1.0]]], "ascending")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("up", "unknown order 'up': expected ascending, descending, or"),
        ([], "must be lists of integers by layer and head"),
        ((), "needs a permutation for each layer and head"),
        (3, "must be lists of integers"),
        ([0, 1], "must be lists of integers"),
        ([[[0, 1], [0]]], "all of one length"),
        ([[[0.0, 1.0]]], "must be lists of integers"),
        ([[[False, True]]], "must be lists of integers"),
        ([[["0", "1"]]], "must be lists of integers"),
        ([[[0, 1], [1, 1]]], "must hold 0 to 1 once each, unlike that of layer 0, head 1"),
        ([[[1, 2]]], "must hold 0 to 1 once each"),
        ([[[-1, 0]]], "must hold 0 to 1 once each"),
    ],
)
def test_what_is_no_order_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Product("e8m4", order=given)


def test_orders_are_data(table):
    step = Product("e8m4", order=table)
    assert step == Product("e8m4", order=table.tolist()) == Product("e8m4", order=Order(table))
    assert hash(step) == hash(Product("e8m4", order=table.astype(np.uint8)))
    assert step != Product("e8m4") != Product("e8m4", order="ascending")
    np.testing.assert_array_equal(step.order.of_layer(1), table[1])
    assert "channels by a table of 2 layers and 4 heads" in str(step)
    assert "channels ascending" in str(Product("e8m4", order="ascending"))
    with pytest.raises(ValueError, match="qkv: only scores have an order of channels"):
        Hardware("x", qkv=step)


# --- files ----------------------------------------------------------------------------------------


def test_an_order_is_written_and_read(tmp_path, table):
    machine = ordered(Product("e8m4"), table)
    machine.save(tmp_path / "machine.toml")
    text = (tmp_path / "machine.toml").read_text()
    assert f'"{" ".join(map(str, table[0][0]))}"' in text
    assert lamp.hardware(tmp_path / "machine.toml") == machine
    wanted = ordered(Product("e8m4"), "ascending")
    assert machine_files.loads(machine_files.dumps(wanted)) == wanted
    listed = machine_files.loads(
        f"[scores]\naccumulator = 'e8m4'\noutput = 'e8m4'\norder = {table.tolist()}"
    )
    assert listed.scores == machine.scores
    swapped = table.copy()
    swapped[1, 2, [0, 1]] = swapped[1, 2, [1, 0]]
    machines = [ordered(Product("e8m4"), order) for order in (None, "ascending", table, swapped)]
    assert len({digest(each) for each in machines}) == len(machines)


def test_an_order_of_a_large_model_fits_into_a_file():
    table = np.tile(np.arange(128)[::-1], (32, 32, 1))
    machine = ordered(Product("e8m4"), table)
    assert machine_files.loads(machine_files.dumps(machine)) == machine


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("'up'", r"line 2: \[scores\]: unknown order 'up'"),
        ("['0 1']", r"line 2: order of \[scores\]: an order holds a list of heads for each layer"),
        ("[['0 1 x']]", "line 2: .*channels must be numbers separated by blanks, unlike 'x'"),
        ("[['0 -1']]", "line 2: .*unlike '-1'"),
        ("[['0 99999999999']]", "line 2: .*unlike '99999999999'"),
        ("[['0 0']]", "line 2: .* must hold 0 to 1 once each"),
        ("[['']]", "line 2: .* must be lists of integers"),
        ("[[[0, 1.5]]]", "line 2: .* must be lists of integers"),
        ("[]", "line 2: .* must be lists of integers"),
        ("7", "line 2: .* a list of heads for each layer, not 7"),
    ],
)
def test_errors_in_files_name_the_line(order, message):
    with pytest.raises(ValueError, match=message):
        machine_files.loads(f"[scores]\norder = {order}")


# --- models ---------------------------------------------------------------------------------------


def plain_magnitudes(model, windows):
    """Mean squares of products, weighted by z (1 - z), pair by pair in plain numpy."""
    shape = model.shape
    found = np.zeros((shape.layers, shape.heads, shape.dimension))
    for window in windows:
        for layer in range(shape.layers):
            steps = model.trace(window, layer).steps
            for head in range(shape.heads):
                key = steps["key"][head * shape.key_heads // shape.heads].astype(float)
                query = steps["query"][head].astype(float)
                for i in range(len(window)):
                    for j in range(i + 1):
                        z = float(steps["probabilities"][head, i, j])
                        found[layer, head] += z * (1 - z) * (query[i] * key[j]) ** 2
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_an_order_ascends_on_its_text(family):
    wanted = ordered(Product("e8m3"), "ascending")
    model = FAMILIES[family].model("fp32")
    windows = [TOKENS, [2, 5, 5, 1]]  # the last window of a text may be shorter
    machine = lamp.calibrated(wanted, model, windows)
    assert machine == ordered(Product("e8m3"), machine.scores.order)
    magnitudes = plain_magnitudes(model, windows)
    sorted_ones = np.take_along_axis(magnitudes, np.array(machine.scores.order.permutations), -1)
    assert (np.diff(sorted_ones, axis=-1) >= -1e-9 * sorted_ones[..., 1:]).all()
    assert (np.diff(magnitudes, axis=-1) < 0).any()  # they did not come in that order
    down = lamp.calibrated(ordered(Product("e8m3"), "descending"), model, windows)
    np.testing.assert_array_equal(
        np.array(down.scores.order.permutations)[..., ::-1], machine.scores.order.permutations
    )
    assert lamp.calibrated(machine, model, [0]) is machine
    alone = lamp.calibrated(wanted, model, TOKENS)
    assert alone == lamp.calibrated(wanted, model, np.array([TOKENS])) != machine
    # The precision of the scores is not part of it.
    other = lamp.calibrated(ordered(Product("e8m0"), "ascending"), model, windows)
    assert other.scores.order == machine.scores.order
    logits = [
        model.with_hardware(each).logits(TOKENS)
        for each in (machine, replace(machine, scores="e8m3"))
    ]
    assert (logits[0] != logits[1]).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_generated_as_without_a_cache(family):
    model = FAMILIES[family].model("fp32")
    machine = lamp.calibrated(ordered(Product("e8m3"), "ascending"), model, TOKENS)
    settings = LAMP("kl", tau=0.01, weights="running_2")
    low = model.with_hardware(machine, settings)
    text = np.array(TOKENS[:2])
    for token in low.stream(text, 3):
        assert token == low.logits(text)[-1].argmax()
        text = np.append(text, token)


def test_machines_without_the_models_order_are_refused():
    model = FAMILIES["gpt2"].model("fp32")
    with pytest.raises(ValueError, match="of 'ordered' is yet to be found, 'ascending' on a text"):
        model.with_hardware(ordered(Product("e8m4"), "ascending"))
    with pytest.raises(ValueError, match=r"for 1 layers, 2 heads, 9 channels, but .* 2 layers"):
        model.with_hardware(ordered(Product("e8m4"), np.tile(np.arange(9), (1, 2, 1))))
    with pytest.raises(ValueError, match="scores of 'fp32' ask for no order of channels"):
        lamp.calibrated("fp32", model, TOKENS)
    for tokens, error in (([], ValueError), ([99], ValueError), ([0.5], TypeError)):
        with pytest.raises(error, match="token"):
            lamp.calibrated(ordered(Product("e8m4"), "ascending"), model, tokens)


def test_the_same_order_and_bits_on_any_number_of_threads():
    model = lamp.from_pretrained("embedded")
    text = model.encode("When shall we three meet again, in thunder, lightning, or in rain?")
    found = []
    for threads in (1, 3):
        with on_threads(threads):
            machine = lamp.calibrated(ordered(Product("e8m4"), "ascending"), model, text)
            found.append((machine, model.with_hardware(machine).logits(text)))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
