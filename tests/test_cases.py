"""What tests of many cases rest on."""

import pytest

from tests.cases import for_each


def test_every_case_is_taken_and_the_one_that_fails_is_named(request):
    taken = []

    @for_each("a, b", [(1, "x"), (2, "y")])
    @for_each("c", [3, 4])
    def test(request, a, b, c):
        taken.append((request, a, b, c))
        assert (a, c) != (2, 4)

    with pytest.raises(AssertionError) as error:
        test(request=request)
    assert taken == [(request, a, b, c) for a, b in ((1, "x"), (2, "y")) for c in (3, 4)]
    assert error.value.__notes__ == ["with c=4", "with a=2, b='y'"]


def test_all_cases_are_taken_whichever_fail():
    taken = []

    @for_each("case", range(4))
    def test(case):
        taken.append(case)
        if case == 1:
            pytest.fail("this one")
        assert case != 2

    with pytest.raises(BaseExceptionGroup, match="2 of 4 cases fail") as group:
        test()
    assert taken == [0, 1, 2, 3]
    assert [each.__notes__ for each in group.value.exceptions] == [["with case=1"], ["with case=2"]]


def test_no_cases_are_no_test():
    with pytest.raises(AssertionError, match="no case of a"):
        for_each("a", [])


def test_a_case_may_not_skip_the_others():
    with pytest.raises(TypeError, match="skip all after it"):
        for_each("a", [1, 2])(lambda a: pytest.skip("no such case"))()


@for_each("case", [1, 2])
def test_fixtures_and_parameters_are_those_of_the_one_test(case, tmp_path):
    (tmp_path / str(case)).touch()
    assert len([*tmp_path.iterdir()]) == case
