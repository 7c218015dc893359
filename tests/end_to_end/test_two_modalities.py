"""The example of two modalities keeps its word: no weights, and each within 5 % of its own noise."""

import contextlib

import jax

from experiments import two_modalities as example


@contextlib.contextmanager
def as_a_user():
    """Without the strictness of the library's own tests."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def fit(make):
    with as_a_user():
        return example.fit(make())[0]


def test_joint_reaches_each_modality_s_noise():
    results = fit(example.calibrated)
    for modality, noise in example.NOISE.items():
        assert abs(results[modality].rmse / noise - 1) < 0.05
        assert abs(results[modality].sigma / noise - 1) < 0.05


def test_a_plain_sum_of_mean_squared_errors_does_not():
    results = fit(example.plain_sum_of_mse)
    for modality, noise in example.NOISE.items():
        assert abs(results[modality].rmse / noise - 1) > 0.05


def test_mistakes_and_the_picture(tmp_path, capsys):
    assert example.main(["--steps", "0"]) == 2
    out = tmp_path / "two.png"
    with as_a_user():
        assert example.main(["--steps", "2", "--out", str(out)]) == 0
    assert out.exists()
    assert "the noise itself" in capsys.readouterr().out
