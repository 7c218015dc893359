"""The figure in README.md: street-digits, their reconstructions, and samples of an optimal σ-VAE.

Command:   make figure RUN=runs/street-digits-optimal-sigma-seed0     (a run of `make svhn-optimal`)
Time:      seconds, once the run exists.
Writes:    docs/street-digits.png, or the file given by --out.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from calibrax import cli
from calibrax.evaluation import generate, reconstruct
from calibrax.runs.run import Run
from experiments.figures.panels import save_comparison

NUM_IMAGES = 36


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="front-page", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("--out", default="docs/street-digits.png", help="the PNG to write")
    options = parser.parse_args(argv)
    return cli.guarded(lambda: draw(options.run, options.out))


def draw(folder: str, out: str | Path) -> None:
    run = Run.open(folder)
    trained = run.trained()
    images = run.data.test[:NUM_IMAGES]
    panels = [
        (f"{run.data.name}, test images", images),
        ("reconstructions", reconstruct(trained, images, key=run.eval_key)),
        ("samples", generate(trained, NUM_IMAGES, key=jax.random.key(0))),
    ]
    save_comparison(out, panels)
    print(out)


if __name__ == "__main__":
    sys.exit(main())
