"""The figures of the page on fpemu: two formats of 8 bits, and the errors of sums on matrix units.

    python analysis/pictures.py [--output docs/_static/figures]

Both are made by functions that everybody has, fpemu.plot_formats and fpemu.plot_errors, and are the
same bytes each time.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import fpemu

FIGURES: Final = Path(__file__).parents[1] / "docs" / "_static" / "figures"
FORMATS: Final = ("float8_e4m3fn", "float8_e5m2")
UNITS: Final = (
    "e8m7",
    "hopper.wgmma.e4m3",
    "hopper.wgmma-promoted.e4m3",
    "blackwell.tcgen05.e4m3",
    "exact:float64",
)
TERMS: Final = tuple(4**exponent for exponent in range(1, 9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FIGURES, help="an existing folder")
    options = parser.parse_args()
    if not options.output.is_dir():
        parser.error(f"--output {options.output} is not a folder")
    formats, errors = (options.output / f"{name}.svg" for name in ("formats", "sum_errors"))
    fpemu.plot_formats(FORMATS, formats)
    fpemu.plot_errors(UNITS, TERMS, errors, inputs="float8_e4m3fn")
    print(f"Wrote {formats} and {errors}")


if __name__ == "__main__":
    main()
