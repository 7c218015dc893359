"""Training: a pure step, wrappers that say where it runs, checkpoints and logs."""

from calibrax.training.checkpoint import Checkpoints
from calibrax.training.logging import MetricsLog, read_metrics
from calibrax.training.parallel import Stepper, jit_step, pmap_step, sharded_step
from calibrax.training.state import TrainState, create_train_state
from calibrax.training.step import example_keys, train_step

__all__ = [
    "Checkpoints",
    "MetricsLog",
    "Stepper",
    "TrainState",
    "create_train_state",
    "example_keys",
    "jit_step",
    "pmap_step",
    "read_metrics",
    "sharded_step",
    "train_step",
]
