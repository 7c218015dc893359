"""Moving digits: what a calibrated decoder is worth to a video model, on a machine without a network.

Command:   make moving-digits           (or: python -m experiments.moving_digits --help)
           make moving-digits DATA=moving-mnist, or DATA=moving-digits:mnist.npz, for MNIST's digits
Device:    one CPU.
Time:      two runs of 1,250 steps, 10 to 20 minutes each on two cores, and the measuring.
Expected:  predictions beat the last given frame, copied, in PSNR from the second frame on; the optimal σ needs no β,
           its best sample of several is nearer to the truth than the unit Gaussian's, its KL stays away from zero.
"""

import dataclasses
import sys
from collections.abc import Sequence

from experiments import decoders, paper_table, report, video_table
from experiments.report import Table
from experiments.sweep import Case
from experiments.video_table import VideoSweepConfig, original_beta

MODEL = {"model": "svg-small", "batch_size": 16}
ORIGINAL = ("β (original SVG)", {"likelihood": "beta-gaussian", "beta": original_beta(64 * 64)})
ROWS = (decoders.OPTIMAL, decoders.SHARED, ORIGINAL, decoders.GAUSSIAN)

TABLE = Table(
    name="moving-digits",
    title="Moving digits: decoders, svg-small, 64×64",
    cases=tuple(Case(label, settings | MODEL) for label, settings in ROWS),
    columns=video_table.with_scores(report.COLUMNS),
    ordering=(decoders.OPTIMAL[0], decoders.GAUSSIAN[0]),
    remark=(
        "Nats are those of a frame that is predicted from the true ones before it. PSNR and SSIM: data range 1. Nearly "
        "all pixels are black or white: levels whose bins are open, to which σ = 1 gives half of its mass each. "
        "So its -log P of 256 levels is low, whatever it predicts."
    ),
    image_size=64,
)


@dataclasses.dataclass(frozen=True)
class MovingDigitsConfig(VideoSweepConfig):
    """Train a small SVG on moving digits with several decoders, and write them beside one another."""

    epochs: int = 2
    """Passes over the training videos."""
    seeds: int = 1
    """Runs of each decoder, with seeds 0, 1, ..."""
    futures: int = 20
    """Samples of each test video, of which the best is scored."""
    only: tuple[str, ...] = ("optimal-sigma", "gaussian")
    """Rows to train and show, by their likelihoods' names."""


def main(argv: Sequence[str] | None = None) -> int:
    def make(config: MovingDigitsConfig, command: str) -> None:
        video_table.make(TABLE, "moving-digits", config, command)

    return paper_table.guarded("moving_digits", argv, MovingDigitsConfig, make)


if __name__ == "__main__":
    sys.exit(main())
