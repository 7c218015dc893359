"""Figures from a run's newest checkpoint (`calibrax sample`): samples, futures, what a hierarchy's layers hold."""

from pathlib import Path

import jax
import numpy as np

from calibrax.evaluation import generate, partial_samples, traversal
from calibrax.evaluation.figures.hierarchy import save_partial_samples, save_traversal
from calibrax.evaluation.figures.images import save_grid
from calibrax.evaluation.figures.video import save_prediction
from calibrax.evaluation.metrics.hierarchy import Side
from calibrax.evaluation.metrics.prediction import measure_predictions
from calibrax.runs.run import Run
from calibrax.runs.settings import ConfigError

NUM_COLUMNS = 12  # test images at most

# All functions take a run with a checkpoint, the file to write (None: a name in the run's folder) and a seed that
# draws the latents and the noise. They return the path of the PNG. The temperature multiplies the standard deviation
# of the prior's draws.


def sample(
    run: Run, num: int, path: str | None, seed: int = 0, *, noise: bool = False, temperature: float = 1.0
) -> Path:
    """A grid of `num` samples: means of p(x | z), or draws from it with `noise`."""
    state, out = run.saved_state(), Path(path or run.folder / "samples.png")
    images = generate(run.trained(state), num, key=jax.random.key(seed), noise=noise, temperature=temperature)
    what = "draws from p(x|z)" if noise else "means of p(x|z)"
    where = "the prior" if temperature == 1 else f"the prior at temperature {temperature:g}"
    save_grid(out, images.clip(0, 1), title=f"{run.caption(state)}: {what}, z from {where}")
    return out


def sample_futures(
    run: Run, num: int, path: str | None, seed: int = 0, *, clip: int = 1, temperature: float = 1.0
) -> Path:
    """One test video: the truth, the best of `num` sampled futures, a random one, and the reconstruction.

    A film strip in a PNG, and an animation in a GIF of the same name. The clips after it in the test set make a batch
    with it, as batch norm needs one.

    Args:
      run, num, path, seed, temperature: see above.
      clip: which test video, from 1.

    Raises:
      ConfigError: if there is no such video.
    """
    total = len(run.test)
    if not 1 <= clip <= total:
        raise ConfigError(f"--clip is {clip}; expected 1 to {total}, the test videos")
    order = (clip - 1 + np.arange(min(total, run.config.run.batch_size))) % total
    state, past, out = run.saved_state(), run.past, Path(path or run.folder / "samples.png")
    options: dict = {"key": jax.random.key(seed), "temperature": temperature}
    found = measure_predictions(run.trained(state), run.test[order], past=past, num_samples=num, **options)
    title = f"{run.caption(state)}: test video {clip}"
    title += "" if temperature == 1 else f", the prior at temperature {temperature:g}"
    save_prediction(out.with_suffix(""), found.films[0], past, title=title)
    return out


def sample_layers(run: Run, side: Side, path: str | None, seed: int = 0, temperature: float = 1.0) -> Path:
    """Test images with more and more layers drawn from the prior, from the top or from the bottom.

    Raises:
      ConfigError: for a model with a single layer of latents.
    """
    _num_layers(run)
    state, images, out = run.saved_state(), run.test[:NUM_COLUMNS], Path(path or run.folder / f"layers_{side}.png")
    key = jax.random.key(seed)
    samples = partial_samples(run.trained(state), images, side=side, key=key, temperature=temperature)
    save_partial_samples(out, samples.clip(0, 1), images, side=side, title=f"{run.caption(state)}: {side} layers")
    return out


def traverse(run: Run, layer: int, path: str | None, seed: int = 0) -> Path:
    """The first test image while the most active dimensions of one layer move; layer 1 is the bottom.

    Raises:
      ConfigError: for a model with a single layer of latents, or without this one.
    """
    num = _num_layers(run)
    if not 1 <= layer <= num:
        raise ConfigError(f"--traverse is {layer}; expected 1, the bottom layer, to {num}")
    state, out = run.saved_state(), Path(path or run.folder / f"traversal_{layer}.png")
    moved = traversal(run.trained(state), run.test[:256], layer=layer, key=jax.random.key(seed))
    save_traversal(out, moved._replace(images=moved.images.clip(0, 1)), title=f"{run.caption(state)}: layer {layer}")
    return out


def _num_layers(run: Run) -> int:
    num = len(run.model.latent_shapes)
    if num == 1:
        raise ConfigError(f"{run.config.model.name} has one layer of latents; --layers and --traverse are for several")
    return num
