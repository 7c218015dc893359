"""The documentation site. `make docs` builds it and executes every code cell of its pages."""

import importlib
import inspect
import logging
import os
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

import calibrax

ROOT = Path(__file__).parent.parent

# For the kernels that execute the pages: they import `examples`, and a page's numbers come from a CPU.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm, in the kernels
logging.getLogger("traitlets").setLevel(logging.WARNING)  # which pages are executed

project = "calibrax"
author = "The calibrax developers"
release = calibrax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]
source_suffix = {".md": "myst-nb"}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove-warn"  # no page shows a warning
nb_render_markdown_format = "gfm"  # tables in the outputs of cells

nitpicky = True  # a reference to a name of calibrax that does not exist is a warning; other projects are not looked up
nitpick_ignore_regex = [("py:.*", r"(?!calibrax\.[a-z]).*"), ("py:.*", r"calibrax\..*\._.*|calibrax\._.*")]

highlight_language = "none"  # of blocks that name no language: commands and files
default_role = "code"  # docstrings write `x` for code
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and types stand in the text
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = [("References", "notes_style")]

html_theme = "furo"
html_title = "calibrax"
html_static_path = ["_static"]
html_css_files = ["calibrax.css"]
html_show_sourcelink = False
html_show_search_summary = False  # a page opened from a file cannot fetch the others
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"


def public_names(module) -> list[str]:
    """The names that a module offers: those of its `__all__`, or those that it defines and that have no underscore."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if name != "__version__"]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and value.__module__ == module.__name__
    ]


class PublicNames(Directive):
    """A list of the public functions, classes and modules of a module, with the first sentences of their docstrings."""

    required_arguments = 1

    def run(self):
        module = importlib.import_module(self.arguments[0])
        lines = []
        for name in public_names(module):
            value = getattr(module, name)
            if not (inspect.isroutine(value) or inspect.isclass(value) or inspect.ismodule(value)):
                continue  # constants and aliases, which the page explains
            in_likelihoods = module is calibrax and name in calibrax.likelihoods.__all__
            home = "calibrax.likelihoods" if in_likelihoods else module.__name__
            summary = escaped(inspect.getdoc(value).split("\n\n")[0])
            role = "mod" if inspect.ismodule(value) else "obj"
            lines += [f"- :py:{role}:`{name} <{home}.{name}>`: " + " ".join(summary.split()), ""]
        container = nodes.container(classes=["public-names"])
        self.state.nested_parse(StringList(lines), 0, container)
        return [container]


def escaped(text: str) -> str:
    """A docstring in which RST's special characters, which our docstrings use as they stand, have no meaning."""
    parts = re.split(r"(`[^`]*`|^ *(?:>>>|\.\.\.).*$)", text, flags=re.MULTILINE)
    parts[::2] = [re.sub(r"([|*])|(?<=\w)(_)(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def escape_docstring(app, what, name, value, options, lines):
    lines[:] = escaped("\n".join(lines)).split("\n")


def skip_aliases(app, what, name, value, skip, options):
    """Leave out fields of named tuples, which their class documents, and what NamedTuple and Flax add to a class."""
    added = type(value).__name__ == "_tuplegetter" or name in ("_replace", "name", "parent", "scope", "count", "index")
    return True if added else None


def setup(app):
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_aliases)
