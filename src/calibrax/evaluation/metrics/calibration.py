"""Is a decoder or a regressor calibrated? Probability integral transform, coverage of intervals, predicted error.

Everything is computed from `likelihood.sample`: the rank of each data value among S draws of its own predictive
distribution. It therefore works for any likelihood, discrete or continuous, including a user's own.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from calibrax.evaluation.figures.calibration import save_calibration_figure
from calibrax.evaluation.metric import Metric, Record, Subject, with_stderr
from calibrax.evaluation.metrics.likelihood import mean_stderr
from calibrax.evaluation.trained import PyTree, Trained, example_batches
from calibrax.likelihoods import Likelihood
from calibrax.likelihoods._checks import shown
from calibrax.training.state import target

NUM_VIDEOS = 32  # a few million values are enough
LEVELS = (0.5, 0.8, 0.95, 0.99)  # nominal coverage of the central intervals, unless the caller asks for others
NUM_PIT_BINS = 20
LOG2_SIGMA = np.arange(-20, 20.5, 0.5)  # edges of the bins of predicted σ: two per octave, ends open


class Coverage(NamedTuple):
    """How often data fell in the central interval of one nominal level.

    Attributes:
      observed: fraction of values, 0 to 1.
      stderr: as if values were independent; too small for pixels, given for comparison.
      stderr_by_example: from the spread between examples, each one a cluster; NaN for a single example.
    """

    observed: float
    stderr: float
    stderr_by_example: float


class SigmaBins(NamedTuple):
    """Predicted and actual error, in bins of similar predicted σ; [bins], from small to large σ.

    Attributes:
      predicted: root mean square predicted σ, in the data's units.
      actual: root mean square of x - E[x|z], in the data's units.
      num_values: int64.
    """

    predicted: np.ndarray
    actual: np.ndarray
    num_values: np.ndarray


class Calibration(NamedTuple):
    """How well a decoder is calibrated; `evaluate_calibration` says how to read it.

    Attributes:
      pit_counts: [20] int64: number of values in 20 equal bins of the probability integral transform.
      pit_stderr_by_example: [20] standard error of each bin's fraction of values, examples as clusters.
      coverage: by nominal level.
      sigma_bins: predicted against actual error, in bins of similar predicted σ.
      sigma_ratio: actual / predicted root mean square error over all values; 1 if calibrated, > 1 overconfident.
      num_values: how many data values were ranked.
      num_examples: how many examples they come from.
      num_draws: S.
    """

    pit_counts: np.ndarray
    pit_stderr_by_example: np.ndarray
    coverage: dict[float, Coverage]
    sigma_bins: SigmaBins
    sigma_ratio: float
    num_values: int
    num_examples: int
    num_draws: int


def evaluate_calibration(
    likelihood: Likelihood,
    params: PyTree,
    state: PyTree,
    pairs: Iterable[tuple[jax.typing.ArrayLike, jax.typing.ArrayLike]],
    *,
    key: jax.Array,
    num_draws: int = 199,
    levels: Sequence[float] = LEVELS,
) -> Calibration:
    """Compare each data value with draws from the distribution that the decoder predicts for it.

    PIT = (#(draws < x) + U·(#(draws = x) + 1)) / (S + 1), U uniform in [0, 1). If x comes from the same distribution as
    the draws, all S + 1 are exchangeable and ties are broken at random, so the PIT is exactly uniform, whatever S is
    and whether values are levels or reals. A central interval of level c holds x if |PIT - 1/2| <= c/2. A hump in the
    middle and coverage above nominal mean that the predicted σ is too large; a U and coverage below nominal that it is
    too small; a slope means a biased mean.

    For a regressor, `outputs` are what the network predicts from each input, and x are the targets, [B, D] or [B]: the
    coverage of a level says how many targets the intervals of `calibrax.interval` hold. For a VAE, `outputs` are
    decoded from one posterior sample per example. This tests p(x|z) against the data that have that z, which is the
    decoder that is optimal for the ELBO. Use held-out data for a stricter test.

    The error is x - E[x|z]; predicted σ² is the mean square of draw - E[x|z]. Half of a value's draws choose its bin
    and the other half predict σ. If the same draws did both, chance would fill the outer bins, and even a single σ
    would look miscalibrated. A single σ fills one bin or two.

    Args:
      likelihood: any likelihood whose data are one array. For a `joint` likelihood, test each modality on its own; for
        a `masked` one, the inner likelihood.
      params: its trained params.
      state: its state; draws are those of test time.
      pairs: batches `(outputs, x)` as given to `nll`, each measured as a whole; sizes may differ. Decoders over levels
        need data on their levels; counts are given as floats.
      key: for the draws. Example i uses the key with i folded in, so the batch size does not change the result.
      num_draws: S, at least 2. The PIT has a resolution of 1 / (S + 1) and is smeared at random within it; if 200
        divides S + 1, all levels and bins end between ranks. The intervals of a decoder that is not calibrated are
        known from S draws only, so the PIT is blurred by up to 1 / (2·sqrt(S)); with fewer than 199 draws the coverage
        at 99 % moves towards 99 %. Time grows with S, memory does not.
      levels: nominal coverage of the central intervals, each in (0, 1).

    Returns:
      Counts, fractions and errors on the host.

    Raises:
      ValueError: if there are no pairs, a shape or number is wrong, or data or draws are not finite.

    Example:
      >>> result = evaluate_calibration(likelihood, params, state, pairs, key=jax.random.key(0))
      >>> observed, ratio = result.coverage[0.95].observed, result.sigma_ratio
      >>> reward = cx.optimal_sigma(link="identity")
      >>> params, state = reward.init(())
      >>> result = evaluate_calibration(reward, {}, state, [(predict(x), targets)], key=key, levels=(0.5, 0.9))

    References:
      Dawid 1984; Czado, Gneiting and Held 2009 for the randomised transform of counts.
    """
    if not isinstance(num_draws, int | np.integer) or num_draws < 2:
        raise ValueError(f"num_draws is {num_draws!r}; expected an integer of at least 2")
    levels = _checked_levels(levels)
    measure = _measure_function(likelihood, int(num_draws), levels)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    by_example, by_bin, num_values, seen = [], np.zeros((3, len(LOG2_SIGMA) + 1)), 0, 0
    for pair in pairs:
        outputs, x = _checked(pair)
        keys = fold(key, jnp.arange(seen, seen + len(x)))
        counts, sums, num_bad = jax.device_get(measure(params, state, outputs, x, keys))
        if num_bad.any():
            raise ValueError(f"x or its draws have {num_bad.sum()} values that are not finite; expected none")
        by_example.append(counts)
        by_bin += sums.astype(np.float64).sum(axis=0)
        seen, num_values = seen + len(x), num_values + math.prod(np.shape(x))
    if not by_example:
        raise ValueError("pairs is empty; expected at least one (outputs, x) batch")
    return _summarize(np.concatenate(by_example), by_bin, num_values, int(num_draws), levels)


def evaluate_model_calibration(
    trained: Trained,
    examples: np.ndarray,
    *,
    key: jax.Array,
    num_draws: int = 199,
    batch_size: int = 64,
    levels: Sequence[float] = LEVELS,
) -> Calibration:
    """`evaluate_calibration` of a trained model on examples [N, ...], with one posterior sample each.

    Args:
      trained: the model.
      examples: [N, ...] uint8 or float data.
      key: for the posterior samples and the draws.
      num_draws: S; see `evaluate_calibration`.
      batch_size: examples per batch, at most.
      levels: nominal coverage of the central intervals.

    Returns:
      A `Calibration`.

    Raises:
      ValueError: as `evaluate_calibration`, or if batch_size is under 1.
    """
    latent_key, draw_key = jax.random.split(key)
    batches = example_batches(examples, latent_key, batch_size)
    pairs = ((trained.outputs(x, keys), target(trained.model, x)) for x, keys in batches)
    params, state = trained.params["likelihood"], trained.likelihood_state
    settings = {"key": draw_key, "num_draws": num_draws, "levels": levels}
    return evaluate_calibration(trained.likelihood, params, state, pairs, **settings)


def _checked_levels(levels: Any) -> tuple[float, ...]:
    good = isinstance(levels, Sequence | np.ndarray) and not isinstance(levels, str) and len(levels) > 0
    good = good and all(isinstance(level, float | np.floating) and 0 < level < 1 for level in levels)
    if not good:
        raise ValueError(f"levels is {shown(levels)}; expected numbers between 0 and 1, such as (0.5, 0.9)")
    return tuple(map(float, levels))


def _checked(pair: Any) -> tuple[Any, Any]:
    if not (isinstance(pair, tuple | list) and len(pair) == 2):  # an array of two examples would unpack as well
        raise ValueError(f"pairs holds a {type(pair).__name__}; expected pairs (outputs, x)")
    outputs, x = pair
    for name, array in (("outputs", outputs), ("x", x)):
        if not hasattr(array, "shape"):
            raise ValueError(f"{name} is a {type(array).__name__}; expected an array, [B, ...]")
    if outputs.shape[:1] != x.shape[:1]:
        raise ValueError(f"x has shape {x.shape}; expected a batch as long as that of outputs, {outputs.shape}")
    return outputs, x


@functools.lru_cache(maxsize=16)
def _measure_function(
    likelihood: Likelihood, num_draws: int, levels: tuple[float, ...]
) -> Callable[..., tuple[jax.Array, ...]]:
    """Compiled once per likelihood, S and levels."""
    # vmap over examples: the noise of one depends on its own key alone.
    one = functools.partial(_measure_example, likelihood, num_draws, levels)
    return jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0, 0)))


def _measure_example(likelihood: Likelihood, num_draws: int, levels, params, state, outputs, x, key):
    """One example: counts [20 + levels] by PIT bin and interval, sums [3, bins] by σ, number of non-finite values.

    Draws are made one at a time, so that only a few arrays of the size of x are kept.
    """
    mean = likelihood.mean(params, state, outputs[None])[0]
    x = x.astype(mean.dtype) / 255 if x.dtype == jnp.uint8 else x.astype(mean.dtype)
    if x.ndim == 0 and mean.shape == (1,):  # a single number, for which several are emitted
        x = x[None]
    if x.shape != mean.shape:
        raise ValueError(f"x has examples of shape {x.shape}; expected {mean.shape}, that of the decoder's mean")
    # The same level computed in two ways may differ in the last bit; it still counts as a tie.
    tie = 4 * jnp.finfo(mean.dtype).eps * jnp.abs(x)

    def add_draw(sums, index):
        draw = likelihood.sample(jax.random.fold_in(key, index), params, state, outputs[None])[0].astype(mean.dtype)
        square = jnp.square(draw - mean)
        even = index % 2 == 0
        below, equal, to_choose, to_predict = sums
        below = below + (draw < x - tie).astype(jnp.int32)
        equal = equal + (jnp.abs(draw - x) <= tie).astype(jnp.int32)
        return (below, equal, to_choose + jnp.where(even, square, 0), to_predict + jnp.where(even, 0, square)), None

    counts, squares = jnp.zeros(x.shape, jnp.int32), jnp.zeros_like(mean)
    start = (counts, counts, squares, squares)
    (below, equal, to_choose, to_predict), _ = lax.scan(add_draw, start, jnp.arange(num_draws))
    uniform = jax.random.uniform(jax.random.fold_in(key, num_draws), x.shape, mean.dtype)
    pit = (below.astype(mean.dtype) + uniform * (equal + 1).astype(mean.dtype)) / (num_draws + 1)
    chosen_variance = to_choose / ((num_draws + 1) // 2)
    variance, sq_error = to_predict / (num_draws // 2), jnp.square(x - mean)
    return (
        _counts(pit, levels),
        _sums_by_sigma(chosen_variance, variance, sq_error),
        jnp.sum(~(jnp.isfinite(x) & jnp.isfinite(chosen_variance) & jnp.isfinite(variance)), dtype=jnp.int32),
    )


def _counts(pit: jax.Array, levels: tuple[float, ...]) -> jax.Array:
    """[20 + levels] int32: values in each bin of the PIT, then values inside each central interval."""
    bins = jnp.clip((NUM_PIT_BINS * pit).astype(jnp.int32), 0, NUM_PIT_BINS - 1)
    by_bin = jnp.bincount(bins.reshape(-1), length=NUM_PIT_BINS).astype(jnp.int32)
    inside = jnp.stack([jnp.sum(jnp.abs(pit - 0.5) <= level / 2, dtype=jnp.int32) for level in levels])
    return jnp.concatenate([by_bin, inside])


def _sums_by_sigma(chosen_variance: jax.Array, variance: jax.Array, sq_error: jax.Array) -> jax.Array:
    """[3, bins]: number of values, sum of predicted variances, sum of squared errors, by the chosen variance."""
    edges = jnp.asarray(2.0 ** (2 * LOG2_SIGMA), chosen_variance.dtype)
    bins = jnp.searchsorted(edges, chosen_variance.reshape(-1), side="right")
    columns = (jnp.ones_like(variance), variance, sq_error)
    length = len(LOG2_SIGMA) + 1
    return jnp.stack([jnp.bincount(bins, weights=column.reshape(-1), length=length) for column in columns])


def _summarize(
    by_example: np.ndarray, by_bin: np.ndarray, num_values: int, num_draws: int, levels: tuple[float, ...]
) -> Calibration:
    """From counts `by_example` [N, 20 + levels] and sums `by_bin` [3, bins]."""
    num_examples = len(by_example)
    fractions = by_example / (num_values / num_examples)
    observed, spread = fractions.mean(axis=0), mean_stderr(fractions)
    coverage = {
        level: Coverage(float(p), math.sqrt(p * (1 - p) / num_values), float(by_cluster))
        for level, p, by_cluster in zip(levels, observed[NUM_PIT_BINS:], spread[NUM_PIT_BINS:], strict=True)
    }
    number, variance, sq_error = by_bin[:, by_bin[0] > 0]
    total = by_bin.sum(axis=1)
    return Calibration(
        pit_counts=by_example[:, :NUM_PIT_BINS].sum(axis=0, dtype=np.int64),
        pit_stderr_by_example=spread[:NUM_PIT_BINS],
        coverage=coverage,
        sigma_bins=SigmaBins(np.sqrt(variance / number), np.sqrt(sq_error / number), number.astype(np.int64)),
        sigma_ratio=math.sqrt(total[2] / total[1]) if total[1] > 0 else math.inf,
        num_values=num_values,
        num_examples=num_examples,
        num_draws=num_draws,
    )


@dataclasses.dataclass(frozen=True)
class CalibrationOptions:
    """Calibration of the decoder."""

    calibration_draws: int = 199
    """Draws from p(x|z) for each value, to test the calibration; 0: none."""

    def __post_init__(self):
        if self.calibration_draws < 0 or self.calibration_draws == 1:
            raise ValueError(f"--calibration-draws is {self.calibration_draws}; expected 0, or 2 and more")


def _measure(options: CalibrationOptions, subject: Subject) -> Record:
    examples = subject.examples if subject.past is None else subject.examples[:NUM_VIDEOS]
    num_draws = options.calibration_draws
    result = evaluate_model_calibration(subject.trained, examples, key=subject.key, num_draws=num_draws)
    title = f"{subject.title}: {len(examples):,} test {subject.noun}"
    save_calibration_figure(subject.folder / "calibration.png", {subject.name: result}, title=title)
    kept = {name: getattr(result, name) for name in ("coverage", "pit_counts", "sigma_ratio", "sigma_bins")}
    return kept | {"draws": result.num_draws, "images": result.num_examples}


def _lines(record: Record) -> Iterator[str]:
    cells = []
    for level, coverage in record["coverage"].items():
        observed, stderr = (
            None if value is None else 100 * value for value in (coverage["observed"], coverage["stderr_by_example"])
        )
        cells.append(f"{float(level):.0%} holds {with_stderr(observed, stderr, '{:.1f}')} %")
    yield f"coverage of central intervals: {', '.join(cells)}"
    yield f"actual error / predicted σ: {with_stderr(record['sigma_ratio'], None, '{:.3f}')} (1 if calibrated)"


METRIC = Metric(
    "calibration",
    _measure,
    _lines,
    progress=lambda options: f"calibration, {options.calibration_draws} draws a value",
    options=CalibrationOptions,
    applies=lambda options, subject: options.calibration_draws > 0,
)
