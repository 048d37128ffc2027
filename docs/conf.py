"""The site of these pages: `python -m sphinx -W -b html -c docs . build/site`, whose source is the repository's folder.

Links go to pages, to headings and to the repository's files; what leads nowhere is a warning, which -W makes an error.
Furo takes the system's fonts, and the pages load nothing from elsewhere.
"""

import re

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

from mmkp_jax import __version__

project = "mmkp_jax"
author = "The mmkp_jax authors"
copyright = "the mmkp_jax authors, Apache-2.0"
version = release = __version__
root_doc = "docs/index"
include_patterns = ["README.md", "benchmarks/README.md", "docs/*"]
exclude_patterns = [".*", "build", "configs", "dist", "launch", "mmkp_jax", "requirements", "runs", "tests", "venv"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88

html_static_path = ["_static"]
html_theme = "furo"
html_title = f"mmkp_jax {version}"
html_copy_source = False
html_css_files = ["site.css"]
html_show_sphinx = False
pygments_style, pygments_dark_style = "friendly", "monokai"


CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)(?=(\w?))")
ITEM = re.compile(r"(?:\d+\.|-) ")


def as_restructured_text(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Rewrites a docstring, which is Markdown, in place: code, lists, indented blocks, sections."""
    text = CODE.sub(lambda code: f"``{code[1]}``" + "\\ " * bool(code[2]), "\n".join(lines))
    text = re.sub(r"^(\S.*)\n\n(?=    \S)", r"\1\n\n::\n\n", text, flags=re.MULTILINE)
    lines.clear()
    indent = 0  # of what belongs to the last item of a list
    for line in text.split("\n"):
        if item := ITEM.match(line):
            lines += [""] * (not indent)
            indent = item.end()
        elif not line:
            indent = 0
        lines.append(" " * (indent if line[:1].strip() and not item else 0) + line)
    if what not in ("attribute", "data", "property"):  # of which Napoleon takes what is before a colon for a type
        lines[:] = GoogleDocstring(list(lines), Config(), app, what, name, value, options).lines()


def setup(app: Sphinx) -> None:
    """Has docstrings rewritten."""
    app.connect("autodoc-process-docstring", as_restructured_text)
