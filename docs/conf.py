"""Sphinx configuration. ``python -m sphinx -W -n -b html docs docs/_build/html`` builds without a network."""

import os
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from docs.generators import write_pages  # noqa: E402

write_pages()

project = "bittaper"
author = "The bittaper contributors"
copyright = f"2026, {author}"  # noqa: A001
release = version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "docs.generators.mathml",
    "docs.generators.readmes",
    "docs.generators.references",
    "docs.generators.shell",
]
exclude_patterns = ["_build", "generators", "examples"]

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# A block that names no language holds commands or what a program said.
highlight_language = "none"
# READMEs shorten long JSON with "...".
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "bittaper"
html_static_path = ["static"]
html_css_files = ["bittaper.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
