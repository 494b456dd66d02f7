"""The numerics version: as long as it stands, no result changes by a bit."""

import json

from lamp.evaluation.numerics import NUMERICS
from tests.lamp import golden_results


def test_results_change_with_the_numerics_version_alone():
    changed = golden_results.differences()
    assert not changed, (
        "results have changed: raise the numerics version (lamp/evaluation/numerics.py) and store "
        f"these digests (python -m tests.lamp.golden_results): {json.dumps(changed, indent=1)}"
    )


def test_the_stored_digests_are_of_this_version():
    stored = json.loads(golden_results.FILE.read_text(encoding="utf-8"))
    assert stored["version"] == NUMERICS


def test_a_digest_tells_every_bit_and_no_kind_of_nan():
    digest, np = golden_results.digest, golden_results.np
    one = np.array([1.0, 0.0, np.nan])
    assert digest(one) == digest(np.array([1.0, 0.0, -np.nan]))
    assert digest(one) != digest(np.array([1.0, -0.0, np.nan]))
    assert digest(one) != digest(one.astype(np.float32))
    assert digest(one) != digest(one[np.newaxis])
