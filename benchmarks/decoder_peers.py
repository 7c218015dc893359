"""Worker of `benchmarks.decoders`: calibrax and the JAX libraries that it is compared with.

The table of each library maps a decoder to `(x, **parameters) -> -log p` of each example, [B]. Validation of arguments
is off: it costs time, and intensities are not valid Bernoulli draws. Reads one JSON request per line on stdin and
answers each with one line of JSON: `{"versions": null}`, `{"prepare": [LIBRARY, DECODER, FOLDER]}`, `{"time": [LIBRARY,
CALLS]}`.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

Table = dict[str, Callable[..., jax.Array]]
BITS = np.arange(7, -1, -1, dtype=np.uint8)  # most significant first
TRIALS = 31  # of the binomial distribution


def of_calibrax() -> Table:
    from calibrax import likelihoods

    def nll_alone(function):
        return lambda x, **parameters: function(x, **parameters)[0]

    names = [name for name in likelihoods.__all__ if name.endswith("_nll")]
    table = {name.removesuffix("_nll"): nll_alone(getattr(likelihoods, name)) for name in names}
    return table | {"binomial": lambda x, logits: likelihoods.binomial_nll(x, logits, TRIALS)[0]}


def of_numpyro() -> Table:
    """NumPyro has no continuous Bernoulli. A bin is an interval-censored observation, whose ends may be open."""
    import numpyro
    from numpyro import distributions as dist

    numpyro.enable_validation(False)

    def bins(x):
        level = x.astype(jnp.float32)
        return jnp.stack([level - 0.5, level + 0.5], -1)

    def in_bins(base, x):
        return dist.IntervalCensoredDistribution(base, x == 0, x == 255).log_prob(bins(x))

    def logistic_mixture(x, mixture_logits, means, log_scales):
        logistic = dist.Logistic(255 * channels_last(means), 255 * jnp.exp(channels_last(log_scales)))
        data = x[..., None, :]  # the data alone decide which ends are open
        components = dist.IntervalCensoredDistribution(logistic, data == 0, data == 255).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=mixture_logits), components).log_prob(bins(x))

    log_probs = {
        "gaussian": lambda x, mean, log_sigma: dist.Normal(mean, jnp.exp(log_sigma)).log_prob(x),
        "optimal_sigma": lambda x, mean: dist.Normal(mean, rms(x - mean)).log_prob(x),
        "student_t": lambda x, mean, log_scale, df: dist.StudentT(df, mean, jnp.exp(log_scale)).log_prob(x),
        "laplace": lambda x, mean, log_scale: dist.Laplace(mean, jnp.exp(log_scale)).log_prob(x),
        "bernoulli": lambda x, logits: dist.BernoulliLogits(logits).log_prob(x),
        "categorical": lambda x, logits: dist.CategoricalLogits(logits).log_prob(x),
        "bitwise_categorical": lambda x, logits: dist.BernoulliLogits(logits).log_prob(bits_of(x)),
        "discretized_gaussian": lambda x, mean, log_sigma: in_bins(
            dist.Normal(255 * mean, 255 * jnp.exp(log_sigma)), x
        ),
        "discretized_logistic": lambda x, mean, log_scale: in_bins(
            dist.Logistic(255 * mean, 255 * jnp.exp(log_scale)), x
        ),
        "logistic_mixture": logistic_mixture,
        "poisson": lambda x, log_rate: dist.Poisson(jnp.exp(log_rate)).log_prob(x),
        "negative_binomial": lambda x, log_mean, log_dispersion: dist.NegativeBinomial2(
            jnp.exp(log_mean), jnp.exp(log_dispersion)
        ).log_prob(x),
        "binomial": lambda x, logits: dist.BinomialLogits(logits, TRIALS).log_prob(x),
        "von_mises": lambda x, direction, log_concentration: dist.VonMises(
            angle_of(direction), jnp.exp(log_concentration)
        ).log_prob(x),
    }
    return {name: summed(log_prob) for name, log_prob in log_probs.items()}


def of_distrax() -> Table:
    """Distrax has neither Student-t, nor the continuous Bernoulli, nor counts."""
    import distrax

    def quantized(base):
        return distrax.Quantized(base, low=0.0, high=255.0)

    def logistic_mixture(x, mixture_logits, means, log_scales):
        logistic = distrax.Logistic(255 * channels_last(means) - 0.5, 255 * jnp.exp(channels_last(log_scales)))
        components = distrax.Independent(quantized(logistic), 1)
        mixture = distrax.MixtureSameFamily(distrax.Categorical(logits=mixture_logits), components)
        return mixture.log_prob(x.astype(jnp.float32))

    log_probs = {
        "gaussian": lambda x, mean, log_sigma: distrax.Normal(mean, jnp.exp(log_sigma)).log_prob(x),
        "optimal_sigma": lambda x, mean: distrax.Normal(mean, rms(x - mean)).log_prob(x),
        "laplace": lambda x, mean, log_scale: distrax.Laplace(mean, jnp.exp(log_scale)).log_prob(x),
        "bernoulli": lambda x, logits: distrax.Bernoulli(logits=logits).log_prob(x),
        "categorical": lambda x, logits: distrax.Categorical(logits=logits).log_prob(x),
        "bitwise_categorical": lambda x, logits: distrax.Bernoulli(logits=logits).log_prob(bits_of(x)),
        # Quantized rounds up; shifted by half a level, it rounds to the nearest.
        "discretized_gaussian": lambda x, mean, log_sigma: quantized(
            distrax.Normal(255 * mean - 0.5, 255 * jnp.exp(log_sigma))
        ).log_prob(x.astype(jnp.float32)),
        "discretized_logistic": lambda x, mean, log_scale: quantized(
            distrax.Logistic(255 * mean - 0.5, 255 * jnp.exp(log_scale))
        ).log_prob(x.astype(jnp.float32)),
        "logistic_mixture": logistic_mixture,
        "von_mises": lambda x, direction, log_concentration: distrax.VonMises(
            angle_of(direction), jnp.exp(log_concentration)
        ).log_prob(x),
    }
    return {name: summed(log_prob) for name, log_prob in log_probs.items()}


def of_tfp() -> Table:
    from tensorflow_probability.substrates.jax import distributions as tfd

    def quantized(base):
        return tfd.QuantizedDistribution(base, low=0.0, high=255.0)

    def logistic_mixture(x, mixture_logits, means, log_scales):
        logistic = tfd.Logistic(255 * channels_last(means) - 0.5, 255 * jnp.exp(channels_last(log_scales)))
        components = tfd.Independent(quantized(logistic), 1)
        mixture = tfd.MixtureSameFamily(tfd.Categorical(logits=mixture_logits), components)
        return mixture.log_prob(x.astype(jnp.float32))

    log_probs = {
        "gaussian": lambda x, mean, log_sigma: tfd.Normal(mean, jnp.exp(log_sigma)).log_prob(x),
        "optimal_sigma": lambda x, mean: tfd.Normal(mean, rms(x - mean)).log_prob(x),
        "student_t": lambda x, mean, log_scale, df: tfd.StudentT(df, mean, jnp.exp(log_scale)).log_prob(x),
        "laplace": lambda x, mean, log_scale: tfd.Laplace(mean, jnp.exp(log_scale)).log_prob(x),
        "bernoulli": lambda x, logits: tfd.Bernoulli(logits=logits).log_prob(x),
        "continuous_bernoulli": lambda x, logits: tfd.ContinuousBernoulli(logits=logits).log_prob(x),
        "categorical": lambda x, logits: tfd.Categorical(logits=logits).log_prob(x.astype(jnp.int32)),
        "bitwise_categorical": lambda x, logits: tfd.Bernoulli(logits=logits).log_prob(bits_of(x)),
        # The shift by half a level rounds to the nearest, as in the documentation of QuantizedDistribution.
        "discretized_gaussian": lambda x, mean, log_sigma: quantized(
            tfd.Normal(255 * mean - 0.5, 255 * jnp.exp(log_sigma))
        ).log_prob(x.astype(jnp.float32)),
        "discretized_logistic": lambda x, mean, log_scale: quantized(
            tfd.Logistic(255 * mean - 0.5, 255 * jnp.exp(log_scale))
        ).log_prob(x.astype(jnp.float32)),
        "logistic_mixture": logistic_mixture,
        "poisson": lambda x, log_rate: tfd.Poisson(log_rate=log_rate).log_prob(x),
        "negative_binomial": lambda x, log_mean, log_dispersion: tfd.NegativeBinomial(
            jnp.exp(log_dispersion), logits=log_mean - log_dispersion
        ).log_prob(x),
        "binomial": lambda x, logits: tfd.Binomial(float(TRIALS), logits=logits).log_prob(x),
        "von_mises": lambda x, direction, log_concentration: tfd.VonMises(
            angle_of(direction), jnp.exp(log_concentration)
        ).log_prob(x),
    }
    return {name: summed(log_prob) for name, log_prob in log_probs.items()}


TABLES = {"calibrax": of_calibrax, "numpyro": of_numpyro, "distrax": of_distrax, "tfp": of_tfp}
PACKAGES = {"calibrax": ["calibrax"], "numpyro": ["numpyro"], "distrax": ["distrax"]}
PACKAGES["tfp"] = ["tfp-nightly", "tensorflow-probability"]


def summed(log_prob: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """-log p of each example from log p of each pixel or sub-pixel, summed as the libraries' `Independent` sums."""

    def nll(x, **parameters):
        values = log_prob(x, **parameters)
        return -jnp.sum(values, tuple(range(1, values.ndim)))

    return nll


def rms(error: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(error)))


def bits_of(x: jax.Array) -> jax.Array:
    """[...] uint8 -> [..., 8] float32."""
    return ((x[..., None] >> BITS) & 1).astype(jnp.float32)


def angle_of(direction: jax.Array) -> jax.Array:
    """[..., 2] -> [...]: the libraries' von Mises distributions have an angle, which a network emits as a direction."""
    return jnp.arctan2(direction[..., 1], direction[..., 0])


def channels_last(parameter: jax.Array) -> jax.Array:
    """[..., C, K] -> [..., K, C]: the libraries' mixtures have the event after the components."""
    return jnp.swapaxes(parameter, -1, -2)


def value_and_gradient(nll: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """`(parameters, x) -> (mean over the batch, its gradients)`."""

    def loss(parameters, x):
        return jnp.mean(nll(x, **parameters))

    return jax.value_and_grad(loss)


class Worker:
    """The libraries, the arrays of one decoder, and the functions compiled for them."""

    def __init__(self):
        self.tables: dict[str, Table] = {}
        self.decoder = None

    def versions(self, _):
        found, missing = {"jax": jax.__version__}, {}
        for library, table in TABLES.items():
            try:
                self.tables[library] = table()
            except ImportError as error:
                missing[library] = str(error)
            else:
                found[library] = version_of(PACKAGES[library])
        return {"found": found, "missing": missing}

    def prepare(self, request):
        """Compile, run once, write value and gradients to FOLDER/LIBRARY. None if the library has no such decoder."""
        library, decoder, folder = request
        if decoder != self.decoder:
            self.decoder, self.compiled = decoder, {}  # release the old arrays before loading the new ones
            self.x = jnp.asarray(np.load(Path(folder) / "x.npy"))
            self.parameters = jax.tree.map(jnp.asarray, dict(np.load(Path(folder) / "parameters.npz")))
        if decoder not in self.tables[library]:
            return None
        try:
            function = value_and_gradient(self.tables[library][decoder])
            compiled = jax.jit(function).lower(self.parameters, self.x).compile()
            value, gradients = compiled(self.parameters, self.x)
        except Exception as error:  # a peer's failure is a result of the benchmark
            return {"failure": f"{type(error).__name__}: {error}".split("\n")[0]}
        target = Path(folder) / library
        target.mkdir()
        for name, array in {"value": value, **gradients}.items():
            np.save(target / f"{name}.npy", np.asarray(array))
        self.compiled[library] = compiled
        analysis = compiled.memory_analysis()
        return {} if analysis is None else {"temporaries": analysis.temp_size_in_bytes}

    def time(self, request):
        library, calls = request
        compiled = self.compiled[library]
        begin = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(compiled(self.parameters, self.x))
        return time.perf_counter() - begin


def version_of(packages: list[str]) -> str:
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def main():
    worker = Worker()
    for line in sys.stdin:
        ((request, argument),) = json.loads(line).items()
        print(json.dumps(getattr(worker, request)(argument)), flush=True)


if __name__ == "__main__":
    main()
