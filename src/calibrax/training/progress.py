"""The progress bar of a run."""

import math
import sys

SECONDS_BETWEEN_LINES = 30  # if the output is a file rather than a terminal


class ProgressBar:
    """Examples done, examples per second, time left, and the newest ELBO and σ, from `step` to `last_step`."""

    def __init__(self, step: int, last_step: int, batch_size: int, unit: str):
        from tqdm import tqdm

        self._batch_size = batch_size
        interval = 0.2 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
        self._bar = tqdm(
            total=last_step * batch_size,
            initial=step * batch_size,
            unit=unit,
            unit_scale=True,
            mininterval=interval,
            maxinterval=2 * interval,
            dynamic_ncols=True,
            smoothing=0.1,
        )

    def advance(self, row: dict | None, num: int = 1) -> None:
        """Move on by `num` steps. `row` is the newest row of metrics, or None if none was fetched."""
        if row is not None:
            text = f"ELBO {-row['neg_elbo']:.1f} nats"
            if "log_sigma" in row:
                text += f", σ {math.exp(row['log_sigma']):.4f}"
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(num * self._batch_size)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exc_info) -> None:
        self._bar.close()
