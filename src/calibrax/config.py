"""What a run is: one frozen dataclass, and the names that the command line gives to likelihoods and models."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import calibrax as cx
from calibrax.models import ConvVAE


class ConfigError(ValueError):
    """A setting that cannot be; the message is one line for the user."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a VAE with a calibrated decoder. The defaults are the paper's SVHN experiment (appendix B)."""

    data: str = "svhn"
    """svhn, mnist, cifar10, frey_face, another TFDS name, street-digits, an .npz file, or a folder of images."""
    data_dir: str | None = None
    """Where prepared data and original files are looked for and kept (default: ~/tensorflow_datasets)."""
    image_size: int | None = None
    """Resize images to this height and width (antialiased bilinear); by default as they come."""
    fraction: float = 1.0
    """Share of the training images to train on, the first ones; the test images stay whole."""
    likelihood: str = "optimal-sigma"
    """The decoder's distribution; `calibrax models` lists the names."""
    beta: float = 1.0
    """The β of beta-gaussian: a constant variance β/2."""
    df: float | None = None
    """Degrees of freedom of student-t; None: emitted by the network."""
    components: int = 10
    """Components of logistic-mixture."""
    decay: float = 0.99
    """Decay of the running average of the optimal scale."""
    model: str = "conv-vae"
    """A preset; `calibrax models` lists them."""
    latent_dim: int = 20
    """Latent dimensions."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 128
    """Images in a batch, over all devices."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    seed: int = 0
    """Draws the parameters, the order of the data and the noise."""
    run_dir: str | None = None
    """Folder of the run (default: a new one under runs/)."""
    parallel: Literal["jit", "pmap", "sharded"] = "jit"
    """One device, or all of them by pmap or by sharded arrays."""
    resume: bool = False
    """Go on with the run in --run-dir."""
    save_every: int = 0
    """Steps between checkpoints; 0: at the end of each epoch."""
    eval_every: int = 1
    """Epochs between evaluations and pictures; the last epoch always has them."""

    def __post_init__(self):
        check_name("likelihood", self.likelihood, LIKELIHOODS)
        check_name("model", self.model, MODELS)
        for name in ("epochs", "batch_size", "latent_dim", "eval_every"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("save_every", "seed"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 2**32, "in [0, 2^32)")
        if self.image_size is not None:
            _check("image_size", self.image_size, self.image_size >= 4, "at least 4")
        _check("fraction", self.fraction, 0 < self.fraction <= 1, "more than 0, at most 1")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate < float("inf"), "a positive number")
        if self.resume and self.run_dir is None:
            raise ConfigError("--resume needs --run-dir, the folder of the run to go on with")
        try:
            self.make_likelihood()
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def make_likelihood(self) -> cx.Likelihood:
        return LIKELIHOODS[self.likelihood](self)

    def make_model(self, image_shape: tuple[int, int, int]) -> nn.Module:
        return MODELS[self.model](self, image_shape)

    def make_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


LIKELIHOODS: dict[str, Callable[[TrainConfig], cx.Likelihood]] = {
    "gaussian": lambda config: cx.gaussian(),
    "beta-gaussian": lambda config: cx.beta_gaussian(config.beta),
    "shared-sigma": lambda config: cx.shared_sigma(),
    "optimal-sigma": lambda config: cx.optimal_sigma(decay=config.decay),
    "optimal-sigma-per-image": lambda config: cx.optimal_sigma(axis="image", decay=config.decay),
    "optimal-sigma-per-pixel": lambda config: cx.optimal_sigma(axis="pixel", decay=config.decay),
    "optimal-sigma-per-channel": lambda config: cx.optimal_sigma(axis="channel", decay=config.decay),
    "pixel-sigma": lambda config: cx.pixel_sigma(),
    "student-t": lambda config: cx.student_t(config.df),
    "laplace": lambda config: cx.laplace(),
    "optimal-laplace": lambda config: cx.optimal_laplace(decay=config.decay),
    "bernoulli": lambda config: cx.bernoulli(),
    "continuous-bernoulli": lambda config: cx.continuous_bernoulli(),
    "categorical": lambda config: cx.categorical(),
    "bitwise-categorical": lambda config: cx.bitwise_categorical(),
    "logistic-mixture": lambda config: cx.logistic_mixture(config.components),
    "discretized-gaussian": lambda config: cx.discretized_gaussian(),
    "discretized-logistic": lambda config: cx.discretized_logistic(),
}

MODELS: dict[str, Callable[[TrainConfig, tuple[int, int, int]], nn.Module]] = {
    "conv-vae": lambda config, image_shape: ConvVAE(
        image_shape=image_shape,
        output_channels=config.make_likelihood().output_channels(image_shape[-1]),
        latent_dim=config.latent_dim,
    ),
}


def model_table() -> str:
    """Each preset's input and latent shapes and parameter count, read off abstract shapes; the likelihoods' names."""
    lines = [f"{'model':<12}{'input':<14}{'latents':<10}{'parameters':>12}"]
    for name in MODELS:
        for image_shape in ((28, 28, 3), (28, 28, 1), (32, 32, 3), (28, 20, 1)):
            model = TrainConfig(model=name).make_model(image_shape)
            image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
            variables = jax.eval_shape(model.init, jax.random.key(0), image, jax.random.key(0))
            count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
            shape = "x".join(map(str, image_shape))
            lines.append(f"{name:<12}{shape:<14}{model.latent_dim:<10}{count:>12,}")
    return "\n".join([*lines, "", "with a three- or one-channel mean", "", "likelihoods: " + ", ".join(LIKELIHOODS)])


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(known)}"


def check_name(field: str, name: str, table: dict) -> None:
    """Raise ConfigError, in one line, for a name that is not in the table."""
    if name not in table:
        raise ConfigError(f"--{field} {name!r} is unknown; {nearest(name, table)}")


def _check(field: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"--{field.replace('_', '-')} is {value}; expected {expected}")
