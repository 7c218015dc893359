"""Loggers for tests, and runs without any other logger."""

from calibrax.runs import Logger, TrainConfig


def config_of(images, folder, **settings):
    settings = {"epochs": 2, "batch_size": 16, "log": (), **settings}
    return TrainConfig.for_model(data=str(images), run_dir=str(folder), **settings)


class Kept:
    """A logger that keeps its calls; `fails_at` is the step at which `numbers` raises."""

    def __init__(self, fails_at=None):
        self.starts, self.numbers, self.pictures, self.num_closed, self.fails_at = [], [], [], 0, fails_at

    def logger(self):
        return Logger(
            lambda *args: self.starts.append(args),
            self._take,
            lambda *args: self.pictures.append(args),
            self._close,
        )

    def _take(self, step, values):
        if step == self.fails_at:
            raise ConnectionError("no server\nat all")
        self.numbers.append((step, dict(values)))

    def _close(self):
        self.num_closed += 1
