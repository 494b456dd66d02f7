"""Cases that one test takes in turn."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest

Test = Callable[..., None]


def for_each(names: str, cases: Iterable[Any]) -> Callable[[Test], Test]:
    """Call a test for each of many cases: `pytest.mark.parametrize`, but they make up one test.

    To run and report a test takes two or three milliseconds, as much as many a small case.  All
    cases are taken, whichever fail; what is raised says in which case it was.

    Parameters
    ----------
    names : str
        Names of the arguments, separated by commas.
    cases : iterable
        For each case its argument, or one for each name.
    """
    keys = [name.strip() for name in names.split(",")]
    given = [dict(zip(keys, case if keys[1:] else [case], strict=True)) for case in cases]
    assert given, f"there is no case of {names}"

    def of_one_case(test: Test) -> Test:
        @functools.wraps(test)
        def of_all_cases(**arguments: Any) -> None:
            failures: list[BaseException] = []
            for case in given:
                try:
                    test(**arguments, **case)
                except pytest.skip.Exception as error:
                    raise TypeError("to skip one case would be to skip all after it") from error
                except (Exception, pytest.fail.Exception) as error:
                    written = ", ".join(f"{name}={value!r}" for name, value in case.items())
                    error.add_note(f"with {written}")
                    failures.append(error)
            if len(failures) > 1:
                raise BaseExceptionGroup(f"{len(failures)} of {len(given)} cases fail", failures)
            for error in failures:
                raise error

        signature = inspect.signature(test)
        others = [each for name, each in signature.parameters.items() if name not in keys]
        of_all_cases.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return of_all_cases

    return of_one_case
