"""The example of counts: all decoders give probabilities of the same 17 counts, and a short run of the program."""

import csv
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from examples import counts as example

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install '.[examples]'")


@pytest.fixture(autouse=True)
def _as_a_user():
    """JAX as users have it: without the strict promotion rules of the library's own tests."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def test_level_nll_equals_scipy():
    """Also far from the mean, and for a σ much wider or narrower than a bin."""
    levels = np.arange(17)
    for mean, sigma in itertools.product((0.001, 0.3, 0.5, 0.97), (0.02, 0.1, 0.5, 3.0)):
        x = levels.reshape(17, 1, 1, 1) / 16
        found = example.gaussian_level_nll(jnp.asarray(x, jnp.float32), jnp.full((17, 1, 1, 1), mean), jnp.array(sigma))
        low = np.where(levels == 0, -np.inf, (levels - 0.5) / 16)
        high = np.where(levels == 16, np.inf, (levels + 0.5) / 16)
        mirrored = (levels / 16 > mean)[:, None]  # the upper tail by the survival function, which does not cancel
        below, above = np.where(mirrored, np.stack([2 * mean - high, 2 * mean - low], 1), np.stack([low, high], 1)).T
        log_above, log_below = norm.logcdf(above, mean, sigma), norm.logcdf(below, mean, sigma)
        exact = -(log_above + np.log1p(-np.exp(log_below - log_above)))
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(example.DECODERS))
def test_probabilities_of_the_17_counts_sum_to_one(name):
    decoder = example.DECODERS[name]
    channels = decoder.likelihood.output_channels(1)
    outputs = jax.random.normal(jax.random.key(0), (1, 1, 1, channels))
    _, state = decoder.likelihood.init((1, 1, 1))
    # Counts over 16 have the rest of a Poisson distribution; the others have none.
    counts = jnp.arange(80.0 if name == "poisson" else 17.0).reshape(-1, 1, 1, 1)
    outputs = jnp.broadcast_to(outputs, (len(counts), 1, 1, channels))
    total = jnp.sum(jnp.exp(-example.level_nll(decoder, state, outputs, counts)))
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_the_digits_are_counts_and_no_image_is_in_two_splits():
    splits = example.load()
    assert [len(part) for part in splits] == [1200, 200, 397]
    together = np.concatenate(splits)
    np.testing.assert_array_equal(np.unique(together), np.arange(17))
    rows = [{image.tobytes() for image in np.asarray(part)} for part in splits]
    assert not rows[0] & rows[2]


def test_the_bound_of_many_samples_is_tighter_than_that_of_few_and_than_the_elbo():
    train, validation, test = (part[:64] for part in example.load())
    decoder = example.DECODERS["binomial(16)"]
    fitted = jax.jit(lambda key: example.fit(decoder, train, validation, key, steps=100))(jax.random.key(0))
    few, many = (example.score(decoder, fitted, test, jax.random.key(1), num_samples=num) for num in (2, 64))
    assert many.bound < few.bound < few.neg_elbo
    np.testing.assert_allclose(few.kl, many.kl, rtol=1e-6)
    assert many.neg_elbo < np.log2(17) + 2


def test_a_short_run_writes_the_table_its_provenance_and_a_picture(tmp_path, monkeypatch):
    names = ["categorical(17)", "optimal_sigma"]
    monkeypatch.setattr(example, "DECODERS", {name: example.DECODERS[name] for name in names})
    assert example.main(["--quick", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["decoder"] for row in rows] == names
    for row in rows:
        bound, neg_elbo = (float(row[f"bits per pixel, {name}"]) for name in ("bound of 64 samples", "-ELBO"))
        assert bound < neg_elbo < np.log2(17)  # a uniform distribution
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record["settings"] == {"steps": 100, "seeds": [0, 1]}
    assert (tmp_path / "samples.png").read_bytes()[:4] == b"\x89PNG"
