"""Videos predicted by a trained model, and how close they come, measured as SVG's evaluation does."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calibrax.evaluation.figures.video import save_prediction, save_scores_over_time
from calibrax.evaluation.metric import Metric, Record, Subject, with_stderr
from calibrax.evaluation.metrics.frame_scores import FrameScores, best_of, frame_scores, psnr, ssim
from calibrax.evaluation.metrics.inception import to_uint8
from calibrax.evaluation.trained import Trained, check_temperature, example_batches
from calibrax.likelihoods import Likelihood
from calibrax.likelihoods._base import as_unit
from calibrax.models.svg import step_noise
from calibrax.training.state import variables_of

BATCH_SIZE = 100  # clips, as in SVG's evaluation: batch norm uses the statistics of the batch

Film = list[tuple[str, np.ndarray]]  # rows for `figures.video.save_film`: a name, and frames [T, H, W, C]


def predict(
    trained: Trained,
    x_past: jax.typing.ArrayLike,
    keys: jax.Array,
    num_frames: int,
    temperature: jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    """Means of p(x | z) for the frames after x_past, each fed back for the next.

    The frames equal those of the model's own method `predict`, which is for programs that compile the loop as a whole.

    Args:
      trained: a video model with a `framewise` likelihood, or one whose state is a scalar.
      x_past: [B, n_past, H, W, C], uint8 levels or floats in [0, 1].
      keys: one key, or B keys; another key gives another future.
      num_frames: how many to predict.
      temperature: multiplies the standard deviation of the prior's draws.

    Returns:
      [B, num_frames, H, W, C] float32, in the data's range.

    Raises:
      ValueError: for wrong shapes or keys, num_frames under 1, or a temperature that is negative or not finite.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; expected 1 or more")
    check_temperature(temperature)
    observe, imagine = _functions(trained.model, trained.likelihood)
    memory, noise = observe(trained.params, x_past, keys, num_frames)
    frames = []
    for draw in noise * temperature:  # not a scan: on a CPU convolutions inside an XLA loop take ten times as long
        memory, frame = imagine(trained.params, trained.likelihood_state, memory, draw)
        frames.append(frame)
    return jnp.stack(frames, axis=1)


def futures(
    trained: Trained, videos: np.ndarray, past: int, num_samples: int, keys: jax.Array, temperature: float = 1.0
) -> Iterator[jax.Array]:
    """K samples of whole videos, one after another: the given frames, and those predicted from them, float32.

    Videos are [B, T, H, W, C], uint8 levels or floats in [0, 1]; the first `past` frames are given, 1 to T - 1. Sample
    k of an example uses the example's key with k folded in. Each is drawn when it is asked for, so memory does not grow
    with K.

    Raises:
      ValueError: with the first sample, if `past` is out of range, and as `predict`.
    """
    _check_past(videos, past)
    given = as_unit(videos[:, :past], jnp.float32)
    for sample in range(num_samples):
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, sample)
        predicted = predict(trained, videos[:, :past], own, videos.shape[1] - past, temperature)
        yield jnp.concatenate([given, predicted], axis=1)


def copied(videos: np.ndarray, past: int) -> jax.Array:
    """A baseline that any prediction should beat: the last given frame repeated, [B, T, H, W, C] float32.

    Raises:
      ValueError: if `past` is not 1 to T - 1.
    """
    _check_past(videos, past)
    frames = np.minimum(np.arange(videos.shape[1]), past - 1)
    return as_unit(videos[:, frames], jnp.float32)


def reconstruct_videos(trained: Trained, videos: np.ndarray, keys: jax.Array) -> jax.Array:
    """Means of p(x | z) with z from the posterior, given the true previous frames; the first frame is the true one.

    Videos are [B, T, H, W, C], uint8 levels or floats in [0, 1], with B keys; the result is float32.
    """
    mean = trained.mean(trained.outputs(videos, keys))
    return jnp.concatenate([as_unit(videos[:, :1], jnp.float32), mean], axis=1)


class Predictions(NamedTuple):
    """How close predictions come to the true frames, by time step."""

    best: FrameScores  # for each clip the best of K samples, by its mean SSIM
    random: FrameScores  # the first sample
    copied: FrameScores  # the last given frame, repeated
    num_samples: int  # K
    film: Film  # truth, best, random and reconstruction of the first clip

    def by_name(self) -> dict[str, FrameScores]:
        """For `figures.video.save_scores_over_time`."""
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
    temperature: float = 1.0,
) -> Predictions:
    """PSNR and SSIM (data range 1) of predicted frames: the best of K samples, one sample, and copying.

    By default batch norm uses a batch's own statistics, as the original does when it is tested. The prediction for a
    clip then depends a little on the other clips of its batch.

    Args:
      trained: as in `predict`.
      videos: [N, T, H, W, C], uint8 levels or floats in [0, 1].
      past: number of given frames, 1 to T - 1.
      num_samples: K; SVG's evaluation takes 100.
      key: for the samples; each clip folds in its index.
      batch_size: clips per batch, at most.
      temperature: as in `predict`.

    Raises:
      ValueError: if there are no videos, a number is out of range, or a batch of one clip has no statistics of its own.
    """
    _check(trained, videos, past, num_samples, batch_size)
    film: Film = []
    scores: list[dict[str, tuple[jax.Array, jax.Array]]] = []
    for clips, keys in example_batches(videos, key, batch_size):
        samples = futures(trained, clips, past, num_samples, keys, temperature)
        random = next(samples)
        best = best_of(clips, itertools.chain([random], samples), past=past)
        others = {"random": _scores(clips, random, past), "copied": _scores(clips, copied(clips, past), past)}
        scores.append({"best": (best.psnr, best.ssim)} | others)
        if not film:
            again = reconstruct_videos(trained, clips, keys)
            rows = {"truth": clips, f"best of {num_samples}": best.videos, "random": random, "reconstruction": again}
            film = [(name, np.asarray(videos[0])) for name, videos in rows.items()]
    means = {}
    for name in scores[0]:
        columns = zip(*(batch[name] for batch in scores), strict=True)
        means[name] = frame_scores(*(np.concatenate(column) for column in columns), past=past)
    return Predictions(**means, num_samples=num_samples, film=film)


def _scores(clips: np.ndarray, prediction: jax.Array, past: int) -> tuple[jax.Array, jax.Array]:
    """PSNR and SSIM [B, T - past]."""
    frames = as_unit(clips[:, past:], jnp.float32), prediction[:, past:]
    return psnr(*frames), ssim(*frames)


def predicted_frames(
    trained: Trained, videos: np.ndarray, *, past: int, key: jax.Array, batch_size: int = BATCH_SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """True frames, and the frames of one sample per clip, as independent images for FID, [N·(T - past), H, W, C] uint8.

    The arguments are those of `measure_predictions`.
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
    alone = len(videos) // -(-len(videos) // batch_size) < 2  # the smallest batch of `example_batches`
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
    """`observe` reads the given frames and draws the noise of the others; `imagine` decodes one further frame."""

    @functools.partial(jax.jit, static_argnums=3)
    def observe(params, x_past, keys, num_frames):
        past = x_past.shape[1] - 1
        noise = step_noise(keys, x_past.shape[0], past + num_frames, model.z_dim)[past:]
        return model.apply(variables_of(params), x_past, keys, method="observe"), noise

    @jax.jit
    def imagine(params, state, memory, noise):
        def to_image(outputs):  # a likelihood of videos takes a frame as a video of length one
            return likelihood.mean(params["likelihood"], state, outputs[:, None])[:, 0]

        memory, outputs = model.apply(variables_of(params), memory, noise, to_image, method="imagine")
        return memory, to_image(outputs)

    return observe, imagine


@dataclasses.dataclass(frozen=True)
class PredictionOptions:
    """Prediction of videos."""

    futures: int = 100
    """Of a video model: samples of each test video, of which the best is scored; 0: none."""

    def __post_init__(self):
        if self.futures < 0:
            raise ValueError(f"--futures is {self.futures}; expected 0 or more")


def _measure(options: PredictionOptions, subject: Subject) -> Record:
    """PSNR and SSIM by time step; also as a plot, a film strip and a GIF."""
    assert subject.past is not None
    where = {"past": subject.past, "key": subject.key, "batch_size": subject.batch_size}
    found = measure_predictions(subject.trained, subject.examples, num_samples=options.futures, **where)
    title = f"{subject.title}: {len(subject.examples):,} test videos"
    save_scores_over_time(subject.folder / "prediction.png", found.by_name(), title=title)
    save_prediction(subject.folder / "film", found.film, subject.past, title=title)
    columns = ("psnr", "psnr_stderr", "ssim", "ssim_stderr")
    scores = {
        name: {column: getattr(score, column) for column in columns}
        | {"mean_psnr": score.psnr.mean(), "mean_ssim": score.ssim.mean()}
        for name, score in (("best", found.best), ("random", found.random), ("copied", found.copied))
    }
    return scores | {"samples": found.num_samples, "clips": found.best.num_clips, "past": found.best.first}


def _lines(record: Record) -> Iterator[str]:
    of = {name: record[name] for name in ("best", "random", "copied")}
    psnr = ", ".join(f"{name} {with_stderr(scores['mean_psnr'], None, '{:.2f}')}" for name, scores in of.items())
    ssim = ", ".join(f"{name} {with_stderr(scores['mean_ssim'], None, '{:.4f}')}" for name, scores in of.items())
    counts = f"{record['clips']} clips, {record['samples']} samples, data range 1"
    yield f"predicted frames ({counts}): PSNR {psnr} dB; SSIM {ssim}"


METRIC = Metric(
    "prediction",
    _measure,
    _lines,
    progress=lambda options: f"prediction, {options.futures} samples a video",
    options=PredictionOptions,
    noun="videos",
    applies=lambda options, subject: options.futures > 0,
)
