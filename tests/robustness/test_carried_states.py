"""What tools that save and copy do to all decoders; the fast tests take a few."""

import pytest
from carried import CHECKS, NAMES, Case


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_whatever_tools_do_no_nll_changes(name, check, tmp_path):
    check(Case(name), tmp_path)
