"""How Sphinx makes a site of README.md and docs/: `make docs`.

The pages are plain Markdown that reads as well where it lies, so the repository's root is the
source folder and links between files are the site's. What pages there are, and in which order,
docs/README.md says.
"""

import re
import shutil

from sphinx.errors import ExtensionError

from docs.site import api, navigation

project = "flexmdm_jax"
copyright = "the authors of flexmdm_jax"
root_doc = "README"
include_patterns = [f"{page}.md" for page in navigation.pages()]
exclude_patterns = [".*", "data", "runs", "site", "wheels", "build"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 4
# Elisions in examples are no JSON.
suppress_warnings = ["misc.highlighting_failure"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# Every flax.struct.dataclass has it.
autodoc_default_options = {"members": True, "exclude-members": "replace"}
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "flexmdm_jax"
html_copy_source = False
html_show_sphinx = False

_FROM_ELSEWHERE = re.compile(r"""(?:\bsrc=|<link[^>]*\bhref=|url\()["']?(?:https?:)?//[^"'>)]*""")


def _source_read(app, page, source):
    """Adds to the first page what the site's side shows, and to an API page what its names do."""
    if page == root_doc:
        source[0] += navigation.side()
    elif page.startswith("docs/api/"):
        source[0] = api.expanded(source[0])


def _docstring(app, what, name, obj, options, lines):
    """Makes a docstring, whose only markup is `code`, reStructuredText."""
    lines[:] = api.restructured(lines)


def _signature(app, what, name, obj, options, signature, returns):
    """Returns a signature and what it returns with types as they are written in the source."""
    return api.written(signature), api.written(returns)


def _build_finished(app, error):
    """Lets the site open at its folder, and sees that it needs nothing from elsewhere."""
    if error:
        return
    shutil.copy(app.outdir / f"{root_doc}.html", app.outdir / "index.html")
    for path in app.outdir.rglob("*.html"):
        if found := _FROM_ELSEWHERE.search(path.read_text()):
            raise ExtensionError(f"{path} loads {found[0]}; pages load nothing from other hosts")


def setup(app):
    """Joins the above to Sphinx."""
    app.connect("source-read", _source_read)
    # Before napoleon, which makes roles of what it finds.
    app.connect("autodoc-process-docstring", _docstring, priority=400)
    app.connect("autodoc-process-signature", _signature)
    app.connect("build-finished", _build_finished)
