"""The command `lamp` as people and programs call it."""

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import fpemu
import lamp
from lamp import LAMP, checkpoints, evaluation
from lamp.cli import inputs, outputs
from lamp.cli.application import app, main
from lamp.evaluation.metrics import Metrics
from lamp.machines import names
from lamp.machines.differences import differences
from lamp.machines.machine import STEPS
from lamp.models import loading as models
from lamp.models.decoder import Decoder
from lamp.reports import console as report
from tests.interruptions import assert_interrupted_at_any_moment

LOOK_AHEAD = ("softmax:tv:0.01", "norm:norm:1%")
NARROW = 'name = "narrow :tv: scores"\n[scores]\naccumulator = "e3m4"\n'  # overflows at 16
BEGINNING = "ROMEO.\nO, she doth"


@pytest.fixture(scope="module")
def model():
    return lamp.GPT2.from_pretrained("embedded")


@pytest.fixture(scope="module")
def tokens(model):
    return model.encode(checkpoints.read_text())


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def command(*arguments):
    """What a command that succeeds prints on standard output."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def record(*arguments):
    """The JSON object that a command prints: strict JSON, without NaN."""

    def refused(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(command(*arguments, "--json"), parse_constant=refused)


def plain(metrics):
    """Metrics as they come out of JSON that keeps all digits."""
    return json.loads(json.dumps(asdict(metrics)))


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "lamp", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


# --- run ------------------------------------------------------------------------------------------


def test_run_prints_the_numbers_of_evaluate_in_full(model, tokens):
    found = record(
        "run", "--hardware", "scores-ps4", "--lamp", LOOK_AHEAD[0], "--lamp", LOOK_AHEAD[1],
        "--tokens", 90, "--length", 40, "--stride", 24, "--reference", "fp32",
    )  # fmt: skip
    settings = [LAMP.parse(text) for text in LOOK_AHEAD]
    under_test = model.with_hardware("scores-ps4", settings)
    metrics = lamp.evaluate(model, under_test, tokens[:90], length=40, stride=24)
    assert found["metrics"] == plain(metrics)
    assert set(found["metrics"]["step_rates"]) == {"scores", "attention_output", "mlp_down"}
    assert found["hardware"] == "scores-ps4"
    assert found["reference"] == "fp32"
    assert found["lamp"] == ["softmax:total_variation:0.01", "norm:norm:1%"]
    assert found["model"]["name"] == "embedded"
    assert found["seconds"] > 0
    # Windows begin at 0, 24, 48 and 72.
    assert found["text"]["windows"] == 4
    assert found["tokens_per_second"] * found["seconds"] == pytest.approx(40 + 40 + 40 + 18)
    assert found["versions"]["numpy"] == np.__version__
    assert found["nulls"] == {}
    assert found["notes"] == []


def test_a_text_comes_from_a_file_a_pipe_or_as_numbers(tokens, model, tmp_path):
    words = "Now is the winter of our discontent. "
    numbers = model.encode(words)
    (tmp_path / "text.txt").write_text(words)
    (tmp_path / "numbers.txt").write_text("\n ".join(map(str, numbers)) + "\n")
    np.save(tmp_path / "numbers.npy", numbers.astype(np.uint16))
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(words,), daemon=True)
    writer.start()
    options = ["run", "--hardware", "scores-ps2", "--tokens", len(numbers)]
    found = [
        record(*options, "--text", tmp_path / "text.txt"),
        record(*options, "--text", tmp_path / "pipe"),
        record(*options, "--token-ids", tmp_path / "numbers.txt"),
        record(*options, "--token-ids", tmp_path / "numbers.npy"),
    ]
    writer.join()
    given = CliRunner().invoke(app, [*map(str, options), "--text", "-", "--json"], input=words)
    found.append(json.loads(given.stdout))
    expected = lamp.evaluate(
        model.with_hardware("fp64"), model.with_hardware("scores-ps2"), numbers
    )
    for each in found:
        assert each["metrics"] == plain(expected)
        assert each["text"]["tokens_sha256"] == found[0]["text"]["tokens_sha256"]
    assert found[-1]["text"]["source"] == "standard input"


def test_windows_are_as_long_as_512_tokens_or_the_model_s_positions(model):
    assert evaluation.window_sizes(model, None, None) == (512, 512)
    for positions, expected in ((200, 200), (1024, 512)):
        other = object.__new__(type(model))
        other.shape = replace(model.shape, positions=positions)
        assert evaluation.window_sizes(other, None, 7) == (expected, 7)


def test_fewer_tokens_than_asked_for_are_said(tmp_path):
    file = tmp_path / "short.txt"
    file.write_text("Brevity is the soul of wit.")
    options = ["run", "--hardware", "fp32", "--text", file]
    found = record(*options)
    (note,) = found["notes"]
    count = found["text"]["tokens"]
    assert note == f"{file} has {count} tokens, fewer than the 4096 asked for"
    # A line may end anywhere in a long path.
    assert "".join(note.split()) in "".join(command(*options).split())
    assert record(*options, "--tokens", count)["notes"] == []


def test_shuffled_tokens_are_those_of_the_seed(model, tokens):
    options = ["run", "--hardware", "scores-ps2", "--tokens", 24, "--shuffle"]
    shuffled = np.random.default_rng(3).permutation(tokens[:24])
    first, again, other, default = (
        record(*options, *seed) for seed in (["--seed", 3], ["--seed", 3], ["--seed", 4], [])
    )
    expected = lamp.evaluate(
        model.with_hardware("fp64"), model.with_hardware("scores-ps2"), shuffled
    )
    assert first["metrics"] == again["metrics"] == plain(expected)
    assert first["text"] == again["text"]
    assert first["text"]["shuffled"] == 3
    assert default["text"]["shuffled"] == 0
    hashes = [each["text"]["tokens_sha256"] for each in (first, other, default)]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize("columns", [80, 140])
def test_the_table_has_the_numbers(model, tokens, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    rules = ["softmax:tv:0.01", "activation:activation:2%", "logits:tv:1%"]
    options = [word for rule in rules for word in ("--lamp", rule)]
    printed = command("run", "--hardware", "ps4", "--tokens", 48, *options)
    under_test = model.with_hardware("ps4", [LAMP.parse(rule) for rule in rules])
    metrics = lamp.evaluate(model.with_hardware("fp64"), under_test, tokens[:48])
    rows = {line.split("  ")[0]: line for line in printed.splitlines()}
    assert f" {metrics.kl:.2e} " in rows["KL divergence"]
    assert f" {metrics.flip_rate:.2%} " in rows["flips"]
    assert f" {metrics.perplexity:.3f} " in rows["perplexity"]
    assert rows["perplexity"].rstrip().endswith(f"fp64: {metrics.reference_perplexity:.3f}")
    assert f" {metrics.recomputation_rate:.2%} " in rows["recomputed"]
    assert f" {metrics.high_precision_share:.2%} " in rows["high precision"]
    assert rows["recomputed, %"].split() == ["recomputed,", "%", "layer", *"012345"]
    for step, rates in {**metrics.step_rates, "all": metrics.layer_rates}.items():
        assert rows[step].split() == [step, *(f"{100 * rate:.2f}" for rate in rates)]
    assert "the held-out sample: 48 tokens, one window" in printed
    assert max(map(len, printed.splitlines())) <= columns


def test_overflow_is_said_in_words(tmp_path):
    machine = tmp_path / "narrow.toml"
    machine.write_text(NARROW)
    options = ["run", "--hardware", machine, "--tokens", 40]
    found = record(*options)
    assert found["metrics"]["kl"] is None
    nulls = {"metrics.kl", "metrics.kl_error", "metrics.perplexity", "metrics.perplexity_error"}
    nulls |= {f"metrics.sums.{cluster}.1" for cluster in range(16)}
    assert found["nulls"] == dict.fromkeys(nulls, "nan")
    assert 0 < found["not_finite"] <= 40
    assert found["reference_not_finite"] == 0
    overflow, divergence, perplexity = found["notes"]
    count = found["not_finite"]
    assert overflow == (
        f"numbers overflowed: the machine's logits are NaN or infinite at {count} of the 40 "
        "positions"
    )
    assert divergence == "the KL divergence is not a number"
    assert perplexity == "the perplexity is not a number"
    printed = " ".join(command(*options).split())
    assert "; ".join(found["notes"]) in printed
    swapped = record("run", "--reference", machine, "--tokens", 40)
    assert swapped["notes"][0] == overflow.replace("the machine's", "the reference's")
    assert swapped["not_finite"] == 0


def test_positions_that_overflow_are_counted_once(model, tokens, tmp_path):
    (tmp_path / "narrow.toml").write_text(NARROW.replace("scores]", "lm_head]"))
    machine = lamp.hardware(tmp_path / "narrow.toml")
    found = record(
        "run", "--hardware", tmp_path / "narrow.toml", "--tokens", 38, "--length", 22,
        "--stride", 16,
    )  # fmt: skip
    low = model.with_hardware(machine)
    # The windows begin at 0 and 16; the second one has 6 tokens of context.
    logits = np.concatenate([low.logits(tokens[:22]), low.logits(tokens[16:38])[6:]])
    assert not np.isfinite(logits[22]).all()
    assert found["not_finite"] == np.count_nonzero(~np.isfinite(logits).all(axis=1))
    assert 0 < found["not_finite"] < 38


def test_one_token_has_no_perplexity():
    found = record("run", "--tokens", 1)
    missing = {f"metrics.{name}_error" for name in ("kl", "flip_rate")}
    for name in ("reference_perplexity", "perplexity"):
        missing |= {f"metrics.{name}", f"metrics.{name}_error"}
    assert found["nulls"] == dict.fromkeys(missing, "nan")
    assert found["notes"] == ["one token has none that follows it, and so there is no perplexity"]


def test_infinities_are_null_and_named():
    found = evaluation.without_nan({"a": [1.0, -np.inf, {"b": np.inf}], "c": (np.nan,), "d": "inf"})
    assert found == {
        "a": [1.0, None, {"b": None}],
        "c": [None],
        "d": "inf",
        "nulls": {"a.1": "-inf", "a.2.b": "inf", "c.0": "nan"},
    }


NAMES = st.text('ab"\\é\n', min_size=1, max_size=3)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda own: st.lists(own, max_size=3) | st.dictionaries(NAMES, own, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, PLAIN, max_size=3))
def test_json_is_printed_part_by_part_as_it_would_be_as_a_whole(found):
    nulls = {}
    parts = outputs._written({**found, "nulls": nulls}, "", "", nulls)
    expected = json.dumps(evaluation.without_nan(found), indent=2, allow_nan=False)
    assert "".join(parts) == expected


def test_what_is_iterated_over_is_printed_item_by_item(capsys, monkeypatch):
    """No more is held than is printed at a time."""
    monkeypatch.setattr(outputs, "_PARTS", 4)
    printed = []
    monkeypatch.setattr(outputs, "echo", lambda text="", **_: printed.append(str(text)))
    seen = (printed.append(f"<{number}>") or number for number in range(9))
    outputs.print_json({"numbers": seen, "none": iter(())})
    assert printed.index("<8>") > 8
    whole = "".join(part for part in printed if part[:1] != "<")
    assert json.loads(whole)["numbers"] == [*range(9)]
    assert json.loads(whole)["none"] == []


RATES = {
    "thirty layers": ({"scores": 30}, 80),
    "six": ({"scores": 6, "mlp_up": 6, "lm_head": 1}, 80),
    "wide": ({"attention_output": 40, "mlp_down": 40}, 140),
    "narrow": ({"attention_output": 12}, 20),
    "head": ({"lm_head": 1}, 80),
    "two precisions": (
        {"scores": 6, "scores_1": 6, "scores_bits": 6, "lm_head": 1, "lm_head_1": 1},
        80,
    ),
}


@pytest.mark.parametrize("name", RATES)
def test_rates_of_all_layers_are_in_the_table_and_none_is_wrapped(name):
    counts, width = RATES[name]
    draw = np.random.default_rng(1).random
    steps = {step: (1.0, *draw(count - 1).tolist()) for step, count in counts.items()}
    layers = max((count for step, count in counts.items() if "lm_head" not in step), default=0)
    metrics = Metrics(1, 0, 0, 0, 0, 0, tuple(draw(layers).tolist()), steps, 0)
    lines = printed_lines(report.rates_table(metrics, width), 200)
    assert max(map(len, lines)) <= max(width, 18 + 7)  # a layer, however narrow it is
    for step, rates in steps.items():
        cells = [line.split()[1:] for line in lines if line.split()[0] == step]
        assert list(itertools.chain(*cells)) == [f"{100 * rate:.2f}" for rate in rates]


def test_shares_of_several_precisions_are_no_steps_to_sum_over():
    steps = {"scores": (0.02, 0.01), "scores_1": (0.01, 0.0), "scores_bits": (0.04, 0.02)}
    metrics = Metrics(1, 0, 0, 0, 0, 0, (0.02, 0.01), steps, 0)
    lines = printed_lines(report.rates_table(metrics, 80), 80)
    assert [line.split()[0] for line in lines[1:]] == [*steps]


def test_a_machine_shows_each_product_that_recomputes(tmp_path):
    file = tmp_path / "two.toml"
    file.write_text('recomputed = ["e8m10", "float64"]')
    lines = command("hardware", "show", file).splitlines()[-2:]
    assert [line.split() for line in lines] == [
        ["recomputed,", "1", "sequential(e8m10,", "rne)", "->", "float32", "(rne)"],
        ["recomputed,", "2", "sequential(float64,", "rne)", "->", "float32", "(rne)"],
    ]
    again = tmp_path / "again.toml"
    again.write_text(command("hardware", "show", file, "--toml"))
    assert lamp.hardware(again) == lamp.hardware(file)


def test_a_machine_shows_the_layers_that_differ(tmp_path):
    file = tmp_path / "layers.toml"
    file.write_text('[layers."0-1,-1"]\nnorm = "bfloat16"\n[layers.3.scores]\naccumulator = "e8m4"')
    lines = command("hardware", "show", file).splitlines()
    rest = command("hardware", "show", "fp32").splitlines()
    assert [line.split() for line in lines[1 : len(rest)]] == [line.split() for line in rest[1:]]
    assert [line.split() for line in lines[len(rest) :]] == [
        [],
        ["layers", "0-1,-1", "otherwise", "than", "the", "rest:"],
        ["norm", "in", "float64", "->", "bfloat16", "(rne)"],
        [],
        ["layer", "3", "otherwise", "than", "the", "rest:"],
        ["scores", "sequential(e8m4,", "rne)", "->", "float32", "(rne)"],
    ]
    again = tmp_path / "again.toml"
    again.write_text(command("hardware", "show", file, "--toml"))
    assert lamp.hardware(again) == lamp.hardware(file)


def test_equal_rates_of_all_layers_stand_once():
    steps = {"mlp_up": (0.02,) * 30, "mlp_down": (0.01,) * 30}
    metrics = Metrics(1, 0, 0, 0, 0, 0, (0.015,) * 30, steps, 0)
    lines = [line.split() for line in printed_lines(report.rates_table(metrics, 80), 80)]
    assert lines[0] == ["recomputed,", "%", "each", "layer"]
    assert lines[1:] == [["mlp_up", "2.00"], ["mlp_down", "1.00"], ["all", "1.50"]]


def printed_lines(table, width):
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table)
    console.file.close()
    return [line for line in console.export_text().splitlines() if line.strip()]


# --- compare --------------------------------------------------------------------------------------


def test_compare_has_the_numbers_of_evaluate_for_every_machine(model, tokens, tmp_path):
    (tmp_path / "a+b.toml").write_text('name = "mine"\npreset = "scores-ps2"\n')
    given = ["fp32", "scores-ps4+softmax:tv:0.01+norm:norm:1%", f"{tmp_path}/a+b.toml+softmax:tv:1"]
    found = record("compare", *given, "--tokens", 40, "--length", 24, "--stride", 16)
    machines = [
        model,
        model.with_hardware("scores-ps4", [LAMP.parse(text) for text in LOOK_AHEAD]),
        model.with_hardware("scores-ps2", LAMP.parse("softmax:tv:1")),
    ]

    def expected(reference, machine):
        return lamp.evaluate(reference, machine, tokens[:40], length=24, stride=16)

    for each, machine in zip(found["runs"], machines, strict=True):
        assert each["metrics"] == plain(expected(model.with_hardware("fp64"), machine))
        if machine is model:
            assert each["against_first"] is None
        else:
            first = plain(expected(model, machine))
            keys = ("kl", "kl_error", "flip_rate", "flip_rate_error")
            assert each["against_first"] == {key: first[key] for key in keys}
            more = each["more_than_first"]
            low, high = more["kl_interval"]
            assert low < more["kl"] < high
            assert more["kl"] == pytest.approx(
                each["metrics"]["kl"] - found["runs"][0]["metrics"]["kl"]
            )
    assert [each["hardware"] for each in found["runs"]] == ["fp32", "scores-ps4", "mine"]
    assert len({each["setting_sha256"] for each in found["runs"]}) == 3
    assert found["differences"] == [
        {
            "steps": ["scores"],
            "what": "sums",
            "values": [f"sequential({format}, rne)" for format in ("float32", "e8m4", "e8m2")],
            "layers": "",
        },
        {
            "steps": ["scores"],
            "what": "result",
            "values": ["float32", "e8m4", "e8m2"],
            "layers": "",
        },
    ]


def test_the_reference_and_the_first_machine_run_once(monkeypatch):
    seen = []
    forward = Decoder.forward

    def recorded(self, tokens):
        seen.append((self.hardware.name, len(tokens)))
        return forward(self, tokens)

    monkeypatch.setattr(Decoder, "forward", recorded)
    record("compare", "fp32", "scores-ps4", "bf16", "--tokens", 70, "--length", 40)
    assert [name for name, length in seen if length == 2] == ["fp32", "scores-ps4", "bf16"]
    order = ("fp64", "fp32", "scores-ps4", "bf16")
    assert [run for run in seen if run[1] > 2] == [(n, c) for c in (40, 30) for n in order]


@pytest.mark.parametrize("columns", [80, 140])
def test_the_comparison_has_the_numbers(model, tokens, monkeypatch, columns, tmp_path):
    monkeypatch.setenv("COLUMNS", str(columns))
    (tmp_path / "narrow.toml").write_text(NARROW)
    given = ["hopper-fp8", "scores-ps4+softmax:tv:0.01", tmp_path / "narrow.toml"]
    printed = command("compare", *given, "--tokens", 32)
    lines = printed.splitlines()
    assert max(map(len, lines)) <= columns
    assert "A  hopper-fp8" in lines
    assert "B  scores-ps4+softmax:total_variation:0.01" in lines
    assert "C  narrow :tv: scores" in lines
    rows = {line[0]: line.split() for line in lines[-12:] if re.match("[ABC]  ", line)}
    exact = model.with_hardware("fp64")
    hopper = model.with_hardware("hopper-fp8")
    low = model.with_hardware("scores-ps4", LAMP.parse("softmax:tv:0.01"))
    metrics = [lamp.evaluate(exact, each, tokens[:32]) for each in (hopper, low)]
    first = lamp.evaluate(hopper, low, tokens[:32])
    for letter, each in zip("AB", metrics, strict=True):
        shown = f"{each.kl:.2e}", f"{each.kl_error:.1e}", f"{each.flip_rate:.2%}"
        assert tuple(rows[letter][1:5]) == (*shown, f"{each.perplexity:.3f}")
    assert rows["A"][5:7] == ["-", "-"]
    rates = metrics[1].recomputation_rate, metrics[1].high_precision_share
    assert rows["B"][5:7] == [f"{rate:.2%}" for rate in rates]
    assert rows["B"][8:] == [f"{first.kl:.2e}"]
    assert "±: standard errors, from 16 blocks of the one window." in lines
    (paired,) = [line for line in lines if line.startswith("KL of B less KL of A")]
    assert f": {metrics[1].kl - metrics[0].kl:.2e}, 95% interval" in paired
    assert f"fp64, whose perplexity is {metrics[0].reference_perplexity:.3f}" in printed
    assert "Note on C: numbers overflowed" in printed
    assert "hopper.wgmma.e4m3" in printed


def test_machines_that_compute_alike_are_said_to():
    alike = command("compare", "fp32", "scores-ps23+softmax:tv:1", "--tokens", 16)
    assert "All steps compute alike." in alike
    assert "What differs" not in alike
    other = command("compare", "fp32", "scores-ps22", "--tokens", 16)
    assert "What differs" in other
    assert "alike" not in other


def test_a_comparison_fits_80_columns_whatever_is_in_it():
    steps = {"scores": (1.0,)}
    worst = Metrics(99999, 1e-99, 1.0, 9e99, 9e99, 1.0, (1.0,), steps, 1.0, kl_error=1e-99)
    settings = [evaluation.Setting("hopper-fp8-promoted", [LAMP.parse("softmax:tv:1%")])] * 26
    all_runs = [
        evaluation.Comparison(each, worst, worst, None, 99999.0, 9, 0, 0) for each in settings
    ]
    lines = printed_lines(report.comparison_table(all_runs), 80)
    assert len(lines) == 2 + 1 + 26
    assert max(len(line.rstrip()) for line in lines) <= 80
    for line in lines[3:]:
        cells = "1.00e-99 1.0e-99 100.00% 9.000e+99 100.00% 100.00% 99999 1.00e-99"
        assert " ".join(line.split()[1:]) == cells


MACHINES = [lamp.hardware(name.format(mu=4)) for name in names()]


def test_differences_are_at_the_steps_that_differ():
    for machines in itertools.chain(
        itertools.combinations(MACHINES, 2), [MACHINES[2:6], MACHINES[::5]]
    ):
        found = differences(machines)
        differing = {
            step
            for step in ("weights", *STEPS)
            if any(getattr(each, step) != getattr(machines[0], step) for each in machines)
        }
        assert {step for each in found for step in each.steps} == differing
        for each in found:
            assert len(each.values) == len(machines)
            assert len(set(each.values)) > 1
            assert len(set(each.steps)) == len(each.steps)
        without = {step for each in differences(machines, recomputed=False) for step in each.steps}
        assert without == differing - {"recomputed"}


def test_nothing_that_differs_is_without_words():
    plain_machine = lamp.hardware("fp32")
    sums = fpemu.Sequential("bfloat16", fpemu.Rounding("sr", seed=3))
    for step, change in {
        "scores": {"accumulator": replace(sums, rounding=fpemu.Rounding("sr", seed=4))},
        "mlp_up": {"block": 64},
        "mlp_down": {"operands": "nvfp4", "scale": 0.5},
        "softmax": {"steps": "bfloat16"},
        "norm": {"rounding": fpemu.Rounding("sr", random_bits=8, seed=1)},
        "residual": {"rounding": fpemu.Rounding("rne", "saturate")},
    }.items():
        first = replace(plain_machine, scores=replace(plain_machine.scores, accumulator=sums))
        second = replace(first, **{step: replace(getattr(first, step), **change)})
        found = differences([first, second])
        assert {name for each in found for name in each.steps} == {step}
    assert found[0].values == ("rne", "rne, saturated")
    assert [each.what for each in differences([first, second])] == ["rounding"]


@pytest.mark.parametrize("width", [24, 40, 60, 200])
def test_no_terminal_is_too_narrow_for_numbers_to_be_read(width):
    rows = [
        ["1", "attention_output", "1.86e-03", "1.2e-04, 3.4e-03", "22.99%"],
        ["2", "mlp_up", "4.76e-04", "", "5.89%"],
    ]
    table = report.headed_table(["", "step", "KL\nfrom A", "95% interval", "share"], rows, left=2)
    lines = printed_lines(table, width)
    assert max(len(line.rstrip()) for line in lines) <= width
    words = " ".join(lines).split()
    for number in ("1.86e-03", "1.2e-04,", "3.4e-03", "22.99%", "4.76e-04", "5.89%"):
        assert number in words
    assert ("KL from A" in " ".join(words)) == (width <= 40)


@pytest.fixture(scope="module")
def all_differences():
    """What pairs of machines differ in, without pairs all of whose rows are other pairs' too."""
    named = [each for each in MACHINES if "published" not in each.name]  # whose sums are long
    kept, seen = [], set()
    for found in map(differences, itertools.combinations(named, 2)):
        rows = {(label, each.values) for each in found for label in each.labels()}
        if not rows <= seen:
            kept.append(found)
            seen |= rows
    return kept


@pytest.mark.parametrize("width", [80, 140])
def test_tables_of_differences_are_not_wrapped(all_differences, width):
    for found in all_differences:
        lines = printed_lines(report.differences_table(found, width), width)
        assert max(len(line.rstrip()) for line in lines) <= width
        side_by_side = lines[0].split()[:3] == ["step", "A", "B"]
        rows = sum(len(each.labels()) for each in found)
        assert len(lines) == 2 + rows * (1 if side_by_side else 2)
        for each in found:
            for value in each.values:
                assert any(value in line for line in lines)


def test_machines_of_one_value_share_a_line():
    found = differences([lamp.hardware(n) for n in ("fp32", "blackwell-mxfp8", "fp32", "nvfp4")])
    lines = [line.split() for line in printed_lines(report.differences_table(found, 80), 80)]
    assert ["weights", "stored", "in", "A", "C", "float32"] in lines
    assert ["B", "D", "bfloat16"] in lines


# --- generate -------------------------------------------------------------------------------------


def test_generate_prints_the_text_that_generate_gives(model):
    options = ["generate", "--prompt", BEGINNING, "--tokens", 6]
    text = model.decode(model.generate(model.encode(BEGINNING), 6))
    assert command(*options) == text.removesuffix("\n") + "\n"
    assert command(*options, "--temperature", 0) == text.removesuffix("\n") + "\n"


def test_generate_draws_by_the_seed(model):
    sampling = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 5}
    options = ["generate", "--prompt", BEGINNING, "--tokens", 5, "--hardware", "scores-ps4",
               "--lamp", "softmax:tv:0.01", "--temperature", 0.9, "--top-k", 40, "--top-p",
               0.95]  # fmt: skip
    found, again, other = (record(*options, "--seed", seed) for seed in (5, 5, 6))
    machine = model.with_hardware("scores-ps4", LAMP.parse("softmax:tv:0.01"))
    beginning = model.encode(BEGINNING)
    expected = machine.generate(beginning, 5, **sampling)
    assert found["prompt_tokens"] + found["tokens"] == expected.tolist()
    assert found["text"] == model.decode(expected)[len(BEGINNING) :]
    assert found["sampling"] == sampling
    assert found["hardware"] == "scores-ps4"
    assert found["lamp"] == ["softmax:total_variation:0.01"]
    assert found["prompt"] == BEGINNING
    assert found["ended"] == "count"
    assert found["tokens"] == again["tokens"] != other["tokens"]


def test_the_prompt_comes_from_standard_input_as_it_is():
    options = ["generate", "--tokens", "3", "--prompt"]
    given = CliRunner().invoke(app, [*options, "-"], input="ROMEO.\n\n")
    assert given.stdout == command(*options, "ROMEO.\n\n")
    assert given.stdout.startswith("ROMEO.\n\n")


class Ending:
    """A tokenizer with another token for the end of a text, and a chat template."""

    chat_template = "given"

    def __init__(self, tokenizer, end):
        self._tokenizer, self.eos_token_id = tokenizer, end

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, *arguments, **options):
        return self._tokenizer(*arguments, **options)

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        said = [f"{message['role']}: {message['content']}\n" for message in messages]
        return "".join(said) + "ROMEO.\n"


@pytest.fixture
def ending(monkeypatch):
    """Gives the embedded model another end of a text."""

    def use(end):
        model = lamp.GPT2.from_pretrained("embedded")
        model.tokenizer = Ending(model.tokenizer, end)
        monkeypatch.setattr(models, "from_pretrained", lambda *_, **__: model)

    return use


class Chatting:
    """The tokenizer of a chat model whose texts begin with a token."""

    chat_template, eos_token_id = "a template", None

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def encode(self, text, add_special_tokens):
        tokens = self._tokenizer.encode(text, add_special_tokens=False)
        return [5, *tokens] if add_special_tokens else tokens

    def decode(self, tokens):
        return self._tokenizer.decode(tokens)

    def apply_chat_template(self, messages, **options):
        return f"ROMEO: {messages[0]['content']}"


def test_prompts_begin_as_their_tokenizer_says_and_chats_as_their_template(monkeypatch):
    model = lamp.GPT2.from_pretrained("embedded")
    plain = model.encode(BEGINNING).tolist()
    chat = model.encode(f"ROMEO: {BEGINNING}").tolist()
    model.tokenizer = Chatting(model.tokenizer)
    monkeypatch.setattr(models, "from_pretrained", lambda *_, **__: model)
    options = ["generate", "--prompt", BEGINNING, "--tokens", 1]
    assert record(*options)["prompt_tokens"] == [5, *plain]
    assert record(*options, "--no-special-tokens")["prompt_tokens"] == plain
    assert record(*options, "--chat")["prompt_tokens"] == chat


def test_generation_ends_with_the_text(model, ending):
    beginning = model.encode(BEGINNING).tolist()
    whole = model.generate(beginning, 12).tolist()
    added = whole[len(beginning) :]
    place = next(n for n in range(4, 12) if added[n] not in added[:n])
    ending(added[place])
    options = ["generate", "--prompt", BEGINNING, "--tokens", 12]
    found = record(*options)
    assert found["ended"] == "end of text"
    assert found["tokens"] == added[: place + 1]
    assert BEGINNING + found["text"] == model.decode(beginning + added[:place])
    assert command(*options) == BEGINNING + found["text"].removesuffix("\n") + "\n"
    # A token that the model does not have ends nothing.
    ending(model.shape.vocabulary)
    assert record(*options)["tokens"] == added


def test_a_chat_prints_the_answer_alone(model, ending):
    ending(0)
    options = ["generate", "--prompt", "Who art thou?", "--tokens", 6, "--chat"]
    beginning = model.encode("user: Who art thou?\nROMEO.\n")
    found = record(*options)
    assert found["prompt_tokens"] == beginning.tolist()
    assert found["prompt"] == "Who art thou?"
    assert found["tokens"] == model.generate(beginning, 6)[len(beginning) :].tolist()
    assert command(*options) == found["text"].removesuffix("\n") + "\n"


def test_a_conversation_comes_from_a_file(model, ending, tmp_path):
    ending(0)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    beginning = model.encode("system: Be brief.\nuser: Who?\nROMEO.\n").tolist()
    options = ["generate", "--tokens", 2, "--messages", tmp_path / "a.json"]
    for content in (messages, {"messages": messages}):
        (tmp_path / "a.json").write_text(json.dumps(content))
        found = record(*options)
        assert found["prompt_tokens"] == beginning
        assert (found["prompt"], found["chat"]) == (messages, True)
    assert command(*options) == found["text"].removesuffix("\n") + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "a.json is not JSON: "),
        ("[" * 10**5, "a.json is not JSON: "),
        ("7", "a.json is no list of messages, nor an object with one as 'messages'"),
        ('{"messages": []}', "a.json is no list of messages"),
        ('[{"role": "user"}]', "a.json: message 0 has no 'role' and 'content'"),
        ('[{"role": "user", "content": "x"}, "y"]', "message 1 has no 'role' and 'content'"),
    ],
)
def test_what_is_no_conversation_is_said(capsys, tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    code, out, err = called(capsys, "generate", "--messages", tmp_path / "a.json")
    assert (code, out) == (1, "")
    assert message in err


def test_generation_ends_where_a_text_comes(model):
    options = ["generate", "--prompt", BEGINNING, "--tokens", 12]
    whole = record(*options)
    word = whole["text"][5:9]
    place = whole["text"].index(word)
    found = record(*options, "--stop", "nowhere", "--stop", word)
    assert (found["text"], found["ended"]) == (whole["text"][:place], "stop")
    assert found["stop"] == ["nowhere", word]
    count = len(found["tokens"])
    assert found["tokens"] == whole["tokens"][:count]
    assert word in model.decode(found["tokens"])
    assert word not in model.decode(found["tokens"][:-1])
    shown = command(*options, "--stop", word)
    assert shown == (BEGINNING + found["text"]).removesuffix("\n") + "\n"
    assert "an empty text" in CliRunner().invoke(app, [*map(str, options), "--stop", ""]).output


def test_a_chat_template_that_fails_is_named(ending, monkeypatch, capsys):
    ending(0)

    def broken(*_, **__):
        raise KeyError("role")

    monkeypatch.setattr(Ending, "apply_chat_template", broken)
    code, out, err = called(capsys, "generate", "--prompt", "x", "--chat")
    assert (code, out) == (1, "")
    assert err == "lamp: the model's chat template fails: KeyError('role')\n"


# --- when something is wrong ----------------------------------------------------------------------


def test_an_order_of_channels_is_found(tmp_path, model, tokens):
    path = tmp_path / "ordered.toml"
    given = tmp_path / "given.toml"
    given.write_text('name = "mine"\n[scores]\naccumulator = "e8m4"\norder = "descending"\n')
    options = ["--tokens", 50, "--length", 20]
    windows = [tokens[:20], tokens[20:40], tokens[40:50]]
    for name, order in (("scores-ps4", "ascending"), (given, None)):
        base = lamp.hardware(name)
        chosen = ["--order", order] if order else []
        printed = command("hardware", "calibrate", name, path, *chosen, *options)
        wanted = replace(base, scores=replace(base.scores, order=order or "descending"))
        expected = lamp.calibrated(wanted, model, windows)
        found = lamp.hardware(path)
        assert found.name == (f"scores-ps4-{order}" if order else "mine")
        assert replace(found, name=expected.name) == expected
        assert "50 tokens, 3 windows of 20" in printed
        assert str(found.scores.order) in " ".join(printed.split())


def called(capsys, *arguments):
    """The exit code and what is on the two streams."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


GENERATE = ["generate", "--prompt", "x"]
TOO_LONG = "File name too long:" if sys.version_info < (3, 14) else ""
WRONG = [
    # bad usage
    (["fly"], 2, "No such command 'fly'"),
    (["run", "--fly"], 2, "--fly"),
    (["run", "--tokens", "0"], 2, "--tokens: '0' is no number of tokens"),
    (["run", "--tokens", "x"], 2, "--tokens: 'x' is no number of tokens"),
    (["run", "--hardware", "hoper"], 2, "unknown hardware 'hoper': did you mean hopper"),
    (["run", "--reference", "fp65"], 2, "--reference: unknown hardware 'fp65'"),
    (["run", "--lamp", "softmax:tw:0.01"], 2, "'softmax:tw:0.01': unknown rule 'tw': expected"),
    (["run", "--lamp", "scores:tv:1"], 2, "begins with 'scores': expected one of softmax"),
    (["run", "--lamp", "softmax:tv:1", "--lamp", "softmax:tv:2"], 2, "two rules for softmax"),
    (["run", "--length", "513"], 2, "length must lie in 1..512, the model's positions, not 513"),
    (["run", "--length", "5", "--stride", "6"], 2, "stride must lie in 1..5"),
    (["run", "--text", "a", "--token-ids", "b"], 2, "a text or token ids, not both"),
    (["run", "--seed", "3"], 2, "3 is the seed of --shuffle, which is not given"),
    (["rank", "--hardware", "bf16", "--steps", "nrm"], 2, "--steps: unknown step 'nrm': expected"),
    (["compare", "fp32"], 2, "expected 2 to 26 machines, not 1: fp32"),
    (["compare", *["fp32"] * 27], 2, "expected 2 to 26 machines, not 27: fp32 fp32"),
    (["compare", "fp32", "ps4+sofmax:tv:1"], 2, "'sofmax:tv:1' begins with 'sofmax'"),
    (["compare", "fp32", "WRONG.toml+sofmax:tv:1"], 1, "line 1"),
    (["compare", "fp32", "FINE.toml+sofmax:tv:1"], 2, "'sofmax:tv:1' begins with 'sofmax'"),
    (["compare", "fp32", "ps24"], 2, "unknown hardware 'ps24'"),
    (["hardware", "show", "nosuch"], 2, "NAME: unknown hardware 'nosuch'"),
    (["hardware", "show", "bf16@0"], 2, "'0' is not WHERE=NAME"),
    (["run", "--hardware", "bf16@6=fp32"], 1, "layer 6 computes, but GPT2 has 6 layers, 0 to 5"),
    (["hardware", "show", "WRONG.toml"], 1, "wrong.toml, line 1: unknown hardware 'fp31'"),
    (["hardware", "calibrate", "ps4", "x.toml", "--order", "up"], 2, "--order: unknown order 'up'"),
    (["hardware", "calibrate", "ps4", "x.toml"], 1, "ask for no order of channels"),
    (["run", "--hardware", "ORDER.toml"], 1, "is yet to be found, 'ascending' on a text"),
    (["generate"], 2, "Invalid value for --prompt, --messages: give one of them"),
    (["generate", "--prompt", ""], 2, "'' has no tokens to begin with"),
    ([*GENERATE, "--temperature", "-1"], 2, "expected a number that is at least 0, not '-1'"),
    ([*GENERATE, "--top-p", "1.5"], 2, "a number that is above 0 and at most 1, not '1.5'"),
    ([*GENERATE, "--top-k", "3"], 2, "3 has no effect at temperature 0"),
    ([*GENERATE, "--top-p", "0.5"], 2, "0.5 has no effect at temperature 0"),
    ([*GENERATE, "--tokens", "512"], 2, "512 more are beyond the model's 512 positions"),
    ([*GENERATE, "--chat"], 2, "the model's tokenizer has no chat template"),
    # failures
    (["run", "--model", "no such model"], 1, "no model 'no such model'"),
    (["run", "--model", "BROKEN"], 1, "config.json is not a model configuration"),
    (["run", "--model", "MUTE"], 1, "or tokenizer.model): give token ids"),
    (["generate", "--prompt", "x", "--model", "MUTE"], 1, "holds no tokenizer"),
    (["run", "--text", "missing.txt"], 1, "no text file 'missing.txt'"),
    (["run", "--text", "EMPTY"], 1, "holds no text"),
    (["run", "--text", "LATIN"], 1, "is not UTF-8 text"),
    (["run", "--hardware", "missing.toml"], 1, "no hardware file 'missing.toml'"),
    (["run", "--hardware", "WRONG.toml"], 1, "wrong.toml, line 1: unknown hardware 'fp31'"),
    (["compare", "fp32", "WRONG.toml+softmax:tv:1"], 1, "line 1: unknown hardware 'fp31'"),
    # Python 3.14 takes a name that is too long for that of no file.
    (["status", "s" * 300], 1, f"lamp: {TOO_LONG or 'no store'} 'ssssss"),
    (["run", "--text", "t" * 300], 1, f"lamp: {TOO_LONG or 'no text file'} 'tttttt"),
    (["run", "--token-ids", "missing"], 1, "no file of token ids 'missing'"),
    (["run", "--token-ids", "WORDS"], 1, "words.txt holds 'x3' at position 2: expected token"),
    (["run", "--token-ids", "LARGE"], 1, "token 2048 at position 1 of"),
    (["run", "--token-ids", "NEGATIVE"], 1, "token -1 at position 0 of"),
    (["run", "--token-ids", "HUGE"], 1, "holds '99999999999999999999' at position 1"),
    (["run", "--token-ids", "NONE"], 1, "must be a sequence of tokens, not of shape (0,)"),
    (["run", "--token-ids", "FLOATS"], 1, "an array of float64 of shape (3,): expected"),
    (["run", "--token-ids", "PLANE"], 1, "an array of int64 of shape (2, 2): expected"),
    (["run", "--token-ids", "TORN"], 1, "torn.npy is not a .npy file of integers"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for name, content in {
        "empty.txt": b"",
        "latin.txt": b"caf\xe9",
        "wrong.toml": b'preset = "fp31"\n',
        "fine.toml": b"",
        "order.toml": b"[scores]\norder = 'ascending'\n",
        "words.txt": b"1 2 x3",
        "large.txt": b"5 2048",
        "negative.txt": b"-1 5",
        "huge.txt": b"3 99999999999999999999",
        "none.txt": b" \n",
        "torn.npy": b"\x93NUMPY",
    }.items():
        (folder / name).write_bytes(content)
    np.save(folder / "floats.npy", np.ones(3))
    np.save(folder / "plane.npy", np.ones((2, 2), np.int64))
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    (folder / "mute").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / "mute" / name).symlink_to(checkpoints.EMBEDDED / name)
    found = {path.stem.upper(): str(path) for path in folder.iterdir()}
    return {
        **found,
        "WRONG.toml": found["WRONG"],
        "FINE.toml": found["FINE"],
        "ORDER.toml": found["ORDER"],
    }


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG, ids=lambda value: str(value))
def test_what_is_wrong_is_said(bad_files, capsys, arguments, code, message):
    head, *rest = arguments
    words = []
    for word in rest:
        name, plus, rule = word.partition("+")
        words.append(bad_files.get(name, name) + plus + rule)
    found, out, err = called(capsys, head, *words)
    assert found == code
    assert out == ""
    assert message in " ".join(re.sub("[│╭╰─╮╯]", " ", err).split())
    assert "Traceback" not in err
    assert code == 2 or (err.startswith("lamp: ") and err.count("\n") == 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [(b"", "standard input is empty: expected a text"), (b"caf\xe9", "is not UTF-8 text")],
)
def test_standard_input_is_checked(given, message):
    for arguments in (["run", "--text", "-"], ["generate", "--prompt", "-"]):
        result = CliRunner().invoke(app, arguments, input=given)
        assert isinstance(result.exception, ValueError)
        assert message in str(result.exception)


def test_a_mistake_of_ours_is_told_without_a_traceback_but_with_debug(monkeypatch, capsys):
    def mistaken(*_, **__):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(evaluation.comparisons, "side_by_side", mistaken)
    code, out, err = called(capsys, "run")
    assert (code, out) == (1, "")
    assert (
        err == "lamp: ZeroDivisionError: division by zero (lamp --debug COMMAND ... shows where)\n"
    )
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "run"])
    # After the command it is not this option.
    code, _, err = called(capsys, "run", "--text", "--debug")
    assert code == 1
    assert "no text file '--debug'" in err


def test_an_interruption_is_one_line(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation.comparisons, "side_by_side", interrupted)
    assert called(capsys, "run") == (130, "", "lamp: interrupted\n")


# --- streams --------------------------------------------------------------------------------------


def test_debug_shows_the_traceback():
    found = process("--debug", "hardware", "show", "missing.toml")
    assert found.returncode == 1
    assert found.stdout == ""
    assert "Traceback" in found.stderr
    assert "FileNotFoundError: no hardware file 'missing.toml'" in found.stderr


def test_json_stands_alone_and_progress_is_on_the_terminal():
    primary, secondary = pty.openpty()
    arguments = [sys.executable, "-m", "lamp", "run", "--tokens", "16", "--length", "8", "--json"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=secondary) as running:
        os.close(secondary)
        seen = _read_all(primary)
        out = running.stdout.read()
    os.close(primary)
    assert running.returncode == 0
    assert json.loads(out)["metrics"]["tokens"] == 16
    assert "━" in seen
    assert "fp32" in seen
    assert record("run", "--tokens", "8")["metrics"]["tokens"] == 8  # with no terminal, quietly


def _read_all(descriptor):
    parts = []
    while True:
        try:
            part = os.read(descriptor, 4096)
        except OSError:  # Linux: all have closed the other end
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode(errors="replace")


# Forks of a process that has loaded all that they need; each ends as a process of its own does.
ONE_AFTER_THE_OTHER = """
import contextlib, io, json, os, sys
from lamp.cli import application, main

with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    application.main(["run", "--tokens", "2"])
for arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        sys.argv[1:] = arguments
        break
    _, status = os.waitpid(child, 0)
    print(arguments, os.waitstatus_to_exitcode(status), file=sys.stderr, flush=True)
else:
    os._exit(0)
main()
"""


def test_a_pipe_that_is_closed_is_no_trouble():
    commands = (
        ["run", "--tokens", "8"],
        ["run", "--tokens", "8", "--json"],
        [*GENERATE, "--tokens", "3"],
    )
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        os.close(writer)
        err = running.stderr.read()
    assert err == "".join(f"{arguments} 1\n" for arguments in commands)


# A process in the background may have been started with the signal ignored.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from lamp.cli.application import main
main()
"""


def test_generation_comes_token_by_token_and_can_be_interrupted(model):
    arguments = [
        "generate",
        "--prompt",
        BEGINNING,
        "--tokens",
        "450",
        "--lamp",
        "softmax:random:1%",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        # Long before the last token there is text; then it is enough.
        first = running.stdout.read(len(BEGINNING) + 1)
        running.send_signal(signal.SIGINT)
        rest, err = running.communicate()
    assert running.returncode == 130
    assert err == "lamp: interrupted\n"
    assert first.startswith(BEGINNING)
    assert rest.endswith("\n")
    assert len(model.encode(first + rest)) < 440


def test_ctrl_c_is_one_line_at_any_moment():
    assert_interrupted_at_any_moment("lamp", "run", "--tokens", "8")


# --- help -----------------------------------------------------------------------------------------


COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "hardware"])
def test_help_has_a_sentence_for_every_option(name):
    parameters = COMMANDS[name].params
    printed = command(name, "--help")
    for each in parameters:
        assert each.help
        assert each.help[0].isupper()
        assert each.help.endswith(".")
        if each.opts[0].startswith("--"):
            assert re.search(rf"{each.opts[0]} ", printed)
    words = " ".join(re.sub("[│╭╰─╮╯]", " ", printed).split())
    for each in parameters:
        assert re.findall(r"\w+", each.help)[0] in words
    assert max(map(len, printed.splitlines())) <= 80
    assert "📺" not in printed  # rich's emoji code :tv:


def test_help_lists_the_commands():
    printed = command("--help")
    named = ("run", "generate", "compare", "eval", "sweep", "status", "report", "demo", "hardware")
    for name in named:
        assert re.search(rf"^│ {name} ", printed, re.MULTILINE)


def test_version():
    assert command("--version") == f"lamp {lamp.__version__}\n"


def test_input_files_of_integers_keep_them(tmp_path):
    np.save(tmp_path / "a.npy", np.array([3, 2047], np.uint16))
    assert inputs.read_token_ids(tmp_path / "a.npy").tolist() == [3, 2047]


@pytest.mark.parametrize(
    "arguments", [("hardware", "show", "nosuch"), ("run", "--hardware", "nosuch")]
)
def test_an_unknown_machine_is_bad_usage_everywhere(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "unknown hardware 'nosuch'" in " ".join(capsys.readouterr().err.split())


def test_machines_that_differ_have_different_names_in_a_comparison(tmp_path, capsys):
    for file, bits in (("a", 4), ("b", 5)):
        text = f'name = "mine"\n[scores]\naccumulator = "e8m{bits}"'
        (tmp_path / f"{file}.toml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(tmp_path / "a.toml"), str(tmp_path / "b.toml")])
    assert stop.value.code == 2
    said = " ".join(re.sub("[│]", " ", capsys.readouterr().err).split())
    assert "another machine is called 'mine': rename one" in said


def test_names_from_files_are_cleaned(tmp_path, capsys):
    path = tmp_path / "a\x1b[31m\u202e.toml"
    path.write_text('name = "red\\u001b[31m\\u202e"')
    for arguments in (("hardware", "show", path), ("hardware", "show", tmp_path / "\x1b[2J.toml")):
        with pytest.raises(SystemExit):
            main(list(map(str, arguments)))
        output, errors = capsys.readouterr()
        assert not set("\x1b\u202e") & set(output + errors)
        assert "\ufffd" in output or r"\x1b[2J" in errors
