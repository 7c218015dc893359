"""Pictures from a run's newest checkpoint (`calibrax sample`): samples, futures, what a hierarchy's layers hold."""

from pathlib import Path

import jax
import numpy as np

from calibrax.runs.config import ConfigError
from calibrax.evaluation import generate
from calibrax.evaluation.figures.images import save_grid
from calibrax.evaluation.metrics.hierarchy import Side, partial_samples, traversal
from calibrax.evaluation.figures.hierarchy import save_partial_samples, save_traversal
from calibrax.evaluation.metrics.prediction import measure_predictions
from calibrax.evaluation.figures.video import save_prediction
from calibrax.runs.run import Run

NUM_COLUMNS = 12  # test images at most


def sample(
    run: Run,
    num: int,
    path: str | Path | None = None,
    seed: int = 0,
    *,
    noise: bool = False,
    temperature: float = 1.0,
) -> Path:
    """Draws from the model into a PNG; returns where it is.

    Args:
      run: with a checkpoint.
      num: how many.
      path: the file; by default `samples.png` in the run's folder.
      seed: draws the latents, and the noise.
      noise: draw from p(x | z) instead of showing its mean.
      temperature: what multiplies the standard deviation of the prior's draws.
    """
    state = run.saved_state()
    images = generate(*run.trained(state), num, key=jax.random.key(seed), noise=noise, temperature=temperature)
    path = Path(path) if path else run.folder / "samples.png"
    what = "draws from p(x|z)" if noise else "means of p(x|z)"
    where = "the prior" if temperature == 1 else f"the prior at temperature {temperature:g}"
    save_grid(path, images.clip(0, 1), title=f"{run.caption(state)}: {what}, z from {where}")
    return path


def sample_futures(
    run: Run,
    num: int,
    path: str | Path | None = None,
    seed: int = 0,
    *,
    clip: int = 1,
    temperature: float = 1.0,
) -> Path:
    """One test video as it went on, as the best of `num` samples and a random one go on, and reconstructed.

    A film strip in a PNG and an animation in a GIF beside it. The clips before and after it make a batch with it, as
    batch norm wants one.

    Args:
      run: with a checkpoint, of a video model.
      num: K, how many samples.
      path: the PNG; by default `samples.png` in the run's folder.
      seed: draws the latents.
      clip: which test video, 1 the first.
      temperature: what multiplies the standard deviation of the prior's draws.

    Returns:
      Where the film strip is.

    Raises:
      ConfigError: if there is no such video.
    """
    total = len(run.test)
    if not 1 <= clip <= total:
        raise ConfigError(f"--clip is {clip}; expected 1 to {total}, the test videos")
    order = (clip - 1 + np.arange(min(total, run.config.batch_size))) % total
    state, past = run.saved_state(), run.config.n_past
    options: dict = {"key": jax.random.key(seed), "temperature": temperature}
    found = measure_predictions(run.trained(state), run.test[order], past=past, num_samples=num, **options)
    path = Path(path) if path else run.folder / "samples.png"
    title = f"{run.caption(state)}: test video {clip}"
    title += "" if temperature == 1 else f", the prior at temperature {temperature:g}"
    save_prediction(path.with_suffix(""), found.films[0], past, title=title)
    return path


def sample_layers(
    run: Run, side: Side, path: str | Path | None = None, seed: int = 0, temperature: float = 1.0
) -> Path:
    """Test images with more and more of their layers drawn from the prior, into a PNG; returns where it is.

    Args:
      run: with a checkpoint, of a hierarchical model.
      side: whether those layers are the top or the bottom ones.
      path: the file; by default `layers_top.png` or `layers_bottom.png` in the run's folder.
      seed: draws the latents.
      temperature: what multiplies the standard deviation of the prior's draws.

    Raises:
      ConfigError: for a model without layers.
    """
    _check_layers(run)
    state, images = run.saved_state(), run.test[:NUM_COLUMNS]
    key = jax.random.key(seed)
    samples = partial_samples(run.trained(state), images, side=side, key=key, temperature=temperature)
    path = Path(path) if path else run.folder / f"layers_{side}.png"
    save_partial_samples(path, samples.clip(0, 1), images, side=side, title=f"{run.caption(state)}: {side} layers")
    return path


def traverse(run: Run, layer: int, path: str | Path | None = None, seed: int = 0) -> Path:
    """The most active dimensions of one layer of the first test image, each moved, into a PNG; returns where it is.

    Args:
      run: with a checkpoint, of a hierarchical model.
      layer: 1, the bottom, to L.
      path: the file; by default `traversal_LAYER.png` in the run's folder.
      seed: draws the latents.

    Raises:
      ConfigError: for a model without layers, or without this one.
    """
    _check_layers(run)
    num = len(run.model.latent_shapes)
    if not 1 <= layer <= num:
        raise ConfigError(f"--traverse is {layer}; expected 1, the bottom layer, to {num}")
    state, images = run.saved_state(), run.test[:256]
    moved = traversal(run.trained(state), images, layer=layer, key=jax.random.key(seed))
    path = Path(path) if path else run.folder / f"traversal_{layer}.png"
    save_traversal(path, moved._replace(images=moved.images.clip(0, 1)), title=f"{run.caption(state)}: layer {layer}")
    return path


def _check_layers(run: Run) -> None:
    """Raise ConfigError, in one line, where the run's model has one layer of latents."""
    if len(run.model.latent_shapes) == 1:
        raise ConfigError(f"{run.config.model} has one layer of latents; --layers and --traverse are for several")
