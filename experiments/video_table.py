"""Tables of decoders in SVG: what tables of videos have in addition to those of images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from calibrax.data import Data, first
from calibrax.evaluation.figures.video import save_prediction, save_scores_over_time
from calibrax.evaluation.metrics.frame_scores import FrameScores
from calibrax.evaluation.metrics.prediction import futures as futures_of
from calibrax.runs.config import ConfigError
from experiments import decoders, paper_table
from experiments.report import Column, Table
from experiments.sweep import Case, Result, SweepConfig

ORIGINAL_BETA = 1e-4  # the weight of the KL against a mean squared error: train_svg_lp.py of edenton/svg
SCORES = (Column("PSNR, best", "psnr", ".2f"), Column("SSIM, best", "ssim", ".4f"))
NUM_CLIPS = 16  # test videos in the batch that contains the one shown


@dataclasses.dataclass(frozen=True)
class VideoSweepConfig(SweepConfig):
    """Train decoders in SVG and show them side by side."""

    futures: int = 100
    """Samples of each test video, of which the best is scored; 100 in SVG's evaluation."""

    def __post_init__(self):
        super().__post_init__()
        if self.futures < 1:
            raise ConfigError(f"--futures is {self.futures}; expected at least 1")


def original_objective(dimensions: int) -> Case:
    """The objective of the original SVG, as a Gaussian of constant variance.

    Multiplied by D/β, the original's (1/D)·SSE + β·KL is SSE/(βD) + KL. Up to a constant, this is -ELBO of a Gaussian
    with 2σ² = βD, which is the β of `beta_gaussian`.

    Args:
      dimensions: D, the number of values of a frame.
    """
    settings = {"likelihood": "beta-gaussian", "beta": ORIGINAL_BETA * dimensions}
    return Case("β (original SVG)", settings)


def rows(dimensions: int) -> tuple[Case, ...]:
    """The decoders of Table 2's BAIR column, without the paper's numbers.

    Args:
      dimensions: D, the number of values of a frame.
    """
    return (
        decoders.BERNOULLI, decoders.BITWISE, decoders.MIXTURE, decoders.GAUSSIAN, original_objective(dimensions),
        decoders.SHARED, decoders.OPTIMAL, decoders.OPTIMAL_IMAGE,
    )  # fmt: skip


def make(table: Table, config: VideoSweepConfig, command: str) -> None:
    """Do what `paper_table.make` does, and also measure and show predictions."""
    paper_table.make(table, config, command, futures=config.futures, pictures=_pictures)


def _pictures(folder: Path, table: Table, results: Sequence[Result], data: Data, *, title: str) -> Sequence[str]:
    """Draw PSNR and SSIM per frame, and one test video as every decoder predicts it; first seed only."""
    shown = [
        result for case in table.cases for result in results if result.case == case and result.config.run.seed == 0
    ]
    if not shown:
        return []
    scores = {result.case.label: _scores(result, "best") for result in shown}
    scores["last given frame, copied"] = _scores(shown[0], "copied")
    best = f"best of {shown[0].record['prediction']['samples']} samples"
    save_scores_over_time(folder / "prediction.png", scores, title=f"{title}, {best}")
    past, clips = shown[0].run(data).past, first(data.test, NUM_CLIPS)
    rows = [("truth", clips[0]), *((result.case.label, _future(result, data, clips)) for result in shown)]
    save_prediction(folder / "samples", rows, past, title=f"One sample each: {title}")
    return ["prediction.png", "samples.png", "samples.gif"]


def _future(result: Result, data: Data, clips: np.ndarray) -> np.ndarray:
    """A sample of the first clip's future, [T, H, W, C]; from the same noise for every decoder."""
    keys = jax.random.split(jax.random.key(0), len(clips))
    run = result.run(data)
    (sample,) = futures_of(run.trained(), clips, run.past, 1, keys)
    return np.asarray(sample[0])


def _scores(result: Result, name: str) -> FrameScores:
    record = result.record["prediction"]
    columns = {field: np.asarray(record[name][field]) for field in ("psnr", "psnr_stderr", "ssim", "ssim_stderr")}
    return FrameScores(**columns, num_clips=record["clips"], first=record["past"])


def with_scores(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Columns without those of training data and with PSNR and SSIM."""
    kept = [column for column in columns if column.split == "test"]
    return (*kept, *SCORES)
