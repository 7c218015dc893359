"""README.md: its Python examples run, and its names, make targets and links exist."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import calibrax as cx
from calibrax.runs.presets import LIKELIHOODS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_examples_run_in_order():
    names: dict = {}
    numpyro = pytest.importorskip("numpyro")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"```python\n(.*?)```", README, re.S):
            exec(block, names)
    assert np.isfinite(names["loss"])
    assert names["nll"].shape == (64,)
    assert np.isfinite(names["nll"]).all()
    assert np.isfinite(names["test_loss"])
    # After one batch, the running average is the value of that batch: the same noise gives the same loss.
    with jax.numpy_dtype_promotion("standard"):
        test_loss, _ = names["VAE"]().apply(names["variables"], names["x"], jax.random.key(3), train=False)
    np.testing.assert_allclose(test_loss, names["loss"], rtol=1e-5)

    seeded = numpyro.handlers.seed(names["model"], jax.random.key(0))
    with jax.numpy_rank_promotion("allow"):
        log_prob, _ = numpyro.infer.util.log_density(seeded, (names["x"],), {}, {})
    assert np.isfinite(log_prob)


def test_the_table_lists_every_decoder():
    rows = re.findall(r"^\| `(\w+)\((.*?)\)` \| `([\w-]+)` \|", README, re.M)
    assert {row[2] for row in rows} == set(LIKELIHOODS)
    for constructor, _, _ in rows:
        assert callable(getattr(cx, constructor))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make ([a-z0-9-]+)", README))))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_links_exist():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)
