"""The README's reference names everything that is public."""

import re
from pathlib import Path

import pytest

import fpemu
import lamp
from fpemu import devices, functions, jit, reference, scaling

README = (Path(__file__).parents[1] / "README.md").read_text()
REFERENCE = README[README.index("## Reference") : README.index("## How exact")]
NAMED = {
    name for span in re.findall(r"`([^`]+)`", REFERENCE) for name in re.split(r"[ ,()]+", span)
}


@pytest.mark.parametrize(
    "module",
    [fpemu, functions, jit, reference, devices, scaling, lamp],
    ids=lambda module: module.__name__,
)
def test_every_public_name_is_in_the_reference(module):
    missing = set(module.__all__) - NAMED
    assert not missing


def test_everything_public_is_documented():
    for module in (fpemu, functions, jit, reference, devices, scaling, lamp):
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                assert thing.__doc__, f"{module.__name__}.{name}"
