"""Question: whose σ at test time? What each choice costs beside the best σ for the test images; not in the paper.

Command:   make question-test-sigma     (or: python -m experiments.question_test_sigma --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      one run per seed, 3 in all, on nine tenths of the training images; on two CPU cores, 3 minutes per run on
           8,100 images.
Expected:  the longer the average's memory, the larger its σ. That of training images is too small if the model fits
           them better than others; that of held-out images is as good as these are like the test images. In the SVHN
           subset, the variance within an image is a fifth larger in the last tenth of the training images than in the
           test images, and a seventh larger in the others. A σ of each test batch costs less than nothing.

In its text the paper averages σ² over training; its public code takes the σ of each test batch, and clips it softly.
The decay does not change training, because the loss has the σ of the batch at hand. One run therefore serves all rows:
`metrics.jsonl` has the mean squared error of every batch, of which the averages of all decays can be made.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calibrax.evaluation import Trained
from calibrax.evaluation.metrics.likelihood import mean_stderr
from calibrax.evaluation.trained import example_batches
from calibrax.likelihoods import soft_clip
from calibrax.runs import Run
from calibrax.runs import folder as run_folder
from calibrax.training import read_metrics
from experiments import decoders, paper_figure, report
from experiments.figures.costs import Cost, save_costs
from experiments.paper_figure import Figure, FigureData
from experiments.sweep import SweepConfig, command_line

NAME = "question-test-sigma"
DECAYS = {"decay 0.9": 0.9, "decay 0.99": 0.99, "decay 0.999": 0.999}
DEFAULT = "decay 0.99"  # of calibrax
LABELS = {
    **{choice: f"running average, {choice}" for choice in DECAYS},
    "train": "calibrate on training images",
    "validation": "calibrate on held-out images",
    "batch": "each test batch's own",
    "clipped batch": "each test batch's own, soft clip",
}
FAIR = (*DECAYS, "train", "validation")  # the choices that do not use the test images
MIN_LOG_SIGMA = -6.0  # of the soft clip in the authors' code


def measure(run: Run) -> dict[str, Any]:
    """σ and its cost in nats per test image, by choice; and the mean squared error of each part of the images."""
    parts = {"test": run.test, "train": run.train_part, "validation": run.validation_part}
    errors = {part: squared_errors(run.trained(), images, run.eval_key) for part, images in parts.items()}
    variances: dict[str, Any] = {choice: running_variance(run.folder, decay) for choice, decay in DECAYS.items()}
    variances |= {part: errors[part].mean() for part in ("train", "validation")}  # what `calibrate` averages
    variances["batch"] = of_batch = variances_of_batches(errors["test"], run.config.run.batch_size)
    clipped = soft_clip(jnp.asarray(0.5 * np.log(of_batch)), low=MIN_LOG_SIGMA)
    variances["clipped batch"] = np.exp(2 * np.asarray(clipped, np.float64))
    dimensions = math.prod(run.data.event_shape)
    best = nats(errors["test"].mean(), errors["test"], dimensions)
    return {
        "sigma": {choice: math.exp(0.5 * np.log(variance).mean()) for choice, variance in variances.items()},
        "cost": {choice: nats(variance, errors["test"], dimensions) - best for choice, variance in variances.items()},
        "mse": {part: values.mean() for part, values in errors.items()},
        "mse stderr": {part: mean_stderr(values) for part, values in errors.items()},
    }


def squared_errors(trained: Trained, images: np.ndarray, key: jax.Array) -> np.ndarray:
    """The mean squared error of each image [N], for one posterior sample each."""
    found = []
    for x, keys in example_batches(images, key, 256):
        means = np.asarray(trained.mean(trained.outputs(x, keys)), np.float64)
        found.append(np.square(x / 255 - means).mean(axis=(1, 2, 3)))
    return np.concatenate(found)


def running_variance(folder: Path, decay: float) -> float:
    """The debiased running average of the training batches' σ² after the last step."""
    rows = read_metrics(folder / run_folder.METRICS_FILE)
    mse = [row["mse"] for row in rows if row["split"] == "train" and not row["skipped"]]
    return float(np.average(mse, weights=decay ** np.arange(len(mse))[::-1]))


def variances_of_batches(errors: np.ndarray, batch_size: int) -> np.ndarray:
    """[N]: for each image, the mean of the errors in its batch."""
    batch = np.arange(len(errors)) // batch_size
    return (np.bincount(batch, errors) / np.bincount(batch))[batch]


def nats(variances: Any, errors: np.ndarray, dimensions: int) -> float:
    """Mean over images of -log p(x|z) without its constant; a variance for all images, or one for each."""
    return float(np.mean(0.5 * dimensions * (np.log(variances) + errors / variances)))


def costs(figure_data: FigureData) -> dict[str, list[float]]:
    """Of each choice, one for each seed."""
    return {choice: [result.record[NAME]["cost"][choice] for result in figure_data.results] for choice in LABELS}


def draw(path: Path, figure_data: FigureData) -> None:
    rows = [
        Cost(LABELS[choice], *report.mean_of(values), is_fair=choice in FAIR)
        for choice, values in costs(figure_data).items()
    ]
    unit = "cost beside the best σ (nats per test image, ± one standard error)"
    save_costs(path, rows, unit=unit, title=figure_data.title)


def answer(figure_data: FigureData) -> str:
    """The table of σ and cost, and which choice is the best, by how much."""
    cost, records = costs(figure_data), [result.record[NAME] for result in figure_data.results]
    means = {choice: report.mean_of(values) for choice, values in cost.items()}
    shown = {choice: report.cell(mean, ".2f") for choice, mean in means.items()}
    sigmas = {LABELS[choice]: [record["sigma"][choice] for record in records] for choice in LABELS}
    sigmas = {"the test images' own": [math.sqrt(record["mse"]["test"]) for record in records], **sigmas}
    rows = [
        [label, report.cell(report.mean_of(values), ".5f"), number]
        for (label, values), number in zip(sigmas.items(), ["0", *shown.values()], strict=True)
    ]
    best, second = sorted(FAIR, key=lambda choice: means[choice].value)[:2]
    default = "the best one" if best == DEFAULT else f"“{LABELS[DEFAULT]}”, {worse(cost[DEFAULT], cost[best])}"
    splits = figure_data.data.splits
    errors = [
        f"{error_of(records, part)} for {len(splits[part]):,} {name} images"
        for part, name in {"test": "test", "validation": "held-out", "train": "training"}.items()
    ]
    notes = (
        "The σ of several batches is their geometric mean. The last two rows use the test images that they score. The "
        f"images themselves differ: the mean squared error is {', '.join(errors)} (± standard error over images)."
    )
    verdict = (
        f"Of the choices that do not use test images, the best is “{LABELS[best]}”, {shown[best]} nats per image above "
        f"the best σ; the next is “{LABELS[second]}”, {worse(cost[second], cost[best])}. calibrax's default is "
        f"{default}. A σ of each test batch, as in the authors' code, costs {shown['batch']} nats, and "
        f"{shown['clipped batch']} with the soft clip of that code."
    )
    table = report.grid(["σ at test time", "σ", "cost, nats per test image"], rows)
    return "\n".join([*table, "", notes, "", verdict])


def error_of(records: Sequence[dict[str, Any]], part: str) -> str:
    """The mean squared error of a part of the images, and its standard error over images, both averaged over seeds."""
    mse, stderr = (np.mean([record[name][part] for record in records]) for name in ("mse", "mse stderr"))
    return f"{mse:.5f} ± {stderr:.5f}"


def worse(costs: Sequence[float], others: Sequence[float]) -> str:
    """The difference of the costs in words; each seed has one of either."""
    gap = report.mean_of([one - other for one, other in zip(costs, others, strict=True)])
    doubt = ", within two standard errors" if gap.stderr is not None and gap.value < 2 * gap.stderr else ""
    return f"{report.cell(gap, '.2f')} nats worse{doubt}"


@dataclasses.dataclass(frozen=True)
class TestSigmaConfig(SweepConfig):
    """Train the optimal σ-VAE on a part of the training images and say what each choice of σ costs at test time."""

    fraction: float = 0.9
    """Share of the training images to train on, the first ones; the others are held out."""


FIGURE = Figure(
    name=NAME,
    title="Whose σ at test time?",
    source="svhn",
    cases=(decoders.OPTIMAL,),
    draw=draw,
    answer=answer,
    measure=measure,
)


def main(argv: Sequence[str] | None = None) -> int:
    make = functools.partial(paper_figure.make, FIGURE)
    return command_line("question_test_sigma", argv, TestSigmaConfig, make)


if __name__ == "__main__":
    sys.exit(main())
