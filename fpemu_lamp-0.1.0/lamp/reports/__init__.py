"""Reports of stores: one HTML page, and the same as files.

The same store gives the same bytes.  Files are written whole or not at all.

Examples
--------
>>> from pathlib import Path
>>> from lamp import reports
>>> studies = reports.read("study.sqlite")  # doctest: +SKIP
>>> reports.write_page(studies, Path("study.html"))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fpemu._lazy import lazy

if TYPE_CHECKING:
    from lamp.reports import console, depths, fronts, ranks
    from lamp.reports.exports import to_pandas, write_csv, write_parquet
    from lamp.reports.page import write_page
    from lamp.reports.papers import TABLE_KINDS, write_tables
    from lamp.reports.pictures import write_demo, write_pictures
    from lamp.reports.results import Results, read
    from lamp.reports.stories import story

__all__ = [
    "TABLE_KINDS",
    "Results",
    "console",
    "depths",
    "fronts",
    "ranks",
    "read",
    "story",
    "to_pandas",
    "write_csv",
    "write_demo",
    "write_page",
    "write_parquet",
    "write_pictures",
    "write_tables",
]

# Commands that only print tables load nothing that draws or fills templates.
_NAMES: Final = {
    "exports": "to_pandas write_csv write_parquet",
    "page": "write_page",
    "papers": "TABLE_KINDS write_tables",
    "pictures": "write_demo write_pictures",
    "results": "Results read",
    "stories": "story",
}

if not TYPE_CHECKING:  # to which every name is known by its import above
    __getattr__, __dir__ = lazy(__name__, _NAMES)
