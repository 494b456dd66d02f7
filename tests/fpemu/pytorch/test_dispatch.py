"""fpemu.torch: torch's operations by a table."""

import pytest
import torch

from fpemu.torch import EXACT_OPERATIONS, TORCH, Dispatch

aten = torch.ops.aten


def plus_one(a, b, *, alpha=1):
    """An addition that shows that it ran."""
    return NotImplemented if not a.is_floating_point() else a + alpha * b + 1


# --- the dispatch ---------------------------------------------------------------------------------


def test_a_handler_serves_all_overloads_in_place_and_out():
    x, out = torch.zeros(3), torch.empty(0)
    with Dispatch({**EXACT_OPERATIONS, aten.add: plus_one}) as mode:
        assert torch.equal(x + 1.0, torch.full((3,), 2.0))
        assert torch.add(x, x, alpha=2, out=out) is out
        y = x
        y += 1.0
    assert y is x
    assert torch.equal(x, torch.full((3,), 2.0))
    assert torch.equal(out, torch.ones(3))
    assert mode.counts["add"] == {"emulated": 2}
    assert mode.counts["add_"] == {"emulated": 1}


def test_an_overload_comes_before_its_packet():
    with Dispatch({**EXACT_OPERATIONS, aten.add.Tensor: plus_one, aten.add: TORCH}) as mode:
        assert (torch.zeros(()) + torch.zeros(())).item() == 1
    assert mode.counts["add"] == {"emulated": 1}


def test_integers_and_views_run_as_they_are():
    with Dispatch({aten.add: plus_one}) as mode:
        torch.arange(4).reshape(2, 2).t() + 1
        torch.ones(1, 3).squeeze_()
    assert not mode.counts.emulated
    assert mode.counts["add"] == mode.counts["t"] == mode.counts["squeeze_"] == {"exact": 1}


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_composites_are_taken_apart(context):
    x, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    with context(), Dispatch({**EXACT_OPERATIONS, aten.mm: TORCH}) as mode:
        torch.nn.functional.linear(x, weight)
    assert mode.counts["mm"] == {"torch": 1}


def test_the_unknown_raises_or_is_counted():
    x = torch.ones(2)
    with (
        Dispatch(EXACT_OPERATIONS),
        pytest.raises(NotImplementedError, match=r"aten\.exp\.default is not emulated"),
    ):
        x.exp()
    with Dispatch(EXACT_OPERATIONS, unknown="pass") as mode:
        assert torch.equal(x.exp(), torch.tensor([torch.e, torch.e]))
    assert mode.counts["exp"] == {"unknown": 1}


def test_integers_that_become_fractions_are_not_harmless():
    with Dispatch(EXACT_OPERATIONS), pytest.raises(NotImplementedError, match="div"):
        torch.arange(3) / 2


def test_results_that_do_not_fit_their_target_are_refused():
    with Dispatch({aten.add: lambda a, b: a.double() + b}):
        with pytest.raises(RuntimeError, match=r"written to a tensor of torch\.int64"):
            torch.add(torch.ones(2), 1, out=torch.empty(2, dtype=torch.int64))
        with pytest.raises(RuntimeError, match=r"shape \(2,\) cannot be written"):
            torch.add(torch.ones(2), 1, out=torch.empty(3))
    with pytest.raises(ValueError, match="unknown must be 'raise' or 'pass', not 'ignore'"):
        Dispatch({}, unknown="ignore")
