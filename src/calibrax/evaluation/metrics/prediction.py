"""Videos predicted by a trained model, and how near they come, measured as SVG's evaluation does."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calibrax.evaluation.metrics.frame_scores import FrameScores, best_of, frame_scores, psnr, ssim
from calibrax.evaluation.metrics.inception import to_uint8
from calibrax.evaluation.metrics.likelihood import Trained, example_batches, forward_function
from calibrax.likelihoods import Likelihood
from calibrax.likelihoods._base import as_unit
from calibrax.models.svg import step_noise
from calibrax.training.state import variables_of

BATCH_SIZE = 100  # clips: SVG's own, whose statistics batch norm takes

Film = list[tuple[str, np.ndarray]]  # rows for `video_figure.save_film`: a name, and frames [T, H, W, C]


def predict(
    trained: Trained,
    x_past: jax.typing.ArrayLike,
    keys: jax.Array,
    num_frames: int,
    temperature: jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    """Means of p(x | z) for the frames after x_past, each fed back for the next.

    Args:
      trained: a video model with a `framewise` likelihood, or one whose state is a scalar.
      x_past: [B, n_past, H, W, C], uint8 levels or floats in [0, 1].
      keys: one key, or B; another key is another future.
      num_frames: how many to predict.
      temperature: what multiplies the standard deviation of the prior's draws.

    Returns:
      [B, num_frames, H, W, C] float32, in the data's range.

    Raises:
      ValueError: for wrong shapes or keys, num_frames under 1, or a temperature that is a number but not one from 0.

    The frames are those of the model's own `predict` with the likelihood's mean fed back, which is for programs that
    compile it whole.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; expected 1 or more")
    if isinstance(temperature, int | float) and not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a number from 0")
    observe, imagine = _functions(trained.model, trained.likelihood)
    memory, noise = observe(trained.params, x_past, keys, num_frames)
    frames = []
    for draw in noise * temperature:  # no scan: on a CPU convolutions in a loop of XLA's take ten times as long
        memory, frame = imagine(trained.params, trained.likelihood_state, memory, draw)
        frames.append(frame)
    return jnp.stack(frames, axis=1)


def futures(
    trained: Trained, videos: np.ndarray, past: int, num_samples: int, keys: jax.Array, temperature: float = 1.0
) -> Iterator[jax.Array]:
    """Samples of whole videos, one after another: the given frames, and those predicted from them.

    Args:
      trained: as in `predict`.
      videos: [B, T, H, W, C], uint8 levels or floats in [0, 1], of which the first frames are given.
      past: how many, 1 to T - 1.
      num_samples: K.
      keys: B keys; sample k of an example is of its key and k.
      temperature: as in `predict`.

    Yields:
      K arrays like videos, float32. Each is drawn when it is asked for, so memory does not grow with K.

    Raises:
      ValueError: when the first is asked for, for `past` out of range and as `predict`.
    """
    _check_past(videos, past)
    given = as_unit(videos[:, :past], jnp.float32)
    for sample in range(num_samples):
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, sample)
        predicted = predict(trained, videos[:, :past], own, videos.shape[1] - past, temperature)
        yield jnp.concatenate([given, predicted], axis=1)


def copied(videos: np.ndarray, past: int) -> jax.Array:
    """The prediction that any other must beat: the last given frame again and again, [B, T, H, W, C] float32.

    Raises:
      ValueError: if `past` is not 1 to T - 1.
    """
    _check_past(videos, past)
    frames = np.minimum(np.arange(videos.shape[1]), past - 1)
    return as_unit(videos[:, frames], jnp.float32)


def reconstruct_videos(trained: Trained, videos: np.ndarray, keys: jax.Array) -> jax.Array:
    """Means of p(x | z) with z from the posterior and true frames before each; the first frame is the true one.

    Args:
      trained: as in `predict`.
      videos: [B, T, H, W, C], uint8 levels or floats in [0, 1].
      keys: B keys.

    Returns:
      [B, T, H, W, C] float32.
    """
    outputs = forward_function(trained.model)(trained.params, videos, keys)
    mean = trained.likelihood.mean(trained.params["likelihood"], trained.likelihood_state, outputs)
    return jnp.concatenate([as_unit(videos[:, :1], jnp.float32), mean], axis=1)


class Predictions(NamedTuple):
    """How near predictions come to the true frames, by time step."""

    best: FrameScores  # of the sample of K that is best for its clip, by its mean SSIM
    random: FrameScores  # of the first sample
    copied: FrameScores  # of the last given frame, repeated
    num_samples: int  # K
    films: list[Film]  # truth, best, random and reconstruction of the first clips

    def by_name(self) -> dict[str, FrameScores]:
        """For `video_figure.save_scores_over_time`."""
        best = f"best of {self.num_samples} samples"
        return {best: self.best, "one sample": self.random, "last given frame, copied": self.copied}


def measure_predictions(
    trained: Trained,
    videos: np.ndarray,
    *,
    past: int,
    num_samples: int,
    key: jax.Array,
    batch_size: int = BATCH_SIZE,
    num_films: int = 1,
    temperature: float = 1.0,
    progress: Callable[[int, int], Any] | None = None,
) -> Predictions:
    """PSNR and SSIM (data range 1) of predicted frames, of the best of K samples and of one, beside those of copying.

    By default batch norm takes a batch's own statistics, as the original's does when it is tested: what is predicted
    for a clip then depends a little on the clips beside it.

    Args:
      trained: as in `predict`.
      videos: [N, T, H, W, C], uint8 levels or floats in [0, 1].
      past: frames that are given, 1 to T - 1.
      num_samples: K. SVG's evaluation takes 100.
      key: for the samples; each clip folds in its index.
      batch_size: clips at once, at most.
      num_films: clips to return as rows for a film strip.
      temperature: as in `predict`.
      progress: called with (samples done, samples in all), over batches and K.

    Raises:
      ValueError: for no videos, or numbers out of range; where a batch of one clip has no statistics of its own.
    """
    _check(trained, videos, past, num_samples, batch_size)
    films: list[Film] = []
    scores: list[dict[str, tuple[jax.Array, jax.Array]]] = []
    total = num_samples * -(-len(videos) // batch_size)
    for clips, keys in example_batches(videos, key, batch_size):
        random: list[jax.Array] = []  # the first sample, when it was drawn
        samples = futures(trained, clips, past, num_samples, keys, temperature)
        told = _told(samples, random, progress, len(scores) * num_samples, total)
        best = best_of(clips, told, past=past)
        scores.append(
            {
                "best": (best.psnr, best.ssim),
                "random": _scores(clips, random[0], past),
                "copied": _scores(clips, copied(clips, past), past),
            }
        )
        if len(films) < num_films:
            again = reconstruct_videos(trained, clips, keys)
            rows = {"truth": clips, f"best of {num_samples}": best.videos, "random": random[0], "reconstruction": again}
            shown = range(min(num_films - len(films), len(clips)))
            films += [[(name, np.asarray(videos[clip])) for name, videos in rows.items()] for clip in shown]
    means = {}
    for name in scores[0]:
        columns = zip(*(batch[name] for batch in scores), strict=True)
        means[name] = frame_scores(*(np.concatenate(column) for column in columns), past=past)
    return Predictions(**means, num_samples=num_samples, films=films)


def _told(samples: Iterator[jax.Array], first: list, progress, done: int, total: int) -> Iterator[jax.Array]:
    """The samples; the first is kept, and of each it is told that it is done."""
    for index, sample in enumerate(samples):
        if index == 0:
            first.append(sample)
        yield sample
        if progress is not None:
            progress(done + index + 1, total)


def _scores(clips: np.ndarray, prediction: jax.Array, past: int) -> tuple[jax.Array, jax.Array]:
    """PSNR and SSIM [B, T - past]."""
    frames = as_unit(clips[:, past:], jnp.float32), prediction[:, past:]
    return psnr(*frames), ssim(*frames)


def predicted_frames(
    trained: Trained, videos: np.ndarray, *, past: int, key: jax.Array, batch_size: int = BATCH_SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """True frames and those of one sample a clip, as independent images, for FID.

    Args:
      trained, videos, past, key, batch_size: as in `measure_predictions`.

    Returns:
      Two uint8 arrays [N·(T - past), H, W, C].
    """
    _check(trained, videos, past, 1, batch_size)
    made = []
    for clips, keys in example_batches(videos, key, batch_size):
        (sample,) = futures(trained, clips, past, 1, keys)
        made.append(np.asarray(sample[:, past:]).reshape(-1, *videos.shape[2:]))
    return to_uint8(videos[:, past:].reshape(-1, *videos.shape[2:])), to_uint8(np.concatenate(made))


def _check(trained: Trained, videos: np.ndarray, past: int, num_samples: int, batch_size: int) -> None:
    if videos.ndim != 5 or len(videos) == 0:
        raise ValueError(f"videos has shape {videos.shape}; expected [N, T, H, W, C] with N 1 or more")
    _check_past(videos, past)
    for name, number in (("num_samples", num_samples), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} is {number}; expected 1 or more")
    alone = len(videos) // -(-len(videos) // batch_size) < 2  # the smallest of `example_batches`
    if alone and not getattr(trained.model, "running_average_at_test", True):
        raise ValueError(
            f"{len(videos)} clips in batches of at most {batch_size} leave one alone, of which batch norm has no "
            "statistics; expected two clips or more in each batch"
        )


def _check_past(videos: np.ndarray, past: int) -> None:
    if not 1 <= past < videos.shape[1]:
        raise ValueError(f"past is {past}; expected 1 to {videos.shape[1] - 1}, one frame less than there are")


@functools.lru_cache(maxsize=8)
def _functions(model: Any, likelihood: Likelihood) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`observe` the given frames and draw the noise of the others, `imagine` one of these; each compiled once."""

    @functools.partial(jax.jit, static_argnums=3)
    def observe(params, x_past, keys, num_frames):
        past = x_past.shape[1] - 1
        noise = step_noise(keys, x_past.shape[0], past + num_frames, model.z_dim)[past:]
        return model.apply(variables_of(params), x_past, keys, method="observe"), noise

    @jax.jit
    def imagine(params, state, memory, noise):
        def to_image(outputs):  # to a likelihood of videos a frame is a video of one
            return likelihood.mean(params["likelihood"], state, outputs[:, None])[:, 0]

        memory, outputs = model.apply(variables_of(params), memory, noise, to_image, method="imagine")
        return memory, to_image(outputs)

    return observe, imagine
