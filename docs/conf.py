"""How the pages are built: ``make docs``. No page needs the network, neither while it is built nor while it is read."""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "data/README.md": "data.md",
    "tutorials": "tutorials.md",
}
"""Files that are elsewhere in the repository, and the page that is theirs."""
sys.path.insert(0, str(ROOT))

import scflow  # noqa: E402

project = "scflow"
author = "The scflow developers"
copyright = author
version = release = scflow.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
root_doc = "index"
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
default_role = "code"

# Pages
myst_enable_extensions = ["colon_fence", "dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # Tutorials are committed with their outputs; tests run them.
suppress_warnings = [
    "myst.header",  # A page that is included begins with a heading of its own.
]

# The API. Signatures hold types and defaults, docstrings hold meaning.
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_google_docstring = False
napoleon_use_param = False  # "path, noise, time" is one entry with one meaning.
napoleon_use_ivar = True
napoleon_use_rtype = False
# What is of another project, and the short names within signatures, cannot be looked up without the network, and what
# is private has no page. Any other reference that leads nowhere is an error.
nitpick_ignore_regex = [
    ("py:.*", r"(?!scflow\.).*"),
    ("py:class", r"scflow\.(.*\._|codecs\.steps|metrics\.(sides|yardstick)|training\.(?!averages)\w+\.).*"),
]

# Looks
html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_title = "scflow"
html_static_path = ["_static"]
html_css_files = ["scflow.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "friendly",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def paged(text: str, folder: str) -> str:
    """Links between files of the repository, as they are in `folder`, as links between pages."""

    def turned(found: re.Match[str]) -> str:
        target, anchor = found.group(1), found.group(2) or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in PAGES:
            return f"]({PAGES[path]}{anchor})"
        return f"]({posixpath.relpath(path, 'docs')}{anchor})" if path.startswith("docs/") else found.group(0)

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", turned, text)


def read_page(app: Sphinx, name: str, source: list[str]) -> None:
    """The text of a page that is a file elsewhere, links from pages to such files, and no pattern without a page."""
    elsewhere = {page.removesuffix(".md"): path for path, page in PAGES.items()}
    path = elsewhere.get(name)
    if path and name != "index" and name != "tutorials":
        app.env.note_dependency(str(ROOT / path))
        source[0] = paged((ROOT / path).read_text(encoding="utf-8"), posixpath.dirname(path))
    elif "/" not in name:
        source[0] = "\n".join(
            line
            for line in paged(source[0], "docs").split("\n")
            if not re.fullmatch(r"[\w/]+\*", line) or any(HERE.glob(line))
        )


def copy_tutorials() -> None:
    """The notebooks of `tutorials/`, where a build can see them; links to pages lead to pages."""
    folder = HERE / "tutorials"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for notebook in sorted((ROOT / "tutorials").glob("*.ipynb")):
        content = json.loads(notebook.read_text(encoding="utf-8"))
        for cell in content["cells"]:
            if cell["cell_type"] == "markdown":
                lines = paged("".join(cell["source"]), "tutorials")
                # From the folder of the copies, pages are one floor up; notebooks are beside each other.
                cell["source"] = re.sub(r"\]\((?!\w+:|#|[\w-]+\.ipynb)", "](../", lines)
        # So that cells in another language, %%bash, are read as what they are.
        content["metadata"].setdefault("language_info", {"name": "python"})["pygments_lexer"] = "ipython3"
        (folder / notebook.name).write_text(json.dumps(content, indent=1), encoding="utf-8")


def link_names(app: Sphinx, tree: nodes.document, page: str) -> None:
    """In running text the name of something public, such as ``scflow.tl.train``, leads to its page."""
    known = app.env.domains["py"].objects  # type: ignore[attr-defined]
    for literal in list(tree.findall(nodes.literal)):
        name = literal.astext()
        if name not in known or isinstance(literal.parent, nodes.reference) or known[name].docname == page:
            continue
        literal["classes"].append("name")
        to = app.builder.get_relative_uri(page, known[name].docname) + "#" + known[name].node_id
        link = nodes.reference("", "", internal=True, refuri=to)
        literal.replace_self(link)
        link += literal


def mathml(self: Any, node: nodes.Element, *, block: bool) -> None:
    """A formula as MathML, which browsers draw by themselves: nothing has to be loaded for it."""
    text = node.astext()
    if block and r"\\" in text and r"\begin" not in text:
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    text = re.sub(r"\\t?frac(\w)(\w)", r"\\frac{\1}{\2}", text)  # the shorthand is not known to docutils
    formula = latex2mathml.tex2mathml(text, as_block=block)
    # What stands in a box of its own may be scrolled where a screen is narrow.
    self.body.append(f'<div class="formula">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Copy tutorials before pages are looked for, and draw formulas."""
    copy_tutorials()
    app.connect("source-read", read_page)
    app.connect("doctree-resolved", link_names)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda self, node: mathml(self, node, block=False), None),
        block_renderers=(lambda self, node: mathml(self, node, block=True), None),
    )
