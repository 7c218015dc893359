"""Settings in groups: flat names, checks, and config.json files of older versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibrax as cx
from calibrax.runs import (
    ConfigError,
    ConvVAESettings,
    DataSettings,
    LikelihoodSettings,
    OptimizerSettings,
    RunSettings,
    TrainConfig,
)
from calibrax.runs.presets import LIKELIHOODS, MODELS, HVAESettings


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules promote
        yield


# What every version before the groups wrote: the settings of all models and likelihoods.
OLD = {
    "data": "svhn", "data_dir": None, "image_size": 28, "fraction": 1.0, "n_past": 2, "n_future": 10, "n_eval": None,
    "likelihood": "optimal-sigma", "beta": 1.0, "df": None, "components": 10, "decay": 0.99, "model": "conv-vae",
    "latent_dim": 20, "skip_connections": True, "log_var": "softplus", "dropout": 0.2, "dtype": "float32",
    "remat": False, "running_batch_norm": False, "epochs": 1, "batch_size": 128, "accumulate": 1, "optimizer": "adam",
    "learning_rate": 0.001, "lr_decay": 1.0, "lr_floor": 0.0, "clip_grad_norm": None, "skip_grad_norm": None,
    "max_skipped": 10, "ema_decay": None, "free_bits": 0.0, "kl_warmup": 0, "seed": 0, "run_dir": "runs/old",
    "parallel": "jit", "scan_steps": None, "resume": False, "save_every": 0, "eval_every": 1,
}  # fmt: skip

# Since then, with the value that means what the older version did.
ADDED = {"start_scales": False, "log": None, "adam_eps": 1e-8}


def test_a_config_of_an_older_version_opens():
    config = TrainConfig.from_flat(OLD)
    assert config == TrainConfig.for_model(data="svhn", image_size=28, epochs=1, run_dir="runs/old")
    assert config.flat().items() - ADDED.items() <= OLD.items()
    old_hvae = TrainConfig.from_flat({**OLD, "model": "hvae-small", "dropout": 0.1})
    assert isinstance(old_hvae.model, HVAESettings)
    assert old_hvae.model.dropout == 0.1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("likelihood", ["gaussian", "beta-gaussian"])
def test_flat_settings_and_groups_say_the_same(model, likelihood):
    config = TrainConfig.for_model(model, likelihood=likelihood, seed=3)
    assert TrainConfig.from_flat(config.flat()) == config
    assert ("n_past" in config.flat()) == config.is_video
    assert ("dropout" in config.flat()) == model.startswith("hvae")
    assert ("beta" in config.flat()) == (likelihood == "beta-gaussian")
    assert config.replace(epochs=7).run.epochs == 7
    assert config.replace(epochs=7).replace(epochs=config.run.epochs) == config


def test_groups_are_given_by_hand_too():
    config = TrainConfig(
        DataSettings("mnist"),
        ConvVAESettings(latent_dim=8),
        LikelihoodSettings("beta-gaussian", beta=0.1),
        run=RunSettings(epochs=2),
    )
    assert config == TrainConfig.for_model(data="mnist", latent_dim=8, likelihood="beta-gaussian", beta=0.1, epochs=2)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_named_likelihood_can_be_made(name):
    assert LikelihoodSettings(name).make().output_channels(3) >= 3


def test_settings_of_scales_and_gradients_reach_the_likelihood():
    assert LikelihoodSettings("shared-sigma", initial=0.1).make() == cx.shared_sigma(initial=0.1)
    assert LikelihoodSettings("laplace", initial=0.1).make() == cx.laplace(initial=0.1)
    assert LikelihoodSettings("pixel-sigma", beta_nll=0.5).make() == cx.pixel_sigma(beta_nll=0.5, faithful=False)
    assert LikelihoodSettings("pixel-sigma", faithful=True).make() == cx.pixel_sigma(beta_nll=0.0, faithful=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "--epochs is 0; expected at least 1"),
        ({"epochs": "3"}, "--epochs is '3'; expected a whole number"),
        ({"learning_rate": float("inf")}, "--learning-rate is inf; expected a positive number"),
        ({"fraction": 1.5}, "--fraction is 1.5; expected more than 0, at most 1"),
        ({"lr_floor": 1.0}, "--lr-floor is 1.0; expected at most the learning rate, 0.001"),
        ({"batch_size": 8, "accumulate": 3}, "--accumulate is 3; expected a divisor of the batch size, 8"),
        ({"scan_steps": 2, "parallel": "pmap"}, "--scan-steps is 2; expected 1 with --parallel pmap"),
        ({"resume": True}, "--resume needs --run-dir"),
        ({"beta": 0.0, "likelihood": "beta-gaussian"}, "beta is 0"),
        ({"beta_nll": 2.0, "likelihood": "pixel-sigma"}, "beta_nll is 2.0; expected a number in"),
        ({"beta_nll": 0.5, "faithful": True, "likelihood": "pixel-sigma"}, "beta_nll is 0.5; expected 0 with faithful"),
        ({"beta_nll": 0.5}, "--beta-nll has no meaning for --likelihood optimal-sigma"),
        ({"initial": 0.0, "likelihood": "laplace"}, "initial is 0.0; expected a number in"),
        ({"initial": 0.5}, "--initial has no meaning for --likelihood optimal-sigma"),
        ({"beta": 2.0}, "--beta has no meaning for --likelihood optimal-sigma"),
        ({"n_past": 3}, "--n-past has no meaning for --model conv-vae"),
        ({"model": "svg", "batch_size": 1}, "--batch-size is 1; expected more videos"),
        ({"model": "svg", "n_eval": 2}, "--n-eval is 2; expected more than the 2 frames"),
        ({"model": "hvae", "latent_dim": 7}, "--latent-dim has no meaning for --model hvae"),
        ({"model": "hvea"}, "--model 'hvea' is unknown; did you mean hvae"),
        ({"likelihood": "zzz"}, "--likelihood 'zzz' is unknown; expected one of gaussian"),
        ({"wings": 2}, "this version has no setting 'wings'"),
    ],
)
def test_a_setting_that_is_not_accepted_is_one_line(settings, message):
    with pytest.raises(ConfigError) as error:
        TrainConfig.from_flat(settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_another_family_are_refused():
    with pytest.raises(ConfigError, match="--model hvae has settings of another kind than ConvVAESettings"):
        ConvVAESettings("hvae")


def test_the_learning_rate_falls_by_a_millionth_per_step_to_its_floor():
    optimizer = TrainConfig.for_model("hvae").optimizer.make()
    params = {"w": jnp.zeros(1)}
    state = optimizer.init(params)
    updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
    np.testing.assert_allclose(updates["w"], -2e-3, rtol=1e-6)  # Adamax's first step is the learning rate

    def after(steps):
        moved = jax.tree.map(lambda leaf: jnp.asarray(steps) if leaf.dtype == jnp.int32 else leaf, state)
        rate, _ = optimizer.update({"w": jnp.ones(1)}, moved, params)
        return -float(rate["w"][0])

    # Compared at the same moments of the optimizer: the ratio of two steps' sizes is that of their learning rates.
    np.testing.assert_allclose(after(520_834) / after(100_000), 0.999999**420_834, rtol=1e-4)
    np.testing.assert_allclose(after(10_000_000) / after(100_000), 1e-4 / (2e-3 * 0.999999**100_000), rtol=1e-4)


def test_a_fast_decay_of_the_learning_rate_is_no_constant():
    optimizer = OptimizerSettings(lr_decay=0.4).make()
    state = optimizer.init({"w": jnp.zeros(1)})
    sizes = []
    for _ in range(3):
        updates, state = optimizer.update({"w": jnp.ones(1)}, state)
        sizes.append(-float(updates["w"][0]))
    np.testing.assert_allclose(sizes, [1e-3, 4e-4, 1.6e-4], rtol=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamax"])
def test_a_loss_times_a_factor_takes_the_same_step_with_epsilon_times_that_factor(name):
    def first_step(gradient, eps):
        optimizer = OptimizerSettings(name, adam_eps=eps).make()
        updates, _ = optimizer.update({"w": jnp.full(1, gradient)}, optimizer.init({"w": jnp.zeros(1)}))
        return float(updates["w"][0])

    np.testing.assert_allclose(first_step(1e-8, 1e-8), -0.5e-3, rtol=1e-5)
    np.testing.assert_allclose(first_step(1e-4, 1e-4), first_step(1e-8, 1e-8), rtol=1e-5)
    np.testing.assert_allclose(first_step(1e-4, 1e-8), -1e-3, rtol=1e-3)
