"""Runs with a model, a likelihood and an optimizer of the caller's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import write_images

import calibrax as cx
from calibrax import cli
from calibrax.evaluation.metric import NoOptions
from calibrax.likelihoods._base import Family, as_unit, from_family
from calibrax.models import ConvVAE
from calibrax.runs import Run, RunError, TrainConfig, train
from calibrax.runs.evaluate import evaluate
from calibrax.runs.run import load_data


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_a_run_with_its_own_parts_is_trained_resumed_and_opened(tmp_path, capsys):
    folder = tmp_path / "run"
    config = TrainConfig.for_model(
        data=str(write_images(tmp_path / "tiny.npz")), run_dir=str(folder), epochs=1, batch_size=25
    )
    likelihood = cx.tempered(cx.shared_sigma(), 0.5)
    custom = {
        "model": ConvVAE((8, 8, 3), likelihood.output_channels(3), latent_dim=2, features=4),
        "likelihood": likelihood,
        "optimizer": optax.sgd(1e-5),
    }
    record = train(config, **custom)
    assert (record["step"], record["model"], record["likelihood"]) == (2, "own-model", "own-likelihood")
    record = train(config.replace(epochs=2, resume=True), **custom)
    assert (record["step"], record["training"]["from_step"]) == (4, 2)
    run = Run.open(folder, **custom)
    assert "log_sigma" in run.saved_state().params["likelihood"]
    assert jax.tree.leaves(run.saved_state().params["model"])[0].shape[-1] <= 16
    assert np.isfinite(run.score(run.trained(), run.test).neg_elbo)

    capsys.readouterr()
    message = "the run was begun with its own likelihood and model and optimizer; pass it to"
    with pytest.raises(RunError, match=message):
        Run.open(folder)
    with pytest.raises(RunError, match="begun with its own optimizer"):
        train(config.replace(epochs=3, resume=True), model=custom["model"], likelihood=likelihood)
    assert cli.main(["evaluate", str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_a_run_starts_with_the_scale_of_its_first_batch(tmp_path):
    config = TrainConfig.for_model(
        data=str(write_images(tmp_path / "tiny.npz")), run_dir=str(tmp_path / "run"), epochs=1, batch_size=25,
        likelihood="shared-sigma", initial=0.5, start_scales=True,
    )  # fmt: skip
    model = ConvVAE((8, 8, 3), 3, latent_dim=2, features=4)
    run = Run(config, load_data(config), model=model)
    first = run.initial_state()
    variables = {"params": first.params["model"]}
    x = next(run.batches())
    outputs, _ = run.model.apply(variables, x, run.init_key, train=True)
    rms = np.sqrt(np.mean(np.square(as_unit(x, jnp.float32) - jax.nn.sigmoid(outputs))))
    np.testing.assert_allclose(np.exp(first.params["likelihood"]["log_sigma"]), rms, rtol=1e-5)


def test_a_likelihood_without_a_mean_is_trained_and_evaluated(tmp_path, capsys):
    """Pictures show draws, there is no MSE, and a metric that needs the mean is left out in one line."""
    family = cauchy_family()
    likelihood = from_family(family, lambda params, state, outputs: (outputs,))
    folder = tmp_path / "run"
    config = TrainConfig.for_model(
        data=str(write_images(tmp_path / "tiny.npz")), run_dir=str(folder), epochs=1, batch_size=25, latent_dim=2
    )
    record = train(config, likelihood=likelihood)
    assert record["test"]["running average"]["mse"] is None
    assert np.isfinite(record["test"]["running average"]["neg_elbo"])
    assert len(list((folder / "samples").iterdir())) == 1
    capsys.readouterr()
    results = evaluate(Run.open(folder, likelihood=likelihood), {"reconstruction": NoOptions()})
    assert "reconstruction" not in results
    assert "reconstructions ... left out: the distribution of cauchy_nll has no mean" in capsys.readouterr().err


def cauchy_family():
    def cauchy_nll(x, location, mask=None):
        error = as_unit(x, location.dtype) - location
        values = jnp.log(jnp.pi) + jnp.log1p(jnp.square(error))
        return jnp.sum(values, axis=tuple(range(1, values.ndim))), {}

    return Family(
        nll=cauchy_nll,
        mean=None,
        sample=lambda key, location: location + jax.random.cauchy(key, location.shape, location.dtype),
    )
