"""The documentation as a site: `python -P -m sphinx -W --keep-going docs FOLDER`.

The pages are the Markdown files of this folder, as they are read on the repository's page too; docs/index.md lists
them in their order. What is generated comes in at the comments that name it (tglo_site/). Nothing that a page loads is
on another host.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import tglo  # noqa: E402
import tglo_site  # noqa: E402

REPOSITORY = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["urls"][
    "Repository"
]

project = "tglo"
author = project_copyright = "tglo maintainers"
version = release = tglo.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["tglo_site"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4  # as links on the repository's page have them
smartquotes = False  # --flag stays what it is
highlight_language = "text"
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "none"  # shapes, dtypes and units are in the docstrings
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"tglo {version}"
html_static_path = ["tglo_site/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_dark_style = "github-dark"


def setup(app: object) -> None:
    """Let the pages have what is generated."""
    tglo_site.connect(app, DOCS.parent, REPOSITORY)
