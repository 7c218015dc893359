"""The likelihoods and models that the command line knows by name, and the settings of each model family."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import calibrax as cx
from calibrax.models import CIFAR_STAGES, DENSE_STAGES, HVAE, SVG, ConvVAE, StageSpec
from calibrax.runs.settings import ConfigError, Settings, check_name, flag, setting

LATENT_DIM = "at least 1, at most 2^20", lambda value: 1 <= value <= 2**20


@dataclasses.dataclass(frozen=True)
class LikelihoodSettings(Settings):
    """The decoding distribution."""

    group: ClassVar[str] = "likelihood"

    name: Annotated[str, flag("likelihood")] = "optimal-sigma"
    """The decoder's distribution; `calibrax models` lists the names."""
    beta: float = setting(1.0, only=["beta-gaussian"])
    """The β of beta-gaussian: a constant variance β/2."""
    df: float | None = setting(None, only=["student-t"])
    """Degrees of freedom of student-t; None: emitted by the network."""
    components: int = setting(10, only=["logistic-mixture"])
    """Components of logistic-mixture."""
    decay: float = 0.99
    """Decay of the running average of the optimal scale."""
    initial: float = setting(1.0, only=["shared-sigma", "laplace"])
    """The scale of shared-sigma and laplace before training; images are in [0, 1]."""
    beta_nll: float = setting(0.0, only=["pixel-sigma"])
    """β of the β-NLL of pixel-sigma, 0 to 1: gradients are multiplied by σ^(2β)."""
    faithful: bool = setting(False, only=["pixel-sigma"])
    """Train the mean of pixel-sigma as by the squared error, and σ by the likelihood."""

    def __post_init__(self):
        super().__post_init__()
        try:
            self.make()
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _check_name(self) -> None:
        check_name(self.group, self.name, LIKELIHOODS)

    def make(self) -> cx.Likelihood:
        """The likelihood of one image, or of one frame of a video."""
        return LIKELIHOODS[self.name](self)


LIKELIHOODS: dict[str, Callable[[LikelihoodSettings], cx.Likelihood]] = {
    "gaussian": lambda settings: cx.gaussian(),
    "beta-gaussian": lambda settings: cx.beta_gaussian(settings.beta),
    "shared-sigma": lambda settings: cx.shared_sigma(initial=settings.initial),
    "optimal-sigma": lambda settings: cx.optimal_sigma(decay=settings.decay),
    "optimal-sigma-per-image": lambda settings: cx.optimal_sigma(axis="image", decay=settings.decay),
    "optimal-sigma-per-pixel": lambda settings: cx.optimal_sigma(axis="pixel", decay=settings.decay),
    "optimal-sigma-per-channel": lambda settings: cx.optimal_sigma(axis="channel", decay=settings.decay),
    "pixel-sigma": lambda settings: cx.pixel_sigma(beta_nll=settings.beta_nll, faithful=settings.faithful),
    "student-t": lambda settings: cx.student_t(settings.df),
    "laplace": lambda settings: cx.laplace(initial=settings.initial),
    "optimal-laplace": lambda settings: cx.optimal_laplace(decay=settings.decay),
    "bernoulli": lambda settings: cx.bernoulli(),
    "continuous-bernoulli": lambda settings: cx.continuous_bernoulli(),
    "categorical": lambda settings: cx.categorical(),
    "bitwise-categorical": lambda settings: cx.bitwise_categorical(),
    "logistic-mixture": lambda settings: cx.logistic_mixture(settings.components),
    "discretized-gaussian": lambda settings: cx.discretized_gaussian(),
    "discretized-logistic": lambda settings: cx.discretized_logistic(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """What all models read. Subclasses have a field `name`, the preset, and say which network it names."""

    group: ClassVar[str] = "model"
    is_video: ClassVar[bool] = False

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the network's computation; parameters, likelihoods and KLs are always float32."""

    def _check_name(self) -> None:
        check_name(self.group, self.name, MODELS)
        if MODELS[self.name].settings is not type(self):
            raise ConfigError(f"--model {self.name} has settings of another kind than {type(self).__name__}")

    def make(self, **arguments: Any) -> nn.Module:
        """The model; `arguments` are the image shape (H, W, C), the output channels and the dtype of its module."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ConvVAESettings(ModelSettings):
    """The small convolutional network."""

    name: Annotated[str, flag("model")] = "conv-vae"
    """A preset; `calibrax models` lists them."""
    latent_dim: int = setting(20, *LATENT_DIM)
    """Latent dimensions."""

    def make(self, **arguments):
        return ConvVAE(latent_dim=self.latent_dim, **arguments)


@dataclasses.dataclass(frozen=True)
class HVAESettings(ModelSettings):
    """The hierarchical VAE."""

    name: Annotated[str, flag("model")] = "hvae"
    """A preset; `calibrax models` lists them."""
    skip_connections: bool = True
    """Deterministic connections beside the latents."""
    log_var: Literal["softplus", "tanh", "none"] = "softplus"
    """The function that gives the log variances of the latents; softplus makes every σ at least 1."""
    dropout: float = setting(0.2, "at least 0, less than 1", lambda value: 0 <= value < 1)
    """Dropout rate in the inference network."""
    remat: bool = False
    """Recompute the blocks in the backward pass instead of keeping them in memory."""

    def make(self, **arguments):
        return HVAE(
            **MODELS[self.name].sizes,
            skip=self.skip_connections,
            log_var=self.log_var,
            dropout=self.dropout,
            remat=self.remat,
            **arguments,
        )


@dataclasses.dataclass(frozen=True)
class SVGSettings(ModelSettings):
    """The video model."""

    is_video: ClassVar[bool] = True

    name: Annotated[str, flag("model")] = "svg"
    """A preset; `calibrax models` lists them."""
    latent_dim: int = setting(20, *LATENT_DIM)
    """Latent dimensions of one step of time."""
    n_past: int = setting(2, "at least 1", lambda value: value >= 1)
    """Frames that the model is given."""
    n_future: int = setting(10, "at least 1", lambda value: value >= 1)
    """Frames after those that the model is trained to predict."""
    n_eval: int | None = None
    """Frames of a test video, including the given ones; by default all."""
    remat: bool = False
    """Recompute the steps of time in the backward pass instead of keeping them in memory."""
    running_batch_norm: bool = False
    """Normalise test videos with the averages of training; the original uses each batch's own statistics."""

    def __post_init__(self):
        super().__post_init__()
        if self.n_eval is not None and self.n_eval <= self.n_past:
            raise ConfigError(
                f"--n-eval is {self.n_eval}; expected more than the {self.n_past} frames that are given, --n-past"
            )

    def make(self, **arguments):
        return SVG(
            **MODELS[self.name].sizes,
            z_dim=self.latent_dim,
            n_past=self.n_past,
            running_average_at_test=self.running_batch_norm,
            remat=self.remat,
            **arguments,
        )


class Preset(NamedTuple):
    """A model by name.

    Attributes:
      settings: the settings of its family.
      sizes: the arguments of the model that the name decides.
      defaults: settings by flat name, of any group, in which its experiments differ from the small network's.
      image_shapes: for the table of models.
    """

    settings: type[ModelSettings]
    sizes: dict[str, Any]
    defaults: dict[str, Any]
    image_shapes: tuple[tuple[int, ...], ...]


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
    "epochs": 417,  # of 432 steps on `bair`: the 180,000 updates of the original, which calls 600 updates an epoch
}
# Small enough that a CPU trains it on moving digits in minutes.
SMALL_SVG: dict[str, Any] = {"backbone": "dcgan", "features": 12, "g_dim": 48, "rnn_size": 96, "predictor_layers": 1}
SMALL_SVG_DEFAULTS = {"data": "moving-digits", "batch_size": 32, "latent_dim": 8, "learning_rate": 2e-3, "epochs": 4}

MODELS: dict[str, Preset] = {
    "conv-vae": Preset(ConvVAESettings, {}, {}, ((28, 28, 3), (28, 28, 1), (32, 32, 3), (28, 20, 1))),
    "hvae": Preset(HVAESettings, {"stages": tuple(CIFAR_STAGES)}, HVAE_DEFAULTS, ((32, 32, 3), (64, 64, 3))),
    "hvae-dense": Preset(HVAESettings, {"stages": tuple(DENSE_STAGES)}, HVAE_DEFAULTS, ((28, 28, 1),)),
    "hvae-small": Preset(HVAESettings, {"stages": SMALL_STAGES}, HVAE_DEFAULTS, ((32, 32, 3),)),
    "svg": Preset(SVGSettings, {"backbone": "vgg"}, SVG_DEFAULTS, ((64, 64, 3),)),
    "svg-dcgan": Preset(SVGSettings, {"backbone": "dcgan"}, SVG_DEFAULTS, ((64, 64, 3),)),
    "svg-small": Preset(SVGSettings, SMALL_SVG, SMALL_SVG_DEFAULTS, ((64, 64, 1),)),
}


def model_table() -> str:
    """Input, latent shapes and parameter count of each preset, from abstract shapes, and the likelihoods' names."""
    lines = [f"{'model':<12}{'input':<10}{'parameters':>12}  latents"]
    for name, preset in MODELS.items():
        defaults = {key: preset.defaults[key] for key in ("latent_dim",) if key in preset.defaults}
        settings: Any = preset.settings(**{"name": name, **defaults})
        for image_shape in preset.image_shapes:
            model = settings.make(image_shape=image_shape, output_channels=image_shape[-1])
            frames = (2,) if preset.settings.is_video else ()
            image = jax.ShapeDtypeStruct((1, *frames, *image_shape), jnp.float32)
            variables = jax.eval_shape(model.init, jax.random.key(0), image, jax.random.key(0))
            count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
            lines.append(f"{name:<12}{_joined(image_shape):<10}{count:>12,}  {_latents(model.latent_shapes)}")
    note = "with a three- or one-channel mean; the svg models are of videos, their latents of one step of time"
    return "\n".join([*lines, "", note, "", "likelihoods: " + ", ".join(LIKELIHOODS)])


def _joined(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _latents(shapes: Iterable[tuple[int, ...]]) -> str:
    """Bottom layer first; the latent maps of one size share a pair of brackets."""
    parts = []
    for space, group in itertools.groupby(shapes, key=lambda shape: shape[:-1]):
        widths = ",".join(str(shape[-1]) for shape in group)
        parts.append(f"{_joined(space)}x({widths})" if space else widths)
    return " ".join(parts)
