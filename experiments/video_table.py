"""A table of decoders in SVG: what the tables of videos have beside those of images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from calibrax.data import Data, first
from calibrax.evaluation.figures.video import save_prediction, save_scores_over_time
from calibrax.evaluation.metrics.frame_scores import FrameScores
from calibrax.evaluation.metrics.prediction import futures as futures_of
from calibrax.runs import run
from calibrax.runs.config import ConfigError
from experiments import paper_table
from experiments.report import Column, Table
from experiments.sweep import Done, SweepConfig

ORIGINAL_BETA = 1e-4  # on the KL, beside a mean squared error: train_svg_lp.py of edenton/svg
SCORES = (Column("PSNR, best", "psnr", ".2f"), Column("SSIM, best", "ssim", ".4f"))
NUM_CLIPS = 16  # test videos in the batch of the one that is shown


@dataclasses.dataclass(frozen=True)
class VideoSweepConfig(SweepConfig):
    """Train decoders in SVG and write them beside one another."""

    futures: int = 100
    """Samples of each test video, of which the best is scored; 100 in SVG's evaluation."""

    def __post_init__(self):
        super().__post_init__()
        if self.futures < 1:
            raise ConfigError(f"--futures is {self.futures}; expected at least 1")


def original_beta(dimensions: int) -> float:
    """The β of `beta_gaussian`, twice a variance, that has SVG's objective.

    Times D / β the original's (1/D)·SSE + β·KL is SSE / (βD) + KL: -ELBO of a Gaussian with 2σ² = βD, but for its
    constant.

    Args:
      dimensions: D, values of a frame.
    """
    return ORIGINAL_BETA * dimensions


def make(table: Table, source: str, config: VideoSweepConfig, command: str) -> list[Done]:
    """As `paper_table.make`, with predictions measured and shown."""
    return paper_table.make(table, source, config, command, futures=config.futures, pictures=_pictures)


def _pictures(folder: Path, table: Table, done: Sequence[Done], data: Data, *, title: str) -> Sequence[str]:
    """PSNR and SSIM by frame, and one test video as each decoder goes on with it; of the first seed."""
    shown = [one for case in table.cases for one in done if one.case == case and one.config.seed == 0]
    if not shown:
        return []
    scores = {one.case.label: _scores(one, "best") for one in shown}
    scores["last given frame, copied"] = _scores(shown[0], "copied")
    best = f"best of {shown[0].record['prediction']['samples']} samples"
    save_scores_over_time(folder / "prediction.png", scores, title=f"{title}, {best}")
    past, clips = shown[0].config.n_past, first(data.test, NUM_CLIPS)
    rows = [("truth", clips[0]), *((one.case.label, _future(one, data, clips)) for one in shown)]
    save_prediction(folder / "samples", rows, past, title=f"One sample each: {title}")
    return ["prediction.png", "samples.png", "samples.gif"]


def _future(one: Done, data: Data, clips: np.ndarray) -> np.ndarray:
    """A sample of the first clip's future, [T, H, W, C]; of the same noise for every decoder."""
    keys = jax.random.split(jax.random.key(0), len(clips))
    (sample,) = futures_of(run.Run(one.config, data).trained(), clips, one.config.n_past, 1, keys)
    return np.asarray(sample[0])


def _scores(one: Done, name: str) -> FrameScores:
    record = one.record["prediction"]
    columns = {field: np.asarray(record[name][field]) for field in ("psnr", "psnr_stderr", "ssim", "ssim_stderr")}
    return FrameScores(**columns, num_clips=record["clips"], first=record["past"])


def with_scores(columns: Sequence[Column]) -> tuple[Column, ...]:
    """A table's columns, without those of training data and with PSNR and SSIM."""
    kept = [column for column in columns if column.split == "test"]
    return (*kept, *SCORES)
