"""The documentation: docstrings of public names, and what pages have to cover."""

import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest
from public_names import MODULES, PUBLIC, public_objects

import calibrax as cx
from calibrax.runs.presets import LIKELIHOODS

DOCS = Path(__file__).parent.parent / "docs"


def missing_sections(value) -> list[str]:
    """What the docstring of a public function or class lacks of its arguments and its result."""
    doc = inspect.getdoc(value) or ""
    if not doc.strip():
        return ["a docstring"]
    if inspect.isclass(value):
        has_fields = bool(inspect.get_annotations(value)) and not issubclass(value, BaseException)
        settings = any("Settings" in base.__name__ for base in value.__mro__)  # their fields have docstrings
        protocol = typing.Protocol in value.__mro__
        needs = has_fields and not settings and not protocol and not ("Attributes:" in doc or "Args:" in doc)
        return ["Attributes: or Args:"] if needs else []
    signature = inspect.signature(value)
    missing = []
    if signature.parameters and "Args:" not in doc and "Args and Raises:" not in doc:
        missing.append("Args:")
    if signature.return_annotation not in (None, "None", signature.empty) and not (
        "Returns:" in doc or "Yields:" in doc
    ):
        missing.append("Returns:")
    return missing


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_documents_its_arguments_and_result(name):
    assert missing_sections(PUBLIC[name]) == []


def test_what_is_missing_is_found():
    def undocumented(x: int) -> int: ...

    def without_sections(x: int) -> int:
        """One line."""
        return x

    assert missing_sections(undocumented) == ["a docstring"]
    assert missing_sections(without_sections) == ["Args:", "Returns:"]


def test_every_module_has_a_page_of_the_reference():
    index = (DOCS / "api" / "index.md").read_text()
    assert ".. public-names:: calibrax\n" in index
    for module in MODULES[1:]:
        page = module.removeprefix("calibrax.")
        assert f"\n{page}\n" in index
        assert f".. automodule:: {module}\n" in (DOCS / "api" / f"{page}.md").read_text()


def test_public_constants_are_explained_on_their_page():
    for module_name in MODULES[1:]:
        module = importlib.import_module(module_name)
        others = set(getattr(module, "__all__", [])) - set(public_objects(module_name))
        text = (DOCS / "api" / f"{module_name.removeprefix('calibrax.')}.md").read_text()
        assert [name for name in sorted(others) if f"`{name}`" not in text] == []


def test_the_table_of_decoders_has_every_constructor_and_command_line_name():
    text = (DOCS / "choosing.md").read_text()
    table = text[text.index("## All decoders") : text.index("## Measured consequences")]
    assert [name for name in LIKELIHOODS if f"`{name}`" not in table] == []
    formulas = [name.removesuffix("_nll") for name in cx.likelihoods.__all__ if name.endswith("_nll")]
    assert [name for name in formulas if name in cx.__all__ and f"`{name}(" not in table] == []


def test_python_in_pages_is_executed():
    """Python stands in cells, which the build executes; a fence of Python would not be executed."""
    fence = re.compile(r"^```+ ?(?:python|py|pycon)\b", re.MULTILINE)
    pages = [path for path in DOCS.glob("**/*.md") if "_build" not in path.parts]
    assert [path.name for path in pages if fence.search(path.read_text())] == []
