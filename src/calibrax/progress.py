"""What a person sees of a long run: a progress bar, and Ctrl-C that loses nothing."""

import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 30  # where the output is a file, not a terminal


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived and the run is saved; the message says how to go on."""


class ProgressBar:
    """Examples done, examples a second, time left, and the newest ELBO and σ.

    Args:
      step: where the run starts.
      last_step: where it ends.
      batch_size: examples a step.
      unit: what an example is, in short.
    """

    def __init__(self, step: int, last_step: int, batch_size: int, unit: str = "img"):
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

    def advance(self, row: dict | None) -> None:
        """One step more; `row` is the newest row of metrics, where one was fetched."""
        if row is not None:
            text = f"ELBO {-row['neg_elbo']:.1f} nats"
            if "log_sigma" in row:
                text += f", σ {math.exp(row['log_sigma']):.4f}"
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(self._batch_size)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exc_info) -> None:
        self._bar.close()


@contextmanager
def catch_interrupts() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets, for the loop to save and leave; a second Ctrl-C stops at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def note(signum, frame):
        if interrupted.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        interrupted.set()

    previous = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
