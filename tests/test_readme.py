"""README.md: its Python examples run, and its names, make targets and links exist."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import calibrax as cx

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_examples_run_in_order():
    names: dict = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"```python\n(.*?)```", README, re.S):
            exec(block, names)
            if "test_loss" in names:
                # After one batch, the running average is the value of that batch: the same noise gives the same loss.
                np.testing.assert_allclose(names.pop("test_loss"), names["loss"], rtol=1e-5)
    assert names["nll"].shape == (64,)
    assert np.isfinite(names["nll"]).all()
    x, mean = names["x"], jax.nn.sigmoid(jax.random.normal(jax.random.key(5), names["x"].shape))
    kl = jax.numpy.ones(64)
    beta = float(cx.objectives.effective_beta(cx.likelihoods.optimal_sigma_nll(x, mean)[1]["log_sigma"]))
    # Both losses have the same minimum in the network: one is the other divided by β, but for a constant.
    ours, theirs = (names["sigma_vae_loss"](x, mean, kl), names["beta_vae_loss"](x, mean, kl, beta))
    size = x[0].size
    np.testing.assert_allclose(ours, theirs / beta + size * 0.5 * np.log(np.pi * beta), rtol=1e-5)


def test_the_first_python_is_on_the_first_screen():
    assert README.splitlines().index("```python") < 30


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make ([a-z0-9-]+)", README))))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_links_exist():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)
