"""The names that the command line gives to likelihoods and models: what each makes of a run's settings."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

import calibrax as cx
from calibrax.models import CIFAR_STAGES, DENSE_STAGES, HVAE, SVG, ConvVAE, StageSpec

Config = Any  # a `config.TrainConfig`, which checks itself against these tables

LIKELIHOODS: dict[str, Callable[[Config], cx.Likelihood]] = {
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

# Settings that belong to a model; each reads some of them.
SVG_FIELDS = frozenset({"latent_dim", "remat", "n_past", "n_future", "n_eval", "running_batch_norm"})
HVAE_FIELDS = frozenset({"skip_connections", "log_var", "dropout", "remat"})
MODEL_FIELDS = SVG_FIELDS | HVAE_FIELDS


class Preset(NamedTuple):
    """A model by name."""

    make: Callable[[Config, tuple[int, int, int]], nn.Module]
    fields: frozenset[str]  # those of MODEL_FIELDS that it reads
    defaults: dict[str, Any]  # of its fields, where its experiments differ from the small network's
    image_shapes: tuple[tuple[int, int, int], ...]  # for the table of models
    is_video: bool = False  # of videos, each frame an image


def _conv_vae(config: Config, image_shape: tuple[int, int, int]) -> nn.Module:
    channels = config.make_likelihood().output_channels(image_shape[-1])
    return ConvVAE(image_shape, channels, config.latent_dim, dtype=_dtype(config))


def _hvae(stages: Iterable[StageSpec], config: Config, image_shape: tuple[int, int, int]) -> nn.Module:
    return HVAE(
        image_shape=image_shape,
        output_channels=config.make_likelihood().output_channels(image_shape[-1]),
        stages=tuple(stages),
        skip=config.skip_connections,
        log_var=config.log_var,
        dropout=config.dropout,
        dtype=_dtype(config),
        remat=config.remat,
    )


def _svg(sizes: dict[str, Any], config: Config, image_shape: tuple[int, int, int]) -> nn.Module:
    return SVG(
        image_shape=image_shape,
        output_channels=config.make_likelihood().output_channels(image_shape[-1]),
        z_dim=config.latent_dim,
        n_past=config.n_past,
        running_average_at_test=config.running_batch_norm,
        dtype=_dtype(config),
        remat=config.remat,
        **sizes,
    )


def _dtype(config: Config) -> Any:
    return None if config.dtype == "float32" else jnp.dtype(config.dtype)


HVAE_DEFAULTS: dict[str, Any] = {
    "batch_size": 48,
    "optimizer": "adamax",
    "learning_rate": 2e-3,
    "lr_decay": 0.999999,
    "lr_floor": 1e-4,
    "ema_decay": 0.9995,
    "free_bits": 2.0,
}
# Six latent maps and narrow blocks: a hierarchy that a CPU trains in minutes.
SMALL_STAGES = (
    StageSpec(16, 5, 2, 8, 5),
    StageSpec(16, 3, 1, 6, 5),
    StageSpec(16, 3, 1, 4, 5),
    StageSpec(16, 3, 2, 4, 3),
    StageSpec(16, 3, 1, 3, 3),
    StageSpec(16, 3, 2, 2, 3),
)
SVG_DEFAULTS: dict[str, Any] = {
    "data": "bair",
    "batch_size": 100,
    "latent_dim": 64,
    "learning_rate": 2e-3,
    "epochs": 417,  # of 432 steps on `bair`: the 180,000 updates of the original, whose epochs are 600 of them
}
# What a CPU trains on moving digits in minutes.
SMALL_SVG: dict[str, Any] = {"backbone": "dcgan", "features": 12, "g_dim": 48, "rnn_size": 96, "predictor_layers": 1}
SMALL_SVG_DEFAULTS = {"data": "moving-digits", "batch_size": 32, "latent_dim": 8, "learning_rate": 2e-3, "epochs": 4}

MODELS: dict[str, Preset] = {
    "conv-vae": Preset(_conv_vae, frozenset({"latent_dim"}), {}, ((28, 28, 3), (28, 28, 1), (32, 32, 3), (28, 20, 1))),
    "hvae": Preset(functools.partial(_hvae, CIFAR_STAGES), HVAE_FIELDS, HVAE_DEFAULTS, ((32, 32, 3), (64, 64, 3))),
    "hvae-dense": Preset(functools.partial(_hvae, DENSE_STAGES), HVAE_FIELDS, HVAE_DEFAULTS, ((28, 28, 1),)),
    "hvae-small": Preset(functools.partial(_hvae, SMALL_STAGES), HVAE_FIELDS, HVAE_DEFAULTS, ((32, 32, 3),)),
    "svg": Preset(functools.partial(_svg, {"backbone": "vgg"}), SVG_FIELDS, SVG_DEFAULTS, ((64, 64, 3),), True),
    "svg-dcgan": Preset(functools.partial(_svg, {"backbone": "dcgan"}), SVG_FIELDS, SVG_DEFAULTS, ((64, 64, 3),), True),
    "svg-small": Preset(functools.partial(_svg, SMALL_SVG), SVG_FIELDS, SMALL_SVG_DEFAULTS, ((64, 64, 1),), True),
}
