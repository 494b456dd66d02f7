"""The plan of the house: wings stand on each other, and each has one door."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Bottom first.  A wing may import those before it.
FLOORS = {
    "fpemu": [
        "_lazy",
        "_printing",
        "_html",
        "_reprs",
        "_listing",
        "_writing",
        "_arguments",
        "_environment",
        "_kernels",
        "_cuda",
        "formats",
        "limits",
        "carriers",
        "rounding",
        "codec",
        "arithmetic",
        "neighbors",
        "accumulators",
        "packed",
        "linalg",
        "multiprecision",
        "functions",
        "scaling",
        "devices",
        "names",
        "errors",
        "arrays",
        "jit",
        "torch",
        "reference",
        "testing",
        "explain",
        "expressions",
        "pictures",
        "cli",
    ],
    "lamp": [
        "_files",
        "_kernels",
        "machines",
        "bounds",
        "lookahead",
        "models",
        "evaluation",
        "integrations",
        "studies",
        "tuning",
        "reports",
        "cli",
        "testing",
    ],
}
PACKAGES = sorted(FLOORS)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules(package: str) -> dict[str, Path]:
    return {module_name(path): path for path in sorted(ROOT.joinpath(package).rglob("*.py"))}


def everything() -> dict[str, Path]:
    return {name: path for package in PACKAGES for name, path in modules(package).items()}


@cache
def imports(name: str) -> tuple[tuple[str, int], ...]:
    """The modules, or names within them, that a module imports anywhere, and on which lines."""
    found = []
    for node in ast.walk(ast.parse(everything()[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{name}:{node.lineno}: a relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return tuple((target, line) for target, line in found if target.split(".")[0] in FLOORS)


def home(target: str) -> str:
    """The module that an import is from: its longest prefix that is one."""
    while target not in everything():
        target = target.rpartition(".")[0]
    return target


def dependencies(package: str) -> Iterator[tuple[str, str, str, int]]:
    for name in modules(package):
        for target, line in imports(name):
            yield name, home(target), target, line


def wing(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


@cache
def handed_on(door: str) -> frozenset[str]:
    """What a door says that others may use, its ``__all__``."""
    for node in ast.parse(everything()[door].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def doors_of(name: str) -> list[str]:
    """The folders that a module is in, the package itself left out."""
    parts = name.split(".")
    prefixes = [".".join(parts[:length]) for length in range(2, len(parts) + 1)]
    return [prefix for prefix in prefixes if everything()[prefix].name == "__init__.py"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_stands_on_a_floor(package):
    wings = {wing(name) for name in modules(package)} - {"", "__main__"}
    assert wings == set(FLOORS[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_runs_upward(package):
    floors = {name: number for number, name in enumerate(FLOORS[package])}
    upward = []
    for name, target, _, line in dependencies(package):
        if wing(name) in floors and target.split(".")[0] == package:
            # The package itself hands on what is in every wing, and so is on the top floor.
            highest = floors.get(wing(target), len(floors) - 1)
            if highest > floors[wing(name)]:
                upward.append(f"{name}:{line} imports {target}")
    assert upward == []


def test_fpemu_knows_nothing_of_lamp():
    assert [name for name, target, _, _ in dependencies("fpemu") if target.startswith("lamp")] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_stands(package):
    graph = {name: set() for name in modules(package)}
    for name, target, full, _ in dependencies(package):
        if target in graph and target != name:
            # A module's own door is above it: a sibling taken through it would be a circle.
            graph[name].add(target)
            assert (
                target not in doors_of(name)
                or full.rpartition(".")[0] != target
                or (f"{full}" in everything())
            ), f"{name} takes {full} through the door of its own wing"
            if target in doors_of(name):
                graph[name].discard(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_reaches_past_a_door(package):
    past = []
    for name, _, target, line in dependencies(package):
        places = [place for place in doors_of(home(target)) if place not in doors_of(name)]
        steps = [*places, home(target), target]
        for door, inside in pairwise(dict.fromkeys(steps)):
            if door in places and inside.removeprefix(f"{door}.").split(".")[0] not in handed_on(
                door
            ):
                past.append(f"{name}:{line} takes {inside} past {door}")
    assert past == []


def test_the_judge_knows_formats_alone():
    known = {home(target) for target, _ in imports("fpemu.reference")}
    assert known == {"fpemu.formats"} or known == {"fpemu", "fpemu.formats"}


# Users' kernels are made where they ask for them; engines ask Numba how many threads it was given,
# and clocks how long it compiles.
COMPILING = {"fpemu.jit", "lamp.evaluation.clocks", "lamp.studies.engines"}
FOLDERS = {"_kernels", "_cuda"}  # for processors, and for devices


def test_everything_compiled_is_in_kernels():
    compiling = {"numba", "llvmlite", "fpemu._kernels.caching"}
    outside = []
    for name, path in everything().items():
        if FOLDERS & {*name.split(".")} or name in COMPILING:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            outside += [
                f"{name}:{node.lineno} imports {target}"
                for target in targets
                if any(f"{target}.".startswith(f"{module}.") for module in compiling)
            ]
    assert outside == []
