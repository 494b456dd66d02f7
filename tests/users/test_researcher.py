"""The researcher, who repeats a figure of the paper: three seeds, error bars, a table in LaTeX.

Only what docs/tutorial.md and docs/lamp.md show is used.  The judge evaluates each run by itself
and takes means and standard errors by their definitions.
"""

import re
from itertools import permutations
from pathlib import Path

import numpy as np

import lamp

STUDY = """
name = "figure"
hardware = ["scores-ps{mu}"]
lamp = ["none", "softmax:normwise:{tau}", "softmax:random:{tau}:seed={seed}"]

[grid]
mu = [2]
tau = [1.5, 1.2]
seed = [0, 1, 2]

[[texts]]
source = "text.txt"
"""
# A vertical line of the figure that is no line of the grid: place, foot and top.
BAR = re.compile(r'd="M ([\d.]+) ([\d.]+) \nL \1 ([\d.]+) \n" style="[^"]*stroke-opacity')
STUDENT = 4.3027  # the 97.5% quantile with two degrees of freedom
TEXT = "If it were done when 'tis done, then 'twere well it were done quickly: if the assassination"


def test_a_figure_with_three_seeds_and_its_table(shell):
    Path("figure.toml").write_text(STUDY)
    Path("text.txt").write_text(TEXT)
    assert "9 runs, 9 of them new, 0 failed" in shell("lamp sweep figure.toml")
    shell("lamp report figure.sqlite --tables figure.tex --pdf figures --svg figures")

    model = lamp.from_pretrained("embedded", hardware="scores-ps2")
    exact, tokens = model.with_hardware("fp64"), model.encode(TEXT)
    table = Path("figure.tex").read_text().partition(r"\caption{Seeds")[2]
    table = table.partition(r"\end{table}")[0]
    heights = []  # of the bars of the means over seeds, on a logarithmic axis
    for tau in (1.5, 1.2):
        rules = (lamp.LAMP("random", tau=tau, seed=seed) for seed in range(3))
        machines = (model.with_hardware("scores-ps2", rule) for rule in rules)
        found = [lamp.evaluate(exact, machine, tokens).kl for machine in machines]
        mean, error = np.mean(found), np.std(found, ddof=1) / np.sqrt(3)
        (row,) = (line for line in table.splitlines() if f"random:{tau} " in line)
        _, seeds, kl, interval, *_ = (cell.strip() for cell in row.split("&"))
        assert seeds == "3"
        np.testing.assert_allclose(float(kl), mean, rtol=0.01)
        low, high = map(float, interval.split(" to "))
        np.testing.assert_allclose((high - low) / 2, STUDENT * error, rtol=0.02)
        heights.append(np.log((mean + error) / (mean - error)))
    (figure,) = Path("figures").glob("*kl-rate-*.svg")
    bars = [abs(float(top) - float(foot)) for _, foot, top in BAR.findall(figure.read_text())]
    assert len(bars) == 4  # of two taus by version 1's rule and at random
    ratios = [first / second for first, second in permutations(bars, 2)]
    assert np.isclose(ratios, heights[0] / heights[1], rtol=0.01).any()
    assert figure.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
