"""The examples in the docstrings of public names run, and print what stands there."""

import doctest
import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from public_names import PUBLIC

import calibrax as cx
import calibrax.linen
import calibrax.models
import calibrax.nnx
from calibrax import evaluation
from calibrax.runs import ConvVAESettings, DataSettings, RunSettings

X = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))


def common_names() -> dict[str, object]:
    """What examples use without making it: a likelihood, data, and what a decoder emits."""
    likelihood = cx.shared_sigma()
    params, state = likelihood.init((8, 8, 3))
    return {
        "cx": cx, "calibrax": cx, "train": X, "jax": jax, "jnp": jnp, "np": np, "key": jax.random.key(1),
        "likelihood": likelihood, "params": params, "state": state,
        "x": X, "images": X, "batches": [X, X], "pairs": [(jnp.zeros_like(X), X)],
        "outputs": jnp.zeros_like(X), "z": jnp.zeros((4, 2)), "features": jnp.zeros((4, 8, 8, 5)),
        "counts": jnp.ones((4, 3), int), "rewards": jnp.zeros(4), "logits": jnp.zeros((4, 255)),
        "angles": jnp.zeros((4, 3)), "directions": jnp.ones((4, 6)),
        "predict": lambda inputs: jnp.zeros(4), "targets": jnp.ones(4),
        "decode": lambda *args: jnp.zeros_like(X), "decoder": lambda z: jnp.zeros_like(X),
    }  # fmt: skip


def names_of_a_vae() -> dict[str, object]:
    """A small network, untrained, as evaluation takes it."""
    images = jax.random.uniform(jax.random.key(0), (12, 28, 28, 3))
    likelihood = cx.optimal_sigma()
    model = cx.models.ConvVAE((28, 28, 3), likelihood.output_channels(3), latent_dim=2)
    variables = model.init(jax.random.key(0), images, jax.random.key(0))
    params, state = likelihood.init((28, 28, 3))
    trained = evaluation.Trained(model, likelihood, {"model": variables["params"], "likelihood": params}, state)
    return {"images": images, "variables": variables, "trained": trained}


class LinenVAE(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        noise = jax.random.normal(self.make_rng("latent"), x.shape)
        return calibrax.linen.Decode(cx.optimal_sigma())(nn.Dense(3)(x) + noise, x, train)


class NnxModel(nnx.Module):
    def __init__(self):
        self.decode = calibrax.nnx.Decode(cx.optimal_sigma(), (8, 8, 3))

    def __call__(self, x):
        return self.decode(jnp.zeros_like(x), x)


def names_of_linen_calibrate() -> dict[str, object]:
    key = jax.random.key(0)
    variables = LinenVAE().init({"params": key, "latent": key}, X)
    return {"vae": LinenVAE(), "variables": variables, "train_batches": [X, X]}


RUNS = DataSettings, ConvVAESettings, RunSettings
OWN_NAMES = {  # of single examples, beside the common ones
    "categorical_nll": lambda: {"outputs": jnp.zeros((4, 8, 8, 768))},
    "categorical_nll_from_features": lambda: {"params": {"kernel": jnp.zeros((5, 768)), "bias": jnp.zeros(768)}},
    "negative_binomial_nll": lambda: {"counts": jnp.ones((4, 3)), "outputs": jnp.zeros((4, 3))},
    "likelihoods.von_mises_nll": lambda: {"outputs": jnp.ones((4, 6))},
    "linen.calibrate": names_of_linen_calibrate,
    "nnx.calibrate": lambda: {"model": NnxModel(), "train_batches": [X, X]},
    "nnx.CategoricalHead": lambda: {"features": jnp.zeros((4, 8, 8, 64))},
    "nnx.Decode": lambda: {"x": jnp.zeros((4, 28, 28, 3)), "outputs": jnp.zeros((4, 28, 28, 3))},
    "models.ConvVAE": names_of_a_vae,
    "models.HVAE": lambda: {"images": jnp.zeros((4, 32, 32, 3))},
    "models.SVG": lambda: {
        "videos": jnp.zeros((2, 12, 64, 64, 3)),
        "likelihood": cx.framewise(cx.optimal_sigma()),
        "state": cx.framewise(cx.optimal_sigma()).init((11, 64, 64, 3))[1],
    },
    "frechet_distance": lambda: {name: np.random.default_rng(0).normal(size=(9, 3)) for name in FEATURES},
    "measure_information": names_of_a_vae,
    "TrainConfig": lambda: {setting.__name__: setting for setting in RUNS},
}
FEATURES = "real_features", "generated_features"


def run(examples: list[doctest.Example], names: dict[str, object], name: str) -> None:
    """Run the examples as a doctest: what they print must be what stands there."""
    found = doctest.DocTestRunner(verbose=False)
    failed, _ = found.run(doctest.DocTest(examples, names, name, None, None, None))
    assert not failed


def examples_of(value) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(value) or "")


ONCE = {id(value): name for name, value in PUBLIC.items()}  # an object may be public in two modules
ELSEWHERE = {"calibrax.nnx.Functional"}  # tests/end_to_end/test_nnx_model.py trains such a model
EXAMPLES = {name: PUBLIC[name] for name in ONCE.values() if examples_of(PUBLIC[name]) and name not in ELSEWHERE}


def test_every_decoder_combinator_and_objective_has_an_example():
    modules = "calibrax.likelihoods.", "calibrax.objectives.", "calibrax.running_average."
    names = [name for name in PUBLIC if name.startswith(modules) and inspect.isroutine(PUBLIC[name])]
    assert [name for name in names if not examples_of(PUBLIC[name])] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_docstring_runs(name):
    value = EXAMPLES[name]
    for library in ("numpyro", "distrax"):
        if name.endswith(f"to_{library}"):
            pytest.importorskip(library)
    own = next((make for end, make in OWN_NAMES.items() if name.endswith(end)), dict)
    names = vars(cx) | vars(inspect.getmodule(inspect.unwrap(value))) | common_names() | own()
    examples = examples_of(value)
    if name in ("calibrax.linen.Decode", "calibrax.linen.CategoricalHead"):  # these stand inside of a module

        class Outer(nn.Module):
            @nn.compact
            def __call__(self):
                run(examples, names, name)

        Outer().init(jax.random.key(0))
    elif name in ("calibrax.models.HVAE", "calibrax.models.SVG"):  # large: traced, not computed
        jax.eval_shape(lambda: run(examples, names, name))
    elif name.endswith("to_numpyro"):
        numpyro = importlib.import_module("numpyro")
        with numpyro.handlers.seed(rng_seed=0):
            run(examples, names | {"numpyro": numpyro}, name)
    else:
        run(examples, names, name)
