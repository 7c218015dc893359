"""What a run is: one frozen dataclass."""

import dataclasses
import difflib
import functools
import itertools
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import calibrax as cx
from calibrax.runs.presets import LIKELIHOODS, MODEL_FIELDS, MODELS
from calibrax.training import StepOptions

# Settings of one likelihood.
LIKELIHOOD_FIELDS = {"beta": "beta-gaussian", "df": "student-t", "components": "logistic-mixture"}
TYPES_IN_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    types.NoneType: "nothing",
}


class ConfigError(ValueError):
    """A setting that cannot be; the message is one line for the user, whatever the value."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a VAE with a calibrated decoder. The defaults are those of the paper's experiments with the model named."""

    data: str = "svhn"
    """svhn, mnist, cifar10, frey_face, celeba, a TFDS name, street-digits, an .npz file, or a folder of images; for the
    video models bair, moving-digits, moving-mnist, moving-digits:IMAGES, or an .npz file of videos."""
    data_dir: str | None = None
    """Where prepared data and original files are looked for and kept (default: ~/tensorflow_datasets)."""
    image_size: int | None = None
    """Resize images to this height and width (antialiased bilinear); by default as they come."""
    fraction: float = 1.0
    """Share of the training images or videos to train on, the first ones; those to test on stay whole."""
    n_past: int = 2
    """Frames that a video model is given."""
    n_future: int = 10
    """Frames after those that a video model is trained to predict."""
    n_eval: int | None = None
    """Frames of a test video, those given included; by default all there are."""
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
    """Latent dimensions of conv-vae; of a step of time in the video models."""
    skip_connections: bool = True
    """The hierarchical models' deterministic connections beside the latents."""
    log_var: Literal["softplus", "tanh", "none"] = "softplus"
    """The function that gives the hierarchical models' log variances; softplus bounds every σ of theirs below by 1."""
    dropout: float = 0.2
    """Rate in the hierarchical models' inference network."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the network's computation; parameters, likelihoods and KLs are float32 always."""
    remat: bool = False
    """Recompute the hierarchical models' blocks, or the video models' steps of time, in the backward pass instead of
    keeping them in memory."""
    running_batch_norm: bool = False
    """Normalise the video models' test videos with the averages of training; the original keeps to the batch's own."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 128
    """Images in a batch, over all devices."""
    accumulate: int = 1
    """Parts in which a batch passes the network, for less memory."""
    optimizer: Literal["adam", "adamax"] = "adam"
    """With its usual settings."""
    learning_rate: float = 1e-3
    """The optimizer's, at the first step."""
    lr_decay: float = 1.0
    """Factor on the learning rate at each step."""
    lr_floor: float = 0.0
    """What the learning rate does not fall below."""
    clip_grad_norm: float | None = None
    """Scale gradients of a larger norm down to it."""
    skip_grad_norm: float | None = None
    """Discard updates whose gradient has a larger norm; those that are not finite are discarded anyway."""
    max_skipped: int = 10
    """Updates in a row that may be discarded before the run stops."""
    ema_decay: float | None = None
    """Evaluate a moving average of the parameters with this decay at each step, a smaller one in the first steps."""
    free_bits: float = 0.0
    """Nats of KL in each latent layer and image that the loss charges anyway; reported ELBOs know nothing of it."""
    kl_warmup: int = 0
    """Steps over which the KL's weight in the loss rises from 0 to 1."""
    seed: int = 0
    """Draws the parameters, the order of the data and the noise."""
    run_dir: str | None = None
    """Folder of the run (default: a new one under runs/)."""
    parallel: Literal["jit", "pmap", "sharded"] = "jit"
    """One device, or all of them by pmap or by sharded arrays."""
    scan_steps: int | None = None
    """Steps in one call, with the training images in the device's memory: for GPUs and TPUs (default: there 1; on one
    CPU as many as take two seconds, at most 8, on batches from the host)."""
    resume: bool = False
    """Go on with the run in --run-dir."""
    save_every: int = 0
    """Steps between checkpoints; 0: at the end of each epoch."""
    eval_every: int = 1
    """Epochs between evaluations and pictures; the last epoch always has them."""

    def __post_init__(self):
        _check_types(self)
        check_name("likelihood", self.likelihood, LIKELIHOODS)
        check_name("model", self.model, MODELS)
        for name in ("data", "data_dir", "run_dir"):
            value = getattr(self, name)
            _check(name, repr(value), value is None or _may_be_a_path(value), "a name or a path")
        numbers = "epochs", "batch_size", "latent_dim", "eval_every", "accumulate", "n_past", "n_future"
        for name in numbers:
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _check("scan_steps", self.scan_steps, self.scan_steps is None or self.scan_steps >= 1, "at least 1")
        _check("epochs", self.epochs, self.epochs < 2**31, "less than 2^31")
        _check("latent_dim", self.latent_dim, self.latent_dim <= 2**20, "at most 2^20")
        for name in ("save_every", "seed", "max_skipped", "kl_warmup"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 2**32, "in [0, 2^32)")
        if self.image_size is not None:
            _check("image_size", self.image_size, self.image_size >= 4, "at least 4")
            _check("image_size", self.image_size, self.image_size <= 2**14, "at most 2^14")
        if self.n_eval is not None:
            _check(
                "n_eval", self.n_eval, self.n_eval > self.n_past, f"more than the {self.n_past} frames that are given"
            )
        _check("fraction", self.fraction, 0 < self.fraction <= 1, "more than 0, at most 1")
        for name in ("learning_rate", "clip_grad_norm", "skip_grad_norm"):
            value = getattr(self, name)
            _check(name, value, value is None or 0 < value < math.inf, "a positive number")
        for name in ("lr_floor", "free_bits"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "a finite number from 0")
        start = f"at most the learning rate, {self.learning_rate}"
        _check("lr_floor", self.lr_floor, self.lr_floor <= self.learning_rate, start)
        _check("lr_decay", self.lr_decay, 0 < self.lr_decay <= 1, "more than 0, at most 1")
        _check("dropout", self.dropout, 0 <= self.dropout < 1, "at least 0, less than 1")
        _check("ema_decay", self.ema_decay, self.ema_decay is None or 0 < self.ema_decay < 1, "between 0 and 1")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"--accumulate is {self.accumulate}; expected a divisor of the batch size, {self.batch_size}"
            )
        if self.is_video and self.batch_size // self.accumulate < 2:
            alone = "batch norm takes its statistics from several" + (" in each part" if self.accumulate > 1 else "")
            raise ConfigError(f"--batch-size is {self.batch_size}; expected more videos: {alone}")
        preset = MODELS[self.model]
        for field in dataclasses.fields(self):
            if field.name in MODEL_FIELDS - preset.fields and getattr(self, field.name) != field.default:
                raise ConfigError(f"--{field.name.replace('_', '-')} has no meaning for --model {self.model}")
        for name, likelihood in LIKELIHOOD_FIELDS.items():
            if self.likelihood != likelihood and getattr(self, name) != getattr(TrainConfig, name):
                raise ConfigError(f"--{name} has no meaning for --likelihood {self.likelihood}")
        if (self.scan_steps or 1) > 1 and self.parallel != "jit":
            raise ConfigError(f"--scan-steps is {self.scan_steps}; expected 1 with --parallel {self.parallel}")
        if self.resume and self.run_dir is None:
            raise ConfigError("--resume needs --run-dir, the folder of the run to go on with")
        try:
            self.make_likelihood()
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @property
    def is_video(self) -> bool:
        """Whether the model is one of videos."""
        return MODELS[self.model].is_video

    def make_likelihood(self) -> cx.Likelihood:
        """Of an image, or of a video's frames."""
        likelihood = LIKELIHOODS[self.likelihood](self)
        return cx.framewise(likelihood) if self.is_video else likelihood

    def make_model(self, image_shape: tuple[int, int, int]) -> nn.Module:
        """For images, or frames, (H, W, C)."""
        return MODELS[self.model].make(self, image_shape)

    def make_optimizer(self) -> optax.GradientTransformation:
        rate: Any = self.learning_rate
        if self.lr_decay < 1:
            rate = functools.partial(_decayed, self.learning_rate, math.log(self.lr_decay), self.lr_floor)
        optimizer = {"adam": optax.adam, "adamax": optax.adamax}[self.optimizer](rate)
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

    @classmethod
    def for_model(cls, model: str, **settings: Any) -> "TrainConfig":
        """The defaults of a model's experiments, with these settings changed."""
        check_name("model", model, MODELS)
        return cls(model=model, **{**MODELS[model].defaults, **settings})


def _decayed(start: float, log_decay: float, floor: float, step: jax.Array) -> jax.Array:
    """max(floor, start·decay^step); the logarithm keeps the digits that 0.999999 has not in float32."""
    return jnp.maximum(floor, start * jnp.exp(log_decay * step))


def model_table() -> str:
    """Each preset's input, latent shapes and parameter count, read off abstract shapes; the likelihoods' names."""
    lines = [f"{'model':<12}{'input':<10}{'parameters':>12}  latents"]
    for name, preset in MODELS.items():
        for image_shape in preset.image_shapes:
            model: Any = TrainConfig.for_model(name).make_model(image_shape)
            frames = (2,) if preset.is_video else ()
            image = jax.ShapeDtypeStruct((1, *frames, *image_shape), jnp.float32)
            variables = jax.eval_shape(model.init, jax.random.key(0), image, jax.random.key(0))
            count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
            lines.append(f"{name:<12}{_spelled(image_shape):<10}{count:>12,}  {_listed(model.latent_shapes)}")
    return "\n".join(
        [
            *lines,
            "",
            "with a three- or one-channel mean; the svg models are of videos, their latents of one step of time",
            "",
            "likelihoods: " + ", ".join(LIKELIHOODS),
        ]
    )


def _spelled(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _listed(shapes: Iterable[tuple[int, ...]]) -> str:
    """Bottom first; the latents of maps of one size in one list."""
    parts = []
    for space, group in itertools.groupby(shapes, key=lambda shape: shape[:-1]):
        widths = ",".join(str(shape[-1]) for shape in group)
        parts.append(f"{_spelled(space)}x({widths})" if space else widths)
    return " ".join(parts)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(known)}"


def check_name(field: str, name: str, table: dict) -> None:
    """Raise ConfigError, in one line, for a name that is not in the table."""
    if name not in table:
        raise ConfigError(f"--{field} {name!r} is unknown; {nearest(name, table)}")


def _check_types(config: TrainConfig) -> None:
    """Settings of the types that the fields have: those of a file, or of somebody's program, may be any."""
    for name, kind in _field_types().items():
        value = getattr(config, name)
        kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        if not any(_is_of_type(value, one) for one in kinds):
            expected = " or ".join(TYPES_IN_WORDS.get(one) or ", ".join(typing.get_args(one)) for one in kinds)
            raise ConfigError(f"--{name.replace('_', '-')} is {value!r}; expected {expected}")


@functools.cache
def _field_types() -> dict[str, Any]:
    return typing.get_type_hints(TrainConfig)


def _is_of_type(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if kind in (int, float):
        return isinstance(value, kind | int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _may_be_a_path(text: str) -> bool:
    return bool(text.strip()) and "\0" not in text


def _check(field: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"--{field.replace('_', '-')} is {value}; expected {expected}")
