"""The steps of CONTRIBUTING.md for a new decoder, followed to the letter: its code passes the tests of all decoders."""

import ast
import importlib.util
import re
import sys
import textwrap
from pathlib import Path

import decoders
import numpy as np
import pytest
from contract import check_contract
from exact import assert_close, elementwise
from scipy import stats

import calibrax as cx
from calibrax.runs import presets

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = TEXT.split("## Adding a decoder")[1].split("\n## ")[0]
FILE, REGISTRATION, TEST = (textwrap.dedent(code) for code in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL))


@pytest.fixture(name="module")
def _module(tmp_path, monkeypatch):
    """The file of step 1, exported as in step 2 and registered as in step 3."""
    path = tmp_path / "_cauchy.py"
    path.write_text(FILE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("calibrax.likelihoods._cauchy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(cx, "cauchy", module.cauchy, raising=False)
    for name, make in eval(f"{{{REGISTRATION}}}", {"cx": cx}).items():
        monkeypatch.setitem(presets.LIKELIHOODS, name, make)
    return module


def test_a_decoder_is_one_short_file_with_few_imports():
    assert len(FILE.splitlines()) < 30
    imports = [node for node in ast.walk(ast.parse(FILE)) if isinstance(node, ast.ImportFrom)]
    assert sum(len(node.names) for node in imports) <= 8
    assert len(REGISTRATION.splitlines()) == 1


def test_it_passes_the_contract(module):
    decoder = decoders.named("cauchy")
    assert isinstance(decoder.likelihood, cx.Likelihood)
    check_contract(decoder)


def test_its_test_passes(module):
    scope = {"np": np, "elementwise": elementwise, "assert_close": assert_close}
    scope |= {"cauchy": stats.cauchy, "cauchy_nll": module.cauchy_nll}
    exec(TEST, scope)
    scope["test_cauchy_equals_scipy"]()


def test_it_has_no_mean_and_says_so(module):
    likelihood = cx.cauchy(link="identity")  # pyright: ignore
    params, state = likelihood.init((2, 3))
    for composed in (likelihood, cx.masked(likelihood), cx.tempered(likelihood, 0.5)):
        with pytest.raises(ValueError, match=r"^the distribution of cauchy_nll has no mean; expected [^\n]+$"):
            composed.mean(params, state, np.zeros((4, 2, 3), np.float32))


def test_every_decoder_of_the_command_line_is_in_the_table_and_no_row_of_facts_is_stale():
    assert set(decoders.NAMED) == set(presets.LIKELIHOODS)
    assert set(decoders.FACTS) <= set(presets.LIKELIHOODS)
