"""The experiment with two modalities: without weights, the error of each is within 5 % of its own noise."""

import contextlib

import jax

from experiments import two_modalities as example


@contextlib.contextmanager
def as_a_user():
    """Switch off the strict promotion rules of the library's own tests."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def fit(make):
    with as_a_user():
        return example.fit(make())[0]


def test_the_joint_likelihood_reaches_the_noise_of_each_modality():
    results = fit(example.calibrated)
    for modality, noise in example.NOISE.items():
        assert abs(results[modality].rmse / noise - 1) < 0.05
        assert abs(results[modality].sigma / noise - 1) < 0.05


def test_a_sum_of_mean_squared_errors_does_not_reach_it():
    results = fit(example.plain_sum_of_mse)
    for modality, noise in example.NOISE.items():
        assert abs(results[modality].rmse / noise - 1) > 0.05


def test_the_command_refuses_mistakes_and_writes_a_picture(tmp_path, capsys):
    assert example.main(["--steps", "0"]) == 2
    out = tmp_path / "two.png"
    with as_a_user():
        assert example.main(["--steps", "2", "--out", str(out)]) == 0
    assert out.exists()
    assert "the noise itself" in capsys.readouterr().out
