"""Training: a pure step, wrappers that say where it runs, checkpoints and logs."""

from calibrax._malloc import keep_freed_memory
from calibrax.training.checkpoint import Checkpoints, DamagedCheckpoint
from calibrax.training.devices import Stepper, jit_step, pmap_step, sharded_step
from calibrax.training.find_nonfinite import first_bad_tensor
from calibrax.training.many_steps import looped_steps, resident_runs, resident_steps
from calibrax.training.metrics_log import BadSteps, MetricsLog, read_metrics
from calibrax.training.state import TrainState, create_train_state, target, variables_of
from calibrax.training.step import Metrics, StepOptions, example_keys, train_step

__all__ = [
    "BadSteps",
    "Checkpoints",
    "DamagedCheckpoint",
    "Metrics",
    "MetricsLog",
    "StepOptions",
    "Stepper",
    "TrainState",
    "create_train_state",
    "example_keys",
    "first_bad_tensor",
    "jit_step",
    "keep_freed_memory",
    "looped_steps",
    "pmap_step",
    "read_metrics",
    "resident_runs",
    "resident_steps",
    "sharded_step",
    "target",
    "train_step",
    "variables_of",
]
