"""Figures from a run's newest checkpoint (`calibrax sample`): samples, futures, what a hierarchy's layers hold."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from calibrax.evaluation import generate, partial_samples, traversal
from calibrax.evaluation.figures.hierarchy import save_partial_samples, save_traversal
from calibrax.evaluation.figures.images import save_grid
from calibrax.evaluation.figures.video import save_prediction
from calibrax.evaluation.metrics.prediction import measure_predictions
from calibrax.runs.folder import check_length
from calibrax.runs.run import Run
from calibrax.runs.settings import ConfigError, Settings, setting

NUM_COLUMNS = 12  # test images at most


@dataclasses.dataclass(frozen=True)
class SampleSettings(Settings):
    """Draw images from a run's newest checkpoint into a PNG; or futures of a test video, into a PNG and a GIF."""

    run: str
    """The run's folder."""
    num: int = setting(64, "1 to 10000", lambda value: 1 <= value <= 10_000)
    """How many images; of a video model, how many futures, of which the best and a random one are shown."""
    out: str | None = setting(None, "a name that ends in .png", lambda value: Path(value).suffix.lower() == ".png")
    """The PNG to write (default: samples.png in the run's folder); a GIF gets the same name."""
    seed: int = setting(0, "a number in [0, 2^32)", lambda value: 0 <= value < 2**32)
    """The latents and the noise are drawn from this seed."""
    clip: int = 1
    """Of a video model: which test video to continue, from 1."""
    noise: bool = False
    """Draw from p(x|z) instead of showing its mean."""
    temperature: float = setting(1.0, "a finite number from 0", lambda value: 0 <= value < math.inf)
    """Multiplies the standard deviation of the prior's draws; below 1, images are more likely and less varied."""
    layers: Literal["none", "top", "bottom"] = "none"
    """Of a hierarchical model: test images with more and more layers drawn from the prior, from this side."""
    traverse: int = 0
    """Of a hierarchical model: move the latents of this layer of a test image, 1 the bottom; 0: none."""
    data: str | None = None
    """Where the file or folder of images is now, if it was moved."""
    data_dir: str | None = None
    """Where prepared data and original files are now, if they were moved."""

    def __post_init__(self):
        super().__post_init__()
        if self.layers != "none" and self.traverse:
            raise ConfigError("--layers and --traverse are two pictures; give one of them")

    def check_read(self, is_video: bool) -> None:
        """Refuse settings that the requested figure does not read."""
        if self.noise and is_video:
            raise ConfigError("--noise is for images; of videos the means of p(x|z) are shown")
        unread: dict[str, tuple[str, ...]] = {"a model of images": () if is_video else ("clip",)}
        if self.layers != "none":
            unread["--layers"] = ("num", "clip", "noise")
        elif self.traverse:
            unread["--traverse"] = ("num", "clip", "noise", "temperature")
        for figure, names in unread.items():
            for name in names:
                if getattr(self, name) != getattr(SampleSettings, name):
                    raise ConfigError(f"--{name} has no meaning for {figure}")


def sample(settings: SampleSettings) -> Path:
    """Draw the figure that the settings ask for; returns the path of the PNG.

    Raises:
      ConfigError, RunError: for a user's mistake, in one line; nothing is written.
    """
    if settings.out is not None:
        check_length(f"--out {settings.out}", settings.out)
    run = Run.open(settings.run, settings.data_dir, data=settings.data)
    settings.check_read(run.data.is_video)
    if settings.layers != "none":
        return _layers(run, settings)
    if settings.traverse:
        return _traversal(run, settings)
    return _futures(run, settings) if run.data.is_video else _images(run, settings)


def _images(run: Run, settings: SampleSettings) -> Path:
    """A grid of samples: means of p(x | z), or draws from it."""
    state, out = run.saved_state(), Path(settings.out or run.folder / "samples.png")
    options: dict = {"noise": settings.noise, "temperature": settings.temperature}
    images = generate(run.trained(state), settings.num, key=jax.random.key(settings.seed), **options)
    what = "draws from p(x|z)" if settings.noise else "means of p(x|z)"
    title = f"{run.caption(state)}: {what}, z from the prior{_at_temperature(settings)}"
    save_grid(out, images.clip(0, 1), title=title)
    return out


def _futures(run: Run, settings: SampleSettings) -> Path:
    """One test video: the truth, the best of the sampled futures, a random one, and the reconstruction.

    The clips after it in the test set make a batch with it, as batch norm needs one.
    """
    total, clip = len(run.test), settings.clip
    if not 1 <= clip <= total:
        raise ConfigError(f"--clip is {clip}; expected 1 to {total}, the test videos")
    order = (clip - 1 + np.arange(min(total, run.config.run.batch_size))) % total
    state, past, out = run.saved_state(), run.past, Path(settings.out or run.folder / "samples.png")
    options: dict = {"key": jax.random.key(settings.seed), "temperature": settings.temperature}
    found = measure_predictions(run.trained(state), run.test[order], past=past, num_samples=settings.num, **options)
    at_temperature = _at_temperature(settings)
    title = f"{run.caption(state)}: test video {clip}" + (f", the prior{at_temperature}" if at_temperature else "")
    save_prediction(out.with_suffix(""), found.film, past, title=title)
    return out


def _layers(run: Run, settings: SampleSettings) -> Path:
    """Test images with more and more layers drawn from the prior, from the top or from the bottom."""
    _num_layers(run)
    side = "top" if settings.layers == "top" else "bottom"
    state, images, out = run.saved_state(), run.test[:NUM_COLUMNS], settings.out or run.folder / f"layers_{side}.png"
    options: dict = {"key": jax.random.key(settings.seed), "temperature": settings.temperature}
    samples = partial_samples(run.trained(state), images, side=side, **options)
    save_partial_samples(out, samples.clip(0, 1), images, side=side, title=f"{run.caption(state)}: {side} layers")
    return Path(out)


def _traversal(run: Run, settings: SampleSettings) -> Path:
    """The first test image while the most active dimensions of one layer move."""
    num, layer = _num_layers(run), settings.traverse
    if not 1 <= layer <= num:
        raise ConfigError(f"--traverse is {layer}; expected 1, the bottom layer, to {num}")
    state, out = run.saved_state(), Path(settings.out or run.folder / f"traversal_{layer}.png")
    moved = traversal(run.trained(state), run.test[:256], layer=layer, key=jax.random.key(settings.seed))
    save_traversal(out, moved._replace(images=moved.images.clip(0, 1)), title=f"{run.caption(state)}: layer {layer}")
    return out


def _at_temperature(settings: SampleSettings) -> str:
    return "" if settings.temperature == 1 else f" at temperature {settings.temperature:g}"


def _num_layers(run: Run) -> int:
    num = len(run.model.latent_shapes)
    if num == 1:
        raise ConfigError(f"{run.model_name} has one layer of latents; --layers and --traverse are for several")
    return num
