"""The documentation site: `make docs` builds it, and executes every code block."""

import calibrax

project = "calibrax"
author = "The calibrax developers"
release = calibrax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
source_suffix = {".md": "myst-nb"}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

default_role = "code"  # docstrings write `x` for code
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and types stand in the text
autodoc_preserve_defaults = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = "calibrax"
html_static_path = []
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"
