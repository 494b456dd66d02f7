"""Attention by tiles against the definition in rationals, and against attention by rows."""

from dataclasses import replace

import numpy as np
import pytest

import fpemu
import lamp
from fpemu import Format, Pairwise, Rounding, Sequential, devices
from lamp import Function, Hardware, Product, Tiled
from lamp.models.attention import attention, softmax
from tests.lamp.tiny_models import FAMILIES, TOKENS
from tests.oracle import tiles as oracle
from tests.threads import on_threads

UE5M3 = Format("ue5m3", 8, 4, 15, signed=False, infinities=False, high_nans=1)
SATURATING = Rounding("rne", "saturate")
DOUBLE = dict.fromkeys(("exponential", "rescaling", "running_sum"), "float64")


def heads(tokens=19, dimension=8, count=2, seed=0, dtype=np.float32, scale=1.6):
    rng = np.random.default_rng(seed)
    return (scale * rng.standard_normal((3, count, tokens, dimension))).astype(dtype)


def relaxed(tau, **fields):
    """The settings of the relaxed rule."""
    return lamp.LAMP("relaxed", tau, **fields)


def same(found, expected):
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


# --- the definition -------------------------------------------------------------------------------

MACHINES = {
    "plain formats": Hardware("a", scores="e8m4", attention=Tiled(5, 4, 2)),
    "a small table": Hardware(
        "b",
        scores="e8m3",
        values=Product("e8m9", "bfloat16"),
        attention=Tiled(
            4,
            8,
            4,
            exponential=Function(UE5M3, SATURATING, "float8_e4m3fn"),
            rescaling=Function("float8_e5m2", "rtz", "float8_e5m2"),
            running_maximum=Function("float8_e4m3fn", "rtp"),
            running_sum=Sequential("e8m6", "rtn"),
        ),
    ),
    "a maximum rounded down": Hardware(
        "c",
        scores=Product("e8m5", rounding="rto"),
        values=Product("e8m12", output="bfloat16", rounding="rtp"),
        attention=Tiled(
            7,
            6,
            3,
            exponential=Function("float16", "rtn", "tf32"),
            rescaling="bfloat16",
            running_maximum=Function("e8m2", "rtz"),
            running_sum="float16",
        ),
    ),
    "numbers beyond float32": Hardware(
        "d",
        scores="e8m4",
        attention=Tiled(
            4, 4, 2, exponential=Function("e8m5", "rtp", "float64"), rescaling="e11m20"
        ),
    ),
    "float32, not to nearest": Hardware(
        "h", scores="e8m4", attention=Tiled(4, 4, 2, exponential=Function("float32", "rtz"))
    ),
    "no negative zero": Hardware(
        "e",
        scores="e8m4",
        attention=Tiled(
            4, 4, 2, exponential=Function("e8m5", Rounding("rtn", "saturate"), "float8_e5m2fnuz")
        ),
    ),
    "a unit": replace(
        lamp.hardware("hopper"),
        attention=Tiled(8, 16, 2, exponential=Function("bfloat16", "rne", "float32")),
    ),
    "sums on a unit": replace(
        lamp.hardware("hopper"),
        attention=Tiled(
            8, 8, 2, exponential="bfloat16", running_sum=devices.get("hopper.wgmma.bfloat16")
        ),
    ),
    "one scale": Hardware(
        "f",
        scores="e8m6",
        values=Product("e8m8", "float8_e5m2", "bfloat16", scaling="tensor", scale=0.25),
        attention=Tiled(3, 5, 5, exponential=Function("e8m5", "rna", "e8m8")),
    ),
    "divided at each tile": Hardware(
        "g",
        scores="e8m4",
        softmax=Function("bfloat16", "rtz"),
        values=Product("e8m10", output="tf32"),
        attention=Tiled(
            6, 4, 1, exponential="e8m9", rescaling="e8m7", running_sum="e8m8", division="tile"
        ),
    ),
}


@pytest.mark.parametrize("tau", [None, 0.02, 0.9])
@pytest.mark.parametrize("name", MACHINES)
def test_every_operation_is_rounded_once(name, tau):
    machine = MACHINES[name]
    query, key, value = heads(dtype=machine.carrier.type)
    if machine.qkv.output.name != "float32":  # the numbers that its products read
        query, key, value = (fpemu.round(x, machine.qkv.output) for x in (query, key, value))
    seen = {}
    output, recomputation = attention(
        query, key, value, hardware=machine, lamp=None if tau is None else relaxed(tau),
        observe=lambda step, x: seen.__setitem__(step, x.copy()),
    )  # fmt: skip
    for head in range(len(query)):
        expected, mask = oracle.attention(query[head], key[head], value[head], machine, tau)
        same(output[head], expected)
        np.testing.assert_array_equal(seen["mask"][head], mask)
    low = tau is not None and machine.scores_are_low
    assert recomputation.selected == seen["mask"].sum()
    assert (recomputation.selected > 0) == low
    assert (recomputation.tiles is not None) == low


def test_tiles_and_parts_are_counted_where_a_key_is_seen():
    machine = MACHINES["plain formats"]  # tiles of 5 x 4 in parts of 2 keys
    query, key, value = heads()
    seen = {}
    _, recomputation = attention(
        query, key, value, hardware=machine, lamp=relaxed(0.5),
        observe=lambda step, x: seen.__setitem__(step, x.copy()),
    )  # fmt: skip
    found, causal = recomputation.tiles, np.tril(np.ones((19, 19), bool))
    for width, touched, count in (
        (4, found.recomputed, found.tiles),
        (2, found.recomputed_parts, found.parts),
    ):
        exist, chosen = 0, 0
        for head in seen["mask"]:
            for i in range(0, 19, 5):
                for j in range(0, 19, width):
                    exist += causal[i : i + 5, j : j + width].any()
                    chosen += head[i : i + 5, j : j + width].any()
        assert (touched, count) == (chosen, exist)
    assert 0 < found.recomputed_parts < found.parts


# --- attention by rows ----------------------------------------------------------------------------


@pytest.mark.parametrize("division", ["last", "tile"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 8, 2), (16, 7, 1), (128, 64, 4)])
def test_with_exact_arithmetic_tiles_change_roundings_of_float64_alone(sizes, division):
    query, key, value = heads(tokens=70, dtype=np.float64, scale=3)
    plain = lamp.hardware("fp64")
    tiled = replace(plain, attention=Tiled(*sizes, **DOUBLE, division=division))
    expected, _ = attention(query, key, value, hardware=plain)
    found, _ = attention(query, key, value, hardware=tiled)
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-14 * np.abs(value).max())
    if sizes[1] < 70:
        assert (found != expected).any()  # they are other sums


SOFTMAXES = [
    Function(),
    Function("bfloat16", "rtz"),
    Function("bfloat16", steps="bfloat16"),
    Function("float16", "rtn", "e5m12"),
    Function("float32", steps="e8m20"),
]


def one_tile(machine, tokens, **fields):
    """The formats of a machine's softmax, in a tile for each row of at most `tokens` keys."""
    step = machine.softmax
    inner = DOUBLE
    if step.steps is not None:
        function = Function(step.steps, step.rounding, step.steps)
        sums = Sequential(step.steps, step.rounding)
        inner = {"exponential": function, "rescaling": function, "running_sum": sums}
    tiled = Tiled(1, tokens, tokens, **inner, division="tile")
    return replace(machine, attention=replace(tiled, **fields))


@pytest.mark.parametrize("step", SOFTMAXES, ids=str)
@pytest.mark.parametrize("name", ["fp32", "scores-ps4", "bf16", "hopper", "fp64"])
def test_a_tile_of_the_whole_row_is_attention_by_rows(name, step):
    machine = replace(lamp.hardware(name), softmax=step)
    query, key, value = heads(tokens=33, dtype=machine.carrier.type)
    expected, _ = attention(query, key, value, hardware=machine)
    for tokens in (33, 50):
        same(attention(query, key, value, hardware=one_tile(machine, tokens)).output, expected)
    together = one_tile(machine, 33, rows=128, parts=1)
    same(attention(query, key, value, hardware=together).output, expected)
    # Other tiles give other bits.
    smaller = one_tile(machine, 8)
    assert (attention(query, key, value, hardware=smaller).output != expected).any()


def test_trees_need_tiles_of_all_tokens():
    """A tree has the shape of the whole tile: zeros behind a row are terms of it."""
    machine = replace(lamp.hardware("fp32"), values=Product(Pairwise("e8m5")))
    query, key, value = heads(tokens=33)
    expected, _ = attention(query, key, value, hardware=machine)
    same(attention(query, key, value, hardware=one_tile(machine, 33)).output, expected)


def plain_mask(y, lengths, tau, length=0):
    """The relaxed rule, row by row."""
    mask = np.zeros(y.shape, bool)
    for place in np.ndindex(y.shape[:2]):
        n = lengths[place[1]]
        row = y[place][:n].astype(np.float64)
        with np.errstate(divide="ignore"):
            score = np.log(np.abs(row)) + row
        limit = min(1.0, tau * np.sqrt(length / n)) if length else tau
        mask[place][:n] = score - score.max() > np.log(limit)
    return mask


@pytest.mark.parametrize("length", [0, 12])
@pytest.mark.parametrize("tau", [0.9, 0.1, 1e-4])
def test_parts_of_one_score_in_one_tile_are_the_relaxed_rule_by_rows(tau, length):
    query, key, value = heads(tokens=33)
    machine = one_tile(lamp.hardware("scores-ps4"), 33)
    seen = {}
    output, recomputation = attention(
        query, key, value, hardware=machine, lamp=relaxed(tau, length=length),
        observe=lambda step, x: seen.__setitem__(step, x.copy()),
    )  # fmt: skip
    lengths = np.arange(1, 34)
    mask = plain_mask(seen["low_scores"], lengths, tau, length)
    assert 0 < mask.sum() < recomputation.components
    np.testing.assert_array_equal(seen["mask"], mask)
    high = attention_scores(query, key, lamp.hardware("fp32"))
    mixed = np.where(mask, high, seen["low_scores"])
    np.testing.assert_array_equal(seen["scores"], mixed)
    z = softmax(mixed.reshape(-1, 33), np.tile(lengths, 2), machine.softmax).reshape(mixed.shape)
    same(output, fpemu.matmul(z, value, machine.values.accumulator))


@pytest.mark.parametrize("sizes", [(1, 8, 8), (1, 8, 2), (16, 4, 1)])
def test_parts_contain_what_the_rule_picks_by_rows(sizes):
    query, key, value = heads(tokens=33)
    machine = replace(lamp.hardware("scores-ps4"), attention=Tiled(*sizes))
    seen = {}
    attention(
        query, key, value, hardware=machine, lamp=relaxed(0.3),
        observe=lambda step, x: seen.__setitem__(step, x.copy()),
    )  # fmt: skip
    picked = plain_mask(seen["low_scores"], np.arange(1, 34), 0.3)
    assert picked[seen["mask"]].sum() == picked.sum() < seen["mask"].sum()


def test_with_one_part_a_row_is_recomputed_whole():
    """The largest score of a row passes the test if tau is below 1."""
    query, key, value = heads(tokens=33)
    machine = one_tile(lamp.hardware("scores-ps4"), 33, parts=1)
    output, recomputation = attention(query, key, value, hardware=machine, lamp=relaxed(0.9))
    assert recomputation.selected == recomputation.components
    same(output, attention(query, key, value, hardware=lamp.hardware("fp32")).output)
    low, recomputation = attention(query, key, value, hardware=machine, lamp=relaxed(1.0))
    assert recomputation.selected == 0
    same(low, attention(query, key, value, hardware=lamp.hardware("scores-ps4")).output)


def attention_scores(query, key, machine):
    seen = {}
    attention(query, key, key, hardware=machine, observe=seen.__setitem__)
    return seen["scores"]


@pytest.mark.parametrize("options", [{}, {"length": 12}, {"leading_columns": 2}], ids=str)
@pytest.mark.parametrize("name", ["scores-ps4", "hopper"])
def test_one_tile_is_attention_by_rows_with_the_relaxed_rule(name, options):
    machine = replace(lamp.hardware(name), recomputed=Product("float32"))
    query, key, value = heads(tokens=33)
    for tau in (0.0, 1e-3, 0.3, 1.0):
        rule = lamp.LAMP("relaxed", tau, **options)
        expected = attention(query, key, value, hardware=machine, lamp=rule)
        found = attention(query, key, value, hardware=one_tile(machine, 33), lamp=rule)
        same(found.output, expected.output)
        assert found.recomputation.selected == expected.recomputation.selected


# --- strange scores -------------------------------------------------------------------------------


def scores_as_given(rows, **fields):
    """Attention whose scores are the first column of the keys: all queries are 1."""
    given = np.array(rows, np.float32)[np.newaxis]
    key = np.zeros((1, given.shape[1], 1), np.float32)
    key[0, :, 0] = given
    query, value = np.ones_like(key), np.arange(1.0, key.size + 1, dtype=np.float32)
    machine = Hardware("m", scores="e8m7", attention=Tiled(1, 2, 1, **fields))
    return query, key, value.reshape(key.shape), machine


RANDOM = Function("float32", Rounding("sr", seed=1), "bfloat16")


@pytest.mark.parametrize("fields", [{}, {"division": "tile"}, {"exponential": RANDOM}], ids=str)
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.0] * 5, 3.0),
        ([-np.inf, 0.0, 0.0], 2.5),
        ([-np.inf, -np.inf, 0.0, 0.0], 3.5),
        ([-np.inf] * 3, np.nan),
        ([0.0, np.inf, 0.0], np.nan),
        ([0.0, 0.0, 0.0, np.inf], np.nan),
        ([0.0, np.nan, 1.0], np.nan),
        ([np.nan, -np.inf, 1.0], np.nan),
        ([500.0, -500.0, 0.0], 1.0),
        ([-500.0, 0.0, 500.0], 3.0),
    ],
)
def test_infinite_scores_have_the_softmax_of_their_row(row, expected, fields):
    query, key, value, machine = scores_as_given(row, **fields)
    output, _ = attention(query, key, value, hardware=machine)
    if "division" in fields and row[:2] == [-np.inf] * 2:
        expected = np.nan  # the quotient 0 / 0 of the first tile
    np.testing.assert_array_equal(output[0, -1, 0], np.float32(expected))


def test_a_maximum_that_has_not_grown_is_not_rounded():
    maximum = Function("float8_e4m3fn")  # of which -inf would become NaN
    query, key, value, machine = scores_as_given(
        [-np.inf, -np.inf, 0.0, 0.0], running_maximum=maximum
    )
    output, _ = attention(query, key, value, hardware=machine)
    assert output[0, -1, 0] == 3.5


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.0] * 4, [0, 0, 0, 0]),  # none is sensitive
        ([2.0, 2.0, 2.0, 2.0], [1, 1, 1, 1]),
        ([1.0, 0.0, 4.0, 0.0], [1, 1, 1, 1]),  # the maximum so far counts, not that of the row
        ([4.0, 0.0, 1.0, 0.0], [1, 1, 0, 0]),
        ([4.0, 0.0, np.nan, 0.0], [1, 1, 1, 1]),
        ([4.0, 0.0, -np.inf, 0.0], [1, 1, 1, 1]),  # may have overflowed
        ([np.inf, 0.0, 1.0, 0.0], [1, 1, 1, 1]),
        ([3e38, 0.0, 3e38, 0.0], [1, 1, 1, 1]),
        ([4.0, 0.0, -3.4e38, 0.0], [1, 1, 1, 1]),  # overflows, though it passes no test
        ([3e4, 0.0, 2e4, 0.0], [1, 1, 0, 0]),  # the exponentials overflow
    ],
)
def test_parts_of_strange_rows(row, expected):
    query, key, value, machine = scores_as_given(row)
    seen = {}
    attention(
        query, key, value, hardware=machine, lamp=relaxed(0.5),
        observe=lambda step, x: seen.__setitem__(step, x.copy()),
    )  # fmt: skip
    np.testing.assert_array_equal(seen["mask"][0, -1], np.array(expected, bool))


def test_no_number_is_made_up_where_a_format_has_no_nan():
    finite = Format("finite", 8, 4, 7, infinities=False, high_nans=0)
    for step in (Function("float32", steps=finite), Function(finite, steps="float32")):
        query, key, value, machine = scores_as_given([0.0, np.nan], exponential=step)
        with pytest.raises(ValueError, match="running maximum is NaN, but finite has no NaN"):
            attention(query, key, value, hardware=machine)


# --- random bits, threads, tokens that come later -------------------------------------------------


def test_random_bits_are_those_of_seed_layer_and_tile():
    rounding = Rounding("sr", seed=3)
    tiled = Tiled(
        4,
        8,
        2,
        exponential=Function("bfloat16", rounding, "float16"),
        rescaling=Function("bfloat16", rounding),
        running_maximum=Function("bfloat16", rounding),
        running_sum=Sequential("e8m9", rounding),
    )
    machine = Hardware("s", values=Product(Sequential("e8m9", rounding)), attention=tiled)
    assert not machine.is_causal
    query, key, value = heads(tokens=40, count=8)

    def output(machine):
        return attention(query, key, value, hardware=machine).output

    same(output(machine), output(machine))
    assert (output(machine.derived(1)) != output(machine.derived(2))).mean() > 0.7
    exact = attention(query, key, value, hardware=lamp.hardware("fp64")).output
    errors = [output(machine.derived(layer)) - exact for layer in range(24)]
    # Stochastic rounding is all but unbiased: the mean of errors is far less than one of them.
    assert np.abs(np.mean(errors, axis=0)).mean() < 0.4 * np.abs(errors).mean()
    for name in ("exponential", "rescaling", "running_maximum", "running_sum"):
        nearest = {name: getattr(Tiled(), name) or Function("bfloat16")}
        changed = replace(machine, attention=replace(tiled, **nearest))
        assert (output(changed) != output(machine)).any()


@pytest.mark.parametrize("name", ["plain formats", "a small table", "divided at each tile"])
def test_no_bit_depends_on_the_number_of_threads(name):
    query, key, value = heads(tokens=100, count=3)
    found = []
    for threads in (1, 3):
        with on_threads(threads):
            given = attention(query, key, value, hardware=MACHINES[name], lamp=relaxed(0.2))
        found.append((given.output.tobytes(), given.recomputation))
    assert found[0] == found[1]


def test_no_bit_depends_on_how_many_heads_are_computed_at_a_time(monkeypatch):
    query, key, value = heads(count=4)
    machine = MACHINES["plain formats"]
    whole = attention(query, key, value, hardware=machine, lamp=relaxed(0.2))
    monkeypatch.setattr("lamp.models.attention._GROUP_BYTES", 1)
    parts = attention(query, key, value, hardware=machine, lamp=relaxed(0.2))
    same(parts.output, whole.output)
    assert parts.recomputation == whole.recomputation


@pytest.mark.parametrize("rows", [1, 5])
def test_rows_at_the_end_of_a_text_are_those_of_the_whole(rows):
    """Tiles are those of the text, so that rows from a tile's first on need no others."""
    query, key, value = heads()
    machine = replace(MACHINES["a small table"], attention=Tiled(rows, 4, 2))
    seen = [{}, {}]
    outputs = [
        attention(
            part, key, value, hardware=machine, lamp=relaxed(0.5), observe=each.__setitem__
        ).output
        for part, each in zip((query, query[:, 12:]), seen, strict=True)
    ]
    same(outputs[1][:, 3:], outputs[0][:, 15:])
    np.testing.assert_array_equal(seen[1]["mask"][:, 3:], seen[0]["mask"][:, 15:])
    plain = attention(query[:, 12:], key, value, hardware=machine).output
    same(plain, attention(query, key, value, hardware=machine).output[:, 12:])


TREE = Hardware(
    "tree", values=Product(Pairwise("e8m9")), attention=Tiled(2, 4, 2, running_sum=Pairwise("e8m9"))
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("machine", [MACHINES["a small table"], TREE], ids=str)
def test_a_token_does_not_depend_on_later_ones_and_can_be_generated(machine, family):
    """A tile always has all its terms, so that trees have one shape, too."""
    model = FAMILIES[family].model(machine)
    assert machine.is_causal
    whole = model.logits(TOKENS)
    for end in range(1, len(TOKENS)):
        same(model.logits(TOKENS[:end]), whole[:end])
    text = model.generate(TOKENS[:2], 4)
    for end in range(2, 6):
        assert text[end] == model.logits(text[:end])[-1].argmax()
    assert (whole != model.with_hardware(replace(machine, attention=None)).logits(TOKENS)).any()
    windows = np.array([TOKENS, TOKENS[::-1]])
    same(model.logits(windows)[0], whole)


@pytest.mark.parametrize("rows", [1, 3])
def test_generation_with_look_ahead_is_that_of_whole_passes(rows):
    machine = Hardware("m", scores="e8m2", attention=Tiled(rows, 2, 1))
    model = FAMILIES["gpt2"].model(machine).with_hardware(machine, lamp.LAMP("relaxed", 0.3))
    assert model._is_causal == (rows == 1)
    text = model.generate(TOKENS[:2], 4)
    for end in range(2, 6):
        assert text[end] == model.logits(text[:end])[-1].argmax()


@pytest.mark.parametrize(
    "rule", [lamp.LAMP(tau=1.2), lamp.LAMP("total_variation", budget=0.1)], ids=str
)
def test_other_rules_are_refused(rule):
    machine = Hardware("m", scores="e8m2", attention=Tiled())
    query, key, value = heads()
    message = f"attention by tiles takes the rule relaxed with a tau.*not {rule}"
    with pytest.raises(ValueError, match=message):
        attention(query, key, value, hardware=machine, lamp=rule)
    with pytest.raises(ValueError, match=message):
        FAMILIES["gpt2"].model("fp32").with_hardware(machine, rule)
    with pytest.raises(ValueError, match="takes the rule relaxed"):
        attention(query, key, value, hardware=machine, lamp=relaxed(0.1, control="causal"))
    several = replace(machine, recomputed=("e8m10", "float32"))
    with pytest.raises(ValueError, match=r"recomputes parts in one precision, unlike .*:0\.1,0\.2"):
        attention(query, key, value, hardware=several, lamp=relaxed((0.1, 0.2)))
    assert attention(query, key, value, hardware=several).recomputation.levels == (0, 0)
