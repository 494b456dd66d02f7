"""What a clock counts: not the time in which kernels are compiled or loaded."""

import contextlib
import time

import numba
from numba.extending import overload

import lamp
from lamp.evaluation import Clock, Setting, Text, compare

COMPILING = 0.5  # seconds, at least


def slow_to_compile():
    """A function that takes long to compile, each time anew, and returns 1."""

    def one():
        raise NotImplementedError

    @overload(one)
    def compiled_one():
        time.sleep(COMPILING)
        return lambda: 1

    return numba.njit(lambda: one())


def test_compiling_is_not_counted_and_all_else_is():
    clock, function = Clock(), slow_to_compile()
    start = time.perf_counter()
    with clock.running():
        assert function() == 1
        time.sleep(0.1)
    elapsed = time.perf_counter() - start
    assert 0.1 <= clock.seconds <= elapsed - COMPILING
    before = clock.seconds
    with clock.running():
        time.sleep(0.1)
    assert clock.seconds >= before + 0.1


def test_a_block_that_ends_in_an_exception_is_counted():
    clock = Clock()
    with contextlib.suppress(ZeroDivisionError), clock.running():
        time.sleep(0.1)
        raise ZeroDivisionError
    assert clock.seconds >= 0.1


def test_a_comparison_does_not_count_the_kernels_that_only_its_windows_need(monkeypatch):
    model = lamp.from_pretrained("embedded")
    text = Text.of(model.encode("When shall we three meet again?"), model)
    function, forward = slow_to_compile(), lamp.GPT2.forward

    def late(self, tokens, *arguments, **options):
        if len(tokens) > 2 and self.hardware.name == "fp32":
            function()
        return forward(self, tokens, *arguments, **options)

    monkeypatch.setattr(lamp.GPT2, "forward", late)
    start = time.perf_counter()
    found = compare(model, text, Setting.parse("fp32"))
    assert 0 < found.seconds <= time.perf_counter() - start - COMPILING
