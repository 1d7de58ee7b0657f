"""The documentation as a site, for `make docs`: README is its first page, docs/*.md the others."""

import re
from typing import Any

project = "epsweep"
html_title = "epsweep"
html_theme = "furo"
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "benchmarks/results/*.md"]
exclude_patterns = [".*", "build", "outputs"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # measured results open with the heading they have
default_role = "code"  # `name` in docstrings
autodoc_typehints = "description"


def contents(readme: str) -> str:
    """The site's table of contents: a chapter for every paragraph of links that ends the README."""
    listed = readme[readme.index("## Read on") :]
    chapters = re.findall(r"^\*\*(.+)\*\*: ((?:.+\n)+)", listed, re.M)
    trees = [(title, "\n".join(re.findall(r"\]\((\S+)\.md\)", text))) for title, text in chapters]
    trees.append(("Project", "CONTRIBUTING\nCHANGELOG"))
    trees.append(("Measured", ":glob:\n\nbenchmarks/results/*"))
    tree = "\n```{{toctree}}\n:hidden:\n:caption: {}\n{}\n```\n"
    return "".join(tree.format(*one) for one in trees)


def add_contents(app: Any, page: str, source: list[str]) -> None:
    if page == root_doc:
        source[0] += contents(source[0])


def setup(app: Any) -> None:
    app.connect("source-read", add_contents)
