"""Small mistakes made on purpose, each against the tests of the file it is in.

    python analysis/mutants.py [--count 80] [--seed 0] [--jobs 2] [--results FILE] [FILE...]

A mutant is one change of one expression: a comparison, a sign, a shift, a bound that is taken the
other way round, a number that is one too large.  It is made in a copy of the checkout, and killed
if a test fails there.  Those that survive are printed; each is either equivalent to the original or
shows a test that is missing.  With `--results`, mutants that the file holds are not run again.
Exits with 1 if any survives.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SECONDS: Final = 900  # a mutant may loop for ever

# The tests that ought to notice.
TESTS: Final = {
    "fpemu/_kernels/rounding.py": "tests/fpemu/test_rounding.py tests/fpemu/test_stochastic.py "
    "tests/fpemu/test_p3109.py",
    "fpemu/_kernels/array_rounding.py": "tests/fpemu/test_rounding.py "
    "tests/fpemu/test_stochastic.py",
    "fpemu/_kernels/arithmetic.py": "tests/fpemu/test_arithmetic.py "
    "tests/fpemu/kernels/test_elementwise_loops.py tests/fpemu/test_stochastic_arithmetic.py",
    "fpemu/_kernels/exact.py": "tests/fpemu/test_arithmetic.py "
    "tests/fpemu/test_stochastic_arithmetic.py",
    "fpemu/_kernels/significands.py": "tests/fpemu/test_arithmetic.py "
    "tests/fpemu/test_stochastic_arithmetic.py",
    "fpemu/_kernels/codes.py": "tests/fpemu/test_codec.py",
    "fpemu/_kernels/sequential.py": "tests/fpemu/test_accumulators.py "
    "tests/fpemu/test_stochastic_accumulators.py",
    "fpemu/_kernels/running_sums.py": "tests/fpemu/test_running_sums.py",
    "fpemu/_kernels/tile_steps.py": "tests/fpemu/test_running_sums.py "
    "tests/fpemu/test_blocks_in_lanes.py tests/fpemu/test_accumulators.py",
    "fpemu/_kernels/tiles.py": "tests/fpemu/test_running_sums.py "
    "tests/fpemu/test_blocks_in_lanes.py tests/fpemu/test_accumulators.py",
    "fpemu/_kernels/few_rows.py": "tests/fpemu/test_few_rows.py",
    "fpemu/_kernels/anchored_sums.py": "tests/fpemu/test_trees_and_exact.py",
    "fpemu/_kernels/pairwise.py": "tests/fpemu/test_trees_and_exact.py",
    "fpemu/_kernels/superaccumulator.py": "tests/fpemu/test_trees_and_exact.py",
    "fpemu/_kernels/tensor_core.py": "tests/fpemu/test_devices.py",
    "fpemu/accumulators.py": "tests/fpemu/test_error_bounds.py "
    "tests/fpemu/test_accumulators_as_data.py tests/fpemu/test_own_accumulators.py",
    "fpemu/formats.py": "tests/fpemu/test_formats.py",
    "fpemu/scaling.py": "tests/fpemu/test_scaling.py",
    "fpemu/linalg.py": "tests/fpemu/test_accumulators.py tests/fpemu/test_running_sums.py",
    "lamp/lookahead/selection.py": "tests/lamp/lookahead",
    "lamp/_kernels/conditions.py": "tests/lamp/lookahead",
    "lamp/_kernels/ordering.py": "tests/lamp/lookahead",
    "lamp/_kernels/picking.py": "tests/lamp/lookahead",
    "lamp/_kernels/scoring.py": "tests/lamp/lookahead",
    "lamp/bounds/errors.py": "tests/lamp/bounds",
    "lamp/bounds/compositions/softmax.py": "tests/lamp/bounds",
    "lamp/bounds/evaluations.py": "tests/lamp/bounds",
    "lamp/models/attention.py": "tests/lamp/models/test_attention.py "
    "tests/lamp/models/test_gpt2.py tests/lamp/models/test_llama.py",
    "lamp/models/tiles.py": "tests/lamp/models/test_tiles.py",
    "lamp/_kernels/tiles.py": "tests/lamp/models/test_tiles.py",
    "lamp/evaluation/metrics.py": "tests/lamp/evaluation",
    "lamp/studies/store.py": "tests/lamp/studies/test_store.py",
}

_OTHER: Final = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.LShift: ">>", ast.RShift: "<<",
    ast.BitAnd: "|", ast.BitOr: "&", ast.FloorDiv: "*", ast.And: "or", ast.Or: "and",
}  # fmt: skip
_OTHER_CALL: Final = {
    "max": "min", "min": "max", "maximum": "minimum", "minimum": "maximum", "add": "subtract",
    "subtract": "add", "shift_left": "shift_right", "shift_right": "shift_left",
    "bit_and": "bit_or", "bit_or": "bit_and", "floor": "ceil", "ceil": "floor", "any": "all",
    "all": "any", "abs": "float", "truncate": "floor",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A change of the text from `start` to `stop` of a file."""

    file: str
    line: int
    start: int
    stop: int
    text: str
    shown: str


class _Finder(ast.NodeVisitor):
    """Every change that can be made to a file."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source = file, source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line.encode()))
        self.found: list[Mutant] = []

    def visit_Raise(self, node: ast.Raise) -> None:
        """Messages are not what is asked about."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Text."""

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, right, operator in zip(sides, sides[1:], node.ops, strict=False):
            self._between(left, right, operator)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._between(node.left, node.right, node.op)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, node.op)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in _OTHER_CALL:
            stop = self._place(called.end_lineno, called.end_col_offset)
            self._change(node, stop - len(name), stop, _OTHER_CALL[name])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is int and abs(node.value) < 2**16:
            start = self._place(node.lineno, node.col_offset)
            stop = self._place(node.end_lineno, node.end_col_offset)
            self._change(node, start, stop, str(node.value + 1))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.USub, ast.Not)):
            start = self._place(node.lineno, node.col_offset)
            width = len("-" if isinstance(node.op, ast.USub) else "not")
            self._change(node, start, start + width, "")
        self.generic_visit(node)

    def _place(self, line: int | None, column: int | None) -> int:
        assert line is not None
        assert column is not None
        return self.starts[line - 1] + column

    def _between(self, left: ast.expr, right: ast.expr, operator: ast.AST) -> None:
        """A change of the operator between two operands, if there is nothing else between them."""
        other = _OTHER.get(type(operator))
        start = self._place(left.end_lineno, left.end_col_offset)
        stop = self._place(right.lineno, right.col_offset)
        between = self.source.encode()[start:stop].decode()
        if other is not None and not set(between) & set("()#\n"):
            self._change(left, start, stop, f" {other} ")

    def _change(self, node: ast.expr, start: int, stop: int, text: str) -> None:
        line = node.lineno
        before = self.source.splitlines()[line - 1].strip()
        given = self.source.encode()[start:stop].decode().strip()
        shown = f"{given or 'nothing'} -> {text.strip() or 'nothing'} in: {before}"
        self.found.append(Mutant(self.file, line, start, stop, text, shown))


def mutants_of(file: str, count: int, seed: int) -> list[Mutant]:
    """Some of the changes that can be made to a file, the same ones for a seed."""
    source = (ROOT / file).read_text()
    finder = _Finder(file, source)
    finder.visit(ast.parse(source))
    return random.Random(f"{seed} {file}").sample(finder.found, min(count, len(finder.found)))


def _copy(folder: Path) -> None:
    """The files of the checkout, without what is not in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def survives(mutant: Mutant) -> bool:
    """Whether the tests of the file pass on a copy with the change."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "main")
        _copy(folder)
        shared = ROOT.parent / "shared"
        if shared.exists():
            Path(temporary, "shared").symlink_to(shared)
        text = (folder / mutant.file).read_bytes()
        changed = text[: mutant.start] + mutant.text.encode() + text[mutant.stop :]
        (folder / mutant.file).write_bytes(changed)
        environment = os.environ | {"PYTHONPATH": str(folder), "NUMBA_NUM_THREADS": "1"}
        if "_kernels" in mutant.file:  # nothing that it compiles is of use to anyone
            environment["NUMBA_CACHE_DIR"] = str(Path(temporary, "cache"))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider"]
        try:
            ended = subprocess.run(
                [*command, *TESTS[mutant.file].split()],
                cwd=folder, env=environment, capture_output=True, timeout=SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        return ended.returncode == 0


def _known(path: Path | None) -> Iterator[dict[str, object]]:
    if path is not None and path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run mutants and print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(TESTS)}")
    parser.add_argument("--count", type=int, default=80, help="mutants in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, help="JSON lines to continue")
    options = parser.parse_args(arguments)
    for file in options.files:
        if file not in TESTS:
            parser.error(f"unknown file {file!r}: expected {', '.join(TESTS)}")
    files = options.files or list(TESTS)
    # As even as it goes: the files in front have one more where the count is no multiple.
    counts = [len(range(i, options.count, len(files))) for i in range(len(files))]
    shares = zip(files, counts, strict=True)
    wanted = [m for file, count in shares for m in mutants_of(file, count, options.seed)]
    known = {(r["file"], r["start"], r["text"]): r["survives"] for r in _known(options.results)}

    def result(mutant: Mutant) -> bool:
        key = mutant.file, mutant.start, mutant.text
        if key in known:
            return bool(known[key])
        alive = survives(mutant)
        if options.results is not None:
            with options.results.open("a") as file:
                file.write(json.dumps(asdict(mutant) | {"survives": alive}) + "\n")
        print("SURVIVES" if alive else "killed  ", f"{mutant.file}:{mutant.line}", mutant.shown)
        sys.stdout.flush()
        return alive

    with ThreadPoolExecutor(options.jobs) as pool:
        alive = sum(pool.map(result, wanted))
    print(f"{len(wanted)} mutants, {alive} survive")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
