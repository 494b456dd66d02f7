"""The notebooks: what they keep is what their code gives, and what they say is what they show."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("IPython", reason="the extra docs is not installed")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "analysis"))
notebooks = import_module("notebooks")

PATHS = notebooks.notebooks()
MOST_BYTES = 400_000

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+%?|%)(?![\w.]*\d)")
_NOT_PROSE = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|arXiv\s\S+|\]\([^)]*\)", re.DOTALL)
_OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(?:home|tmp|usr|root|opt|var|Users|private)/\w")


def unpainted(figure):
    return {"image/svg+xml": ""}


def comparable(outputs):
    """What must be the same in all environments; of a picture, the digest of its numbers."""
    return [
        (
            output.output_type,
            output.get("text"),
            {kind: data for kind, data in output.get("data", {}).items() if kind[:5] != "image"},
            output.get("metadata", {}).get("numbers"),
        )
        for output in outputs
    ]


def texts(outputs):
    for output in outputs:
        yield output.get("text", "")
        yield output.get("data", {}).get("text/plain", "")


def ids(paths):
    return [path.stem for path in paths]


@pytest.mark.docs
@pytest.mark.parametrize("path", PATHS, ids=ids(PATHS))
def test_a_notebook_keeps_the_outputs_of_its_code(path):
    kept = [cell.outputs for cell in notebooks.code(notebooks.read(path))]
    assert any(kept)
    found = notebooks.run(path, unpainted)
    for number, (old, new) in enumerate(zip(kept, found, strict=True), 1):
        assert comparable(old) == comparable(new), f"cell {number}: make notebooks"


@pytest.mark.parametrize("path", PATHS, ids=ids(PATHS))
def test_every_number_in_the_prose_is_in_the_code_or_its_outputs(path):
    notebook = notebooks.read(path)
    cells = notebooks.code(notebook)
    shown = " ".join(
        [*(cell.source for cell in cells), *(t for c in cells for t in texts(c.outputs))]
    )
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            said = _NUMBER.findall(_NOT_PROSE.sub(" ", cell.source))
            assert [number for number in said if number not in shown] == []


@pytest.mark.parametrize("path", PATHS, ids=ids(PATHS))
def test_a_notebook_is_small_and_holds_nothing_of_the_machine_that_ran_it(path):
    text = path.read_text()
    assert len(text) < MOST_BYTES
    assert _OF_A_MACHINE.findall(text) == []
    pictures = [
        cell
        for cell in notebooks.code(notebooks.read(path))
        if any("image/svg+xml" in output.get("data", {}) for output in cell.outputs)
    ]
    assert pictures
    for cell in pictures:
        assert cell.metadata["mystnb"]["image"]["alt"]  # for who cannot see it


def test_a_picture_of_other_numbers_has_another_digest():
    def digest(draw):
        figure = notebooks.plt.figure()
        draw(figure.subplots())
        found = notebooks.shown(figure)
        notebooks.plt.close(figure)
        return found

    drawings = [
        lambda axes: axes.plot([1, 2], [1, 2]),
        lambda axes: axes.plot([1, 2], [1, 2.001]),
        lambda axes: axes.bar([1, 2], [1, 2]),
        lambda axes: axes.bar([1, 2], [1, 2.001]),
        lambda axes: axes.errorbar([1, 2], [1, 2], [0.1, 0.2]),
        lambda axes: axes.errorbar([1, 2], [1, 2], [0.1, 0.21]),
        lambda axes: axes.scatter([1, 2], [1, 2]),
        lambda axes: axes.scatter([1, 2], [1, 2.001]),
        lambda axes: axes.imshow([[1, 2]]),
        lambda axes: axes.imshow([[1, 2.001]]),
    ]
    assert len({digest(draw) for draw in drawings}) == len(drawings)
    assert digest(drawings[0]) == digest(drawings[0])
