"""PSNR of reconstructions, of a model whose reconstructions are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import calibrax as cx
from calibrax.evaluation import Trained, record
from calibrax.evaluation.metric import NoOptions, Subject
from calibrax.evaluation.metrics.reconstruction import reconstruction_psnr


class Darker(nn.Module):
    """Reconstructs every value as itself minus 0.1; of videos all frames but the first."""

    def __call__(self, x, keys, train=False):
        return self.target(x) - 0.1, jnp.zeros(len(x))

    def target(self, x):
        return x[:, 1:] if x.ndim == 5 else x


TRAINED = Trained(Darker(), cx.gaussian(link="identity"), {"model": {}, "likelihood": {}}, {})
EXPECTED = 20.0  # decibels: -10 log10(0.1²)
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
EXAMPLES = {"images": RNG.random((5, 4, 4, 3), np.float32), "videos": RNG.random((5, 3, 4, 4, 1), np.float32)}


@pytest.mark.parametrize("noun", EXAMPLES)
def test_the_ratio_of_each_example(noun):
    for batch_size in (2, 5):
        ratios = reconstruction_psnr(TRAINED, EXAMPLES[noun], key=KEY, batch_size=batch_size)
        assert ratios.dtype == np.float64
        np.testing.assert_allclose(ratios, np.full(5, EXPECTED), rtol=1e-5)
    with pytest.raises(ValueError, match="examples is empty"):
        reconstruction_psnr(TRAINED, EXAMPLES[noun][:0], key=KEY)


@pytest.mark.parametrize("noun", EXAMPLES)
def test_the_table_measures_and_prints_it(noun, tmp_path):
    past = 1 if noun == "videos" else None
    subject = Subject(TRAINED, EXAMPLES[noun], KEY, 3, past, tmp_path, "gaussian", "")
    found = record.measure({"reconstruction": NoOptions()}, subject)
    assert found == {
        "reconstruction": {"psnr": pytest.approx(EXPECTED, rel=1e-5), "stderr": pytest.approx(0, abs=1e-4), noun: 5}
    }
    assert not math.isnan(found["reconstruction"]["stderr"])
    line = next(record.lines(found))
    assert line == f"reconstructions: PSNR 20.00 ± 0.00 dB (5 {noun}, one posterior sample each, data range 1)"
