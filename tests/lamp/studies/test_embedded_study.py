"""What look-ahead recomputation does to the embedded model, on real held-out text."""

import csv
import io
import itertools

import matplotlib.image
import numpy as np
import pytest

import lamp
from lamp import checkpoints, reports, studies
from lamp.cli.application import main
from lamp.reports import console as report


@pytest.fixture(scope="module")
def model():
    return lamp.GPT2.from_pretrained("embedded")


@pytest.fixture(scope="module")
def windows(model):
    tokens = model.encode(checkpoints.read_text(None))
    return studies.spread_windows(tokens, 320, 1)


@pytest.fixture(scope="module")
def grid(model, windows):
    return list(studies.equal_rate_grid(model, windows, (2, 4, 7), (1.5, 1.2, 1.05)))


def pick(grid, rule, mu, tau=None):
    """The metrics of the run of a rule, by the beginning of its label."""
    wanted = {"mu": mu} if tau is None else {"mu": mu, "tau": tau}
    (found,) = [r for r in grid if r.variables == wanted and r.lamp.startswith(rule)]
    return found.metrics


def test_all_stored_bits_give_the_logits_of_float32(model, windows):
    plain = model.logits(windows[0])
    np.testing.assert_array_equal(plain, model.with_hardware("scores-ps23").logits(windows[0]))
    assert (plain != model.with_hardware("scores-ps22").logits(windows[0])).any()


def test_the_divergence_falls_as_stored_bits_grow(model, windows):
    reference = np.stack([model.with_hardware("fp64").logits(window) for window in windows])
    divergences = [
        lamp.evaluate(reference, model.with_hardware(f"scores-ps{mu}"), windows).kl
        for mu in (1, 2, 4, 7, 10, 14, 18)
    ]
    assert all(b < 0.7 * a for a, b in itertools.pairwise(divergences))
    assert lamp.evaluate(reference, model, windows).kl < divergences[-1]


@pytest.mark.parametrize("mu", [2, 4, 7])
def test_the_authors_rule_beats_the_random_control_at_the_same_rate(grid, mu):
    for tau in (1.5, 1.2, 1.05):
        authors = pick(grid, "softmax:normwise", mu, tau)
        control = pick(grid, "softmax:random", mu, tau)
        # Not equal: from the second layer on the two see different scores.
        assert control.recomputation_rate == pytest.approx(authors.recomputation_rate, rel=0.02)
        assert authors.kl < control.kl


@pytest.mark.parametrize("mu", [2, 4, 7])
def test_one_weighted_threshold_beats_the_authors_rule_at_the_same_rate(grid, mu):
    for tau in (1.5, 1.2, 1.05):
        authors = pick(grid, "softmax:normwise", mu, tau)
        weighted = pick(grid, "softmax:total_variation", mu, tau)
        assert weighted.recomputation_rate <= authors.recomputation_rate
        assert weighted.recomputation_rate > 0.99 * authors.recomputation_rate
        assert weighted.kl < authors.kl


def test_one_threshold_for_all_layers_beats_equal_shares(model):
    """Where equal shares lose: at high rates on short texts, as layers differ in what they need.

    The second layer, whose attention is flat, wants nearly all its scores, the first hardly any.
    """
    tokens = model.encode(checkpoints.read_text(None))
    windows = studies.spread_windows(tokens, 256, 3)
    reference = np.stack([model.with_hardware("fp64").logits(window) for window in windows])

    def run(settings):
        return lamp.evaluate(reference, model.with_hardware("scores-ps4", settings), windows)

    authors = run(lamp.LAMP(tau=1.05))
    share = authors.recomputation_rate
    shares = run(lamp.LAMP("total_variation", budget=share, weights="abs"))
    threshold = run(lamp.LAMP("total_variation", tau=1.7e-3, weights="abs"))
    assert threshold.recomputation_rate < share
    assert threshold.kl < 0.5 * min(authors.kl, shares.kl)
    assert max(threshold.layer_rates) > 3 * min(threshold.layer_rates)


def test_more_recomputation_leaves_less_divergence(grid):
    for rule in ("softmax:normwise", "softmax:total_variation"):
        for mu in (2, 4, 7):
            none = pick(grid, "none", mu)
            runs = [pick(grid, rule, mu, tau) for tau in (1.5, 1.2, 1.05)]
            divergences = [none.kl, *(run.kl for run in runs)]
            rates = [none.recomputation_rate, *(run.recomputation_rate for run in runs)]
            assert rates == sorted(rates)
            assert divergences == sorted(divergences, reverse=True)


def test_rates_are_those_of_the_layers(grid):
    for result in grid:
        metrics = result.metrics
        if result.lamp == "none":
            assert metrics.layer_rates == ()
            continue
        assert len(metrics.layer_rates) == 6
        assert metrics.step_rates == {"scores": metrics.layer_rates}
        # Every layer has as many pairs.
        assert np.mean(metrics.layer_rates) == pytest.approx(metrics.recomputation_rate)


def test_a_table_a_csv_file_and_a_plot_hold_the_grid(grid, tmp_path):
    from rich.console import Console

    console = Console(record=True, width=80, file=io.StringIO())
    console.print(report.results_table(grid, "title"))
    text = console.export_text()
    assert "total_variation, |y|" in text
    assert grid[0].metrics.kl_error > 0
    assert f" {grid[0].metrics.kl_error:.1e} " in text
    assert len(text.splitlines()) == 1 + 3 + len(grid) + 2
    assert "…" not in text
    study = reports.Results("", "demo", {}, tuple(grid), {})
    reports.write_csv([study], tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["kl"]) for row in rows] == [result.metrics.kl for result in grid]
    assert [row["tau"] for row in rows[:5]] == ["", "1.5", "1.5", "1.5", "1.2"]
    assert {row["hardware"] for row in rows if row["mu"] == "4"} == {"scores-ps4"}
    reports.write_demo(study, tmp_path / "plot.png")
    pixels = matplotlib.image.imread(tmp_path / "plot.png")
    assert pixels.shape[1] > 1280
    assert len(np.unique(np.round(255 * pixels[..., :3]) @ (1, 256, 65536))) > 20


def test_the_demo_runs_and_says_where_its_files_are(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question. " * 30, encoding="utf-8")
    out = tmp_path / "out"
    options = ["--output", str(out), "--text", str(text), "--windows", "1", "--length", "40"]
    with pytest.raises(SystemExit) as stop:
        main(["demo", *options])
    printed = capsys.readouterr()
    assert not stop.value.code, printed.err
    assert str(out / "results.csv") in printed.out.replace("\n", "")
    assert len((out / "results.csv").read_text().splitlines()) == 31
    assert (out / "kl_vs_recomputation.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["demo", "--text", "missing.txt"], 1, "missing.txt"),
        (["demo", "--text", "EMPTY"], 1, "empty"),
        (["demo", "--text", "SHORT"], 1, "a window takes 128"),
        (["demo", "--model", "no-such-model"], 1, "no-such-model"),
        (["demo", "--windows", "0"], 2, "windows"),
        (["fly"], 2, "fly"),
    ],
)
def test_bad_input_gives_one_clear_line(tmp_path, capsys, arguments, code, message):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("short")
    names = {"EMPTY": str(tmp_path / "empty.txt"), "SHORT": str(tmp_path / "short.txt")}
    words = [names.get(word, word) for word in arguments]
    if arguments[0] == "demo":
        words += ["--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == code
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
