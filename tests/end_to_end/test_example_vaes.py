"""The VAEs of `examples/` in short: the nll falls, sigma is the error of the reconstructions, saved states restore."""

import importlib.util
import pickle
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = {"nnx_vae": 200, "equinox_vae": 150, "haiku_vae": 150}


def run(name, capsys):
    """The example as a module, what its `main` returns, and the -ELBOs and sigmas that it prints."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    if name == "nnx_vae":  # convolutions take most of the time
        example.WIDTH, example.LATENTS, example.BATCH_SIZE = 16, 8, 32
    result = example.main(["--data", "images.npz", "--steps", str(STEPS[name])])
    printed = capsys.readouterr().out
    neg_elbo, sigma = (np.float64(re.findall(rf"step .*{name} (-?[\d.]+)", printed)) for name in ("-ELBO", "sigma"))
    assert len(neg_elbo) == len(sigma) == STEPS[name] // 50
    return example, result, neg_elbo, sigma


@pytest.fixture(autouse=True)
def _relaxed():
    """JAX as users have it; optax's Adam and Haiku's layers mix ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(name="images", autouse=True)
def _images(tmp_path, monkeypatch):
    """Smooth images in the working directory, of which a few components are nearly all."""
    rng = np.random.default_rng(0)
    axis = np.linspace(0, np.pi, 8)
    modes = np.stack([np.outer(np.cos(i * axis), np.cos(j * axis)) for i in range(2) for j in range(2)])
    weights = rng.normal(size=(640, 4, 3))
    images = np.einsum("nkc,khw->nhwc", weights, modes) / 2 + rng.normal(size=(640, 8, 8, 3)) / 20
    pixels = np.uint8(np.clip(128 + 60 * images, 0, 255))
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", train=pixels[:512], test=pixels[512:])
    return pixels[512:]


def rmse(x, mean):
    return np.sqrt(np.mean(np.square(np.float64(x) / 255 - np.float64(mean))))


def assert_learned(neg_elbo, sigma, images):
    assert neg_elbo[-1] < neg_elbo[0]
    assert sigma[-1] < 0.9 * rmse(images, np.mean(images / 255))  # the error of a constant


def test_nnx(capsys, images):
    example, model, neg_elbo, sigma = run("nnx_vae", capsys)
    assert_learned(neg_elbo, sigma, images)
    outputs = model.outputs(jax.random.normal(jax.random.key(0), (len(images), example.LATENTS)))
    expected, _ = model.decode(outputs, images)
    fresh = example.VAE(images.shape[1:], rngs=nnx.Rngs(1))
    fresh.eval()
    assert np.abs(fresh.decode(outputs, images)[0] - expected).max() > 1
    example.restore(example.FOLDER / "checkpoint", fresh)
    np.testing.assert_array_equal(fresh.decode(outputs, images)[0], expected)
    z = jnp.ones((2, example.LATENTS))
    np.testing.assert_allclose(fresh.outputs(z), model.outputs(z), rtol=1e-6)
    assert (example.FOLDER / "samples.png").read_bytes()[:4] == b"\x89PNG"
    fresh.train()
    _, stats = fresh.decode(outputs, images)
    np.testing.assert_allclose(np.exp(stats["log_sigma"]), rmse(images, fresh.decode.mean(outputs)), rtol=1e-5)


def test_equinox(capsys, images):
    equinox = pytest.importorskip("equinox", reason="Equinox is not installed: pip install '.[examples]'")
    example, (model, state), neg_elbo, sigma = run("equinox_vae", capsys)
    assert_learned(neg_elbo, sigma, images)
    key = jax.random.key(0)
    expected, _ = example.neg_elbo(model, state, images, key, train=False)
    restored = equinox.tree_deserialise_leaves(example.FILE, example.create(images.shape[1:]))
    np.testing.assert_array_equal(example.neg_elbo(*restored, images, key, train=False)[0], expected)
    _, stats = example.neg_elbo(model, state, images, key, train=True)
    outputs, _, _ = jax.vmap(model)(jnp.asarray(images) / 255, jax.random.split(key, len(images)))
    mean = example.LIKELIHOOD.mean({}, state, outputs)
    np.testing.assert_allclose(np.exp(stats["log_sigma"]), rmse(images, mean), rtol=1e-5)


def test_haiku(capsys, images):
    pytest.importorskip("haiku", reason="Haiku is not installed: pip install '.[examples]'")
    example, (params, state), neg_elbo, sigma = run("haiku_vae", capsys)
    assert_learned(neg_elbo, sigma, images)
    assert float(state["decode"]["average"]["mse"]["weight"]) == pytest.approx(1 - 0.99 ** STEPS["haiku_vae"], rel=1e-4)
    key = jax.random.key(0)
    expected = example.evaluate(params, state, key, images)
    restored = pickle.loads(example.FILE.read_bytes())
    np.testing.assert_array_equal(example.evaluate(*restored, key, images), expected)
    (_, stats), _ = example.vae.apply(params, state, key, jnp.asarray(images), is_training=True)
    mean = jax.nn.sigmoid(stats["outputs"])
    np.testing.assert_allclose(np.exp(stats["log_sigma"]), rmse(images, mean), rtol=1e-5)
