"""Moving digits: what a calibrated decoder does for a video model, on a machine without internet access.

Command:   make moving-digits           (or: python -m experiments.moving_digits --help)
           make moving-digits DATA=moving-mnist, or DATA=moving-digits:mnist.npz, for MNIST's digits
Device:    one CPU.
Time:      eight runs of 1,250 steps, 10 to 20 minutes each on two cores, plus the evaluation. For two of them:
           make moving-digits ARGS="--only optimal-sigma gaussian"
Expected:  from the second frame on, predictions have a better PSNR than a copy of the last given frame. The optimal σ
           needs no β. Its best sample is nearer to the truth than the unit Gaussian's, and its KL stays above zero.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence

from experiments import decoders, report, video_table
from experiments.report import Table
from experiments.sweep import command_line
from experiments.video_table import VideoSweepConfig

SIZE = 64

TABLE = Table(
    name="moving-digits",
    title=f"Moving digits: decoders, svg-small, {SIZE}×{SIZE}",
    source="moving-digits",
    cases=tuple(row.with_settings(model="svg-small", batch_size=16) for row in video_table.rows(SIZE * SIZE)),
    columns=video_table.with_scores(report.COLUMNS),
    ordering=(decoders.OPTIMAL.label, decoders.GAUSSIAN.label),
    remark=(
        "Nats are those of a frame that is predicted from the true ones before it. PSNR and SSIM: data range 1. Nearly "
        "all pixels are black or white: levels whose bins are open, to which σ = 1 gives half of its mass each. "
        "So its -log P of 256 levels is low, whatever it predicts."
    ),
    image_size=SIZE,
)


@dataclasses.dataclass(frozen=True)
class MovingDigitsConfig(VideoSweepConfig):
    """Train a small SVG on moving digits with several decoders and show them side by side."""

    epochs: int = 2
    """Passes over the training videos."""
    seeds: int = 1
    """Runs of each decoder, with seeds 0, 1, ..."""
    futures: int = 20
    """Samples of each test video, of which the best is scored."""


def main(argv: Sequence[str] | None = None) -> int:
    return command_line("moving_digits", argv, MovingDigitsConfig, functools.partial(video_table.make, TABLE))


if __name__ == "__main__":
    sys.exit(main())
