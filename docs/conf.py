"""How the documentation is built: Sphinx, Markdown and notebooks by MyST, no network."""

import gc
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

gc.disable()  # a quarter of the time would go by looking at trees that are all in use

project = "fpemu and lamp"
author = "The authors of fpemu and lamp"
copyright = author
release = metadata.version("fpemu-lamp")

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_nb",
    "docstrings",
    "literals",
    "mathml",
    "names",
    "tables",
]
exclude_patterns = ["extensions"]

# Cross references are checked; single backticks in docstrings are names of parameters.
nitpicky = True
nitpick_ignore = [
    ("py:func", "mpmath.workdps"),
    ("py:meth", "distributed.Client.get_executor"),
    ("py:mod", "concurrent.futures"),
]
default_role = "code"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_url_schemes = ["http", "https"]

# Notebooks are shown with the outputs that they keep, which analysis/notebooks.py writes.
nb_execution_mode = "off"

# Types stand in the docstrings, in words.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"fpemu and lamp {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b5c8a",
        "color-brand-content": "#0b5c8a",
        "color-brand-visited": "#5b4a99",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7cc4ee",
        "color-brand-content": "#7cc4ee",
        "color-brand-visited": "#b9a7f0",
    },
    "navigation_with_keys": True,
}
# The empty line that ends an example's output for doctest is not shown.
highlight_options = {"python": {"stripnl": True}}
