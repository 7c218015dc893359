"""The progress bar of a run."""

import math
import sys

from calibrax._terminal import encodable, progress_bar


class ProgressBar:
    """Examples done, examples per second, time left, and the newest ELBO and σ, from `step` to `last_step`."""

    def __init__(self, step: int, last_step: int, batch_size: int, unit: str):
        self._batch_size = batch_size
        total, initial = last_step * batch_size, step * batch_size
        self._bar = progress_bar(total=total, initial=initial, unit=unit, smoothing=0.1)

    def advance(self, row: dict | None, num: int = 1) -> None:
        """Move on by `num` steps. `row` is the newest row of metrics, or None if none was fetched."""
        if row is not None:
            text = f"ELBO {-row['neg_elbo']:.1f} nats"
            if "log_sigma" in row:
                text += f", σ {math.exp(row['log_sigma']):.4f}"
            self._bar.set_postfix_str(encodable(text, sys.stderr), refresh=False)
        self._bar.update(num * self._batch_size)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exc_info) -> None:
        self._bar.close()
