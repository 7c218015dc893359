"""What a run is: five groups of settings in one frozen dataclass."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp
import optax
from flax import linen as nn

import calibrax as cx
from calibrax.runs.presets import MODELS, ConvVAESettings, HVAESettings, LikelihoodSettings, SVGSettings
from calibrax.runs.settings import ConfigError, Settings, as_flag, check_name, flag, setting, unread
from calibrax.training import StepOptions

AT_LEAST_1 = "at least 1", lambda value: value >= 1
IN_32_BITS = "in [0, 2^32)", lambda value: 0 <= value < 2**32
POSITIVE = "a positive number", lambda value: 0 < value < math.inf
FINITE_FROM_0 = "a finite number from 0", lambda value: 0 <= value < math.inf
SHARE = "more than 0, at most 1", lambda value: 0 < value <= 1
A_PATH = "a name or a path", lambda value: bool(value.strip()) and "\0" not in value


@dataclasses.dataclass(frozen=True)
class DataSettings(Settings):
    """The data set."""

    group: ClassVar[str] = "data"

    name: Annotated[str, flag("data")] = setting("svhn", *A_PATH)
    """svhn, mnist, cifar10, frey_face, celeba, a TFDS name, street-digits, an .npz file, or a folder of images; for the
    video models bair, moving-digits, moving-mnist, moving-digits:IMAGES, or an .npz file of videos."""
    data_dir: str | None = setting(None, *A_PATH)
    """The folder of prepared data and original files (default: TFDS_DATA_DIR if set, or ~/tensorflow_datasets)."""
    image_size: int | None = setting(None, "at least 4, at most 2^14", lambda value: 4 <= value <= 2**14)
    """Resize images to this height and width (antialiased bilinear); by default they keep their size."""
    fraction: float = setting(1.0, *SHARE)
    """Share of the training images or videos to train on, the first ones; the test part stays whole."""


@dataclasses.dataclass(frozen=True)
class OptimizerSettings(Settings):
    """The optimizer, and what else a training step does."""

    group: ClassVar[str] = "optimizer"

    name: Annotated[Literal["adam", "adamax"], flag("optimizer")] = "adam"
    """The optimizer, with its usual settings."""
    learning_rate: float = setting(1e-3, *POSITIVE)
    """The learning rate at the first step."""
    lr_decay: float = setting(1.0, *SHARE)
    """Factor on the learning rate at each step."""
    lr_floor: float = setting(0.0, *FINITE_FROM_0)
    """The learning rate does not fall below this."""
    adam_eps: float = setting(1e-8, *POSITIVE)
    """The ε of Adam and Adamax, which is added to the size of a gradient before it divides."""
    clip_grad_norm: float | None = setting(None, *POSITIVE)
    """Scale gradients of a larger norm down to this norm."""
    skip_grad_norm: float | None = setting(None, *POSITIVE)
    """Discard updates whose gradient has a larger norm; updates that are not finite are always discarded."""
    ema_decay: float | None = setting(None, "between 0 and 1", lambda value: 0 < value < 1)
    """Evaluate a moving average of the parameters with this decay per step (a smaller decay in the first steps)."""
    free_bits: float = setting(0.0, *FINITE_FROM_0)
    """Nats of KL per latent layer and image that the loss charges in any case; reported ELBOs do not contain them."""
    kl_warmup: int = setting(0, *IN_32_BITS)
    """Steps over which the weight of the KL in the loss rises from 0 to 1."""
    accumulate: int = setting(1, *AT_LEAST_1)
    """Number of parts in which a batch passes through the network, to save memory."""

    def __post_init__(self):
        super().__post_init__()
        if self.lr_floor > self.learning_rate:
            raise ConfigError(
                f"--lr-floor is {self.lr_floor}; expected at most the learning rate, {self.learning_rate}"
            )

    def make(self) -> optax.GradientTransformation:
        """The optax transformation."""
        rate: Any = self.learning_rate
        if self.lr_decay < 1:
            # 0.999999 has too few digits in float32, its 1000th power enough; that of a fast decay would be 0 instead.
            steps = 1000 if self.lr_decay > 0.99 else 1
            rate = optax.exponential_decay(rate, steps, self.lr_decay**steps, end_value=self.lr_floor)
        optimizer = {"adam": optax.adam, "adamax": optax.adamax}[self.name](rate, eps=self.adam_eps)
        if self.clip_grad_norm is None:
            return optimizer
        return optax.chain(optax.clip_by_global_norm(self.clip_grad_norm), optimizer)

    def make_step_options(self) -> StepOptions:
        return StepOptions(
            free_bits=self.free_bits,
            kl_warmup=self.kl_warmup,
            ema_decay=self.ema_decay,
            skip_grad_norm=math.inf if self.skip_grad_norm is None else self.skip_grad_norm,
            accumulate=self.accumulate,
        )


@dataclasses.dataclass(frozen=True)
class RunSettings(Settings):
    """Length, seed, devices and folder of the run."""

    epochs: int = setting(10, "at least 1, less than 2^31", lambda value: 1 <= value < 2**31)
    """Passes over the training images."""
    batch_size: int = setting(128, *AT_LEAST_1)
    """Images per batch, over all devices."""
    seed: int = setting(0, *IN_32_BITS)
    """The parameters, the order of the data and the noise are drawn from this seed."""
    run_dir: str | None = setting(None, *A_PATH)
    """Folder of the run (default: a new one under runs/)."""
    parallel: Literal["jit", "pmap", "sharded"] = "jit"
    """One device (jit) or all devices: sharded is the standard; pmap, which JAX only maintains, is the alternative."""
    scan_steps: int | None = setting(None, *AT_LEAST_1)
    """Steps per call, with the training images in the device's memory: for GPUs and TPUs (default there: 1; on one CPU
    as many as take two seconds, at most 8, on batches from the host)."""
    resume: bool = False
    """Resume the run in --run-dir."""
    save_every: int = setting(0, *IN_32_BITS)
    """Steps between checkpoints; 0: at the end of each epoch only."""
    eval_every: int = setting(1, *AT_LEAST_1)
    """Epochs between evaluations with pictures; the last epoch always has one."""
    start_scales: bool = False
    """Begin with the learned scales that are best for the first batch, rather than with --initial."""
    max_skipped: int = setting(10, *IN_32_BITS)
    """Number of updates in a row that may be discarded before the run stops."""
    log: tuple[Literal["tensorboard", "wandb", "trackio"], ...] | None = setting(
        None, "each name once", lambda value: len(set(value)) == len(value)
    )
    """Where numbers and pictures go besides the run's folder; --log alone for nowhere (default: tensorboard, if
    tensorboardX is installed)."""

    def __post_init__(self):
        super().__post_init__()
        if (self.scan_steps or 1) > 1 and self.parallel != "jit":
            raise ConfigError(f"--scan-steps is {self.scan_steps}; expected 1 with --parallel {self.parallel}")
        if self.resume and self.run_dir is None:
            raise ConfigError("--resume needs --run-dir, the folder of the run to resume")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a VAE with a calibrated decoder. The defaults are those of the paper's experiments with the chosen model.

    Attributes:
      data: the data set.
      model: the network; the class of these settings says which.
      likelihood: the decoding distribution.
      optimizer: the optimizer, and what else a step does.
      run: length, seed, devices and folder.

    Raises:
      ConfigError: for settings that do not fit together.

    Example:
      >>> config = TrainConfig(DataSettings("mnist"), ConvVAESettings(latent_dim=8), run=RunSettings(epochs=2))
      >>> config = TrainConfig.for_model("hvae", data="cifar10", epochs=2)  # flat names, with the model's own defaults
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ConvVAESettings | HVAESettings | SVGSettings = field(default_factory=ConvVAESettings)
    likelihood: LikelihoodSettings = field(default_factory=LikelihoodSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self):
        batch_size, accumulate = self.run.batch_size, self.optimizer.accumulate
        if batch_size % accumulate:
            raise ConfigError(f"--accumulate is {accumulate}; expected a divisor of the batch size, {batch_size}")
        if self.is_video and batch_size // accumulate < 2:
            several = "batch norm takes its statistics from several" + (" in each part" if accumulate > 1 else "")
            raise ConfigError(f"--batch-size is {batch_size}; expected more videos: {several}")

    @property
    def is_video(self) -> bool:
        """True if the model is one of videos."""
        return self.model.is_video

    def make_likelihood(self) -> cx.Likelihood:
        """The likelihood of an image, or of a video."""
        likelihood = self.likelihood.make()
        return cx.framewise(likelihood) if self.is_video else likelihood

    def make_model(self, image_shape: tuple[int, ...], likelihood: cx.Likelihood | None = None) -> nn.Module:
        """The model of images or frames (H, W, C), for the likelihood given (default: that of the settings)."""
        channels = (likelihood or self.make_likelihood()).output_channels(image_shape[-1])
        dtype = None if self.model.dtype == "float32" else jnp.dtype(self.model.dtype)
        return self.model.make(image_shape=image_shape, output_channels=channels, dtype=dtype)

    @classmethod
    def for_model(cls, model: str = ConvVAESettings.name, **settings: Any) -> "TrainConfig":
        """The defaults of a model's experiments, with these settings changed.

        Args:
          model: a preset.
          **settings: settings by flat name, that of the command line: `data="mnist"`, `latent_dim=8`.

        Raises:
          ConfigError: for an unknown setting, or one that the model or the likelihood does not read.
        """
        check_name("model", model, MODELS)
        return cls.from_flat({"model": model, **MODELS[model].defaults, **settings})

    @classmethod
    def from_flat(cls, settings: Mapping[str, Any]) -> "TrainConfig":
        """A config from settings by flat name; settings that are not given have their groups' defaults."""
        model = settings.get("model", ConvVAESettings.name)
        if isinstance(model, str):
            check_name("model", model, MODELS)
        family: Any = MODELS[model].settings if isinstance(model, str) else ConvVAESettings  # which refuses the type
        kinds: dict[str, Any] = {"data": DataSettings, "model": family, "likelihood": LikelihoodSettings}
        kinds |= {"optimizer": OptimizerSettings, "run": RunSettings}
        unused, groups = dict(settings), {}
        for group, kind in kinds.items():
            named = kind.fields_by_flat_name().items()
            groups[group] = kind(**{field.name: unused.pop(name) for name, field in named if name in unused})
        _check_of_other_families(unused, model)
        return cls(**groups)

    def flat(self) -> dict[str, Any]:
        """The settings that this run reads, by flat name."""
        groups = (getattr(self, field.name) for field in dataclasses.fields(self))
        return {name: value for group in groups for name, value in group.flat().items()}

    def replace(self, **settings: Any) -> "TrainConfig":
        """The same config with some settings changed, by flat name."""
        return self.from_flat(self.flat() | settings)


def _check_of_other_families(settings: Mapping[str, Any], model: str) -> None:
    """Refuse settings that no group has, and settings of other model families that have been changed.

    Older versions wrote the settings of all families, at their defaults, into every config.json.
    """
    fields: dict[str, Any] = {}
    for preset in MODELS.values():
        fields |= preset.settings.fields_by_flat_name()
    for name, value in settings.items():
        if name not in fields:
            raise ConfigError(f"{as_flag(name)} is unknown: this version has no setting {name!r}")
        if value != fields[name].default:
            raise unread(name, "model", model)
