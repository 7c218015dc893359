"""A finished run measured by the metrics of `evaluation.record` (`calibrax evaluate`)."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import jax

from calibrax import evaluation
from calibrax._files import finite_or_none
from calibrax._terminal import say
from calibrax.data import DataError
from calibrax.data.download import Remote, fetch
from calibrax.evaluation import record
from calibrax.evaluation.figures.hierarchy import save_layer_kls
from calibrax.evaluation.figures.training_curves import save_training_curves
from calibrax.evaluation.metric import Subject
from calibrax.evaluation.metrics import fid, inception_weights
from calibrax.evaluation.metrics.feature_cache import cache_folder
from calibrax.evaluation.record import Wanted
from calibrax.evaluation.report import results_table
from calibrax.running_average import is_average
from calibrax.runs import folder as run_folder
from calibrax.runs.run import Run, as_user_error
from calibrax.runs.settings import ConfigError
from calibrax.training import read_metrics, target

CalibrateOn = Literal["train", "validation"]
INCEPTION = Remote(inception_weights.WEIGHTS_URL, inception_weights.WEIGHTS_SIZE, inception_weights.WEIGHTS_SHA256)


def evaluate(run: Run, wanted: Wanted, *, calibrate_on: CalibrateOn = "train") -> dict[str, Any]:
    """Score the newest checkpoint, measure the wanted metrics, write `results.json` and print all of it.

    FID's `inception` may be `download`; `calibrate_on` is that of `score`. Returns the content of `results.json`.

    Raises:
      ConfigError: if an option does not fit the run, or weights cannot be fetched or read; before anything is measured.
    """
    with _as_config_error():
        record.check_options(wanted, len(run.test), run.data.noun)
    options = wanted.get("fid")
    if options is not None and options.inception is not None:
        wanted = {**wanted, "fid": dataclasses.replace(options, inception=checked_weights(options.inception))}
    results = measure(run, score(run, calibrate_on=calibrate_on), wanted)
    say("\n".join(record.lines(results)))
    return results


def score(run: Run, training: dict[str, Any] | None = None, *, calibrate_on: CalibrateOn = "train") -> dict[str, Any]:
    """Score the newest checkpoint by its likelihood: write `results.json` and the curves, print the table.

    Args:
      run: a run with a checkpoint.
      training: how the model was trained; by default what the existing record says.
      calibrate_on: the examples over which the state of the column "calibrated" is averaged. "validation" are those
        of the data set's validation split, or else those that `--fraction` left out of training.

    Returns:
      The content of `results.json`.

    Raises:
      ConfigError: if there are no validation examples.
      RunError: if the run cannot be read.
    """
    results_file = run.folder / run_folder.RESULTS_FILE
    if results_file.is_dir():
        raise run_folder.RunError(f"{results_file} is a folder; expected none, or a file to replace")
    if training is None and results_file.exists():
        with contextlib.suppress(run_folder.RunError, AttributeError):  # a damaged record is about to be replaced
            training = run_folder.read_json(results_file).get("training")
    state = run.saved_state()
    with as_user_error():  # before anything is replaced
        rows = read_metrics(run.folder / run_folder.METRICS_FILE)
    trained = run.trained(state)
    columns = {"running average": trained}
    part = run.train_part if calibrate_on == "train" else run.validation_part
    averages = jax.tree.leaves(state.likelihood_state, is_leaf=is_average)
    if averages and all(map(is_average, averages)):  # what else a state holds cannot be computed anew
        exact = evaluation.calibrate_on(trained, part, key=run.eval_key, batch_size=run.batch_size)
        columns["calibrated"] = trained._replace(likelihood_state=exact)
    tested = {name: run.score(column, run.test) for name, column in columns.items()}
    on_train = run.score(trained, run.train_part)
    event_shape = jax.eval_shape(functools.partial(target, run.model), run.test[:1]).shape[1:]
    results: dict[str, Any] = {
        "data": run.data.name,
        "split": "test",
        "train_examples": len(run.data.train),
        "likelihood": run.likelihood_name,
        "model": run.model_name,
        "event_shape": list(event_shape),
        "step": int(state.step),
        "seed": run.config.run.seed,
        "commit": run_folder.commit(),
        "training": training,
        **({"calibrated_on": calibrate_on} if "calibrated" in tested else {}),
        "test": {name: result._asdict() for name, result in tested.items()},
        "train": {"running average": on_train._asdict()},
    }
    results = finite_or_none(results)
    run_folder.write_json(results_file, results)
    title = f"{run.data.name}, {results['likelihood']}, {results['model']}, seed {results['seed']}"
    save_training_curves(run.folder / "curves.png", rows, title=title)
    if tested["running average"].layer_kls is not None:
        free_bits = run.config.optimizer.free_bits or None
        save_layer_kls(run.folder / "layers.png", rows, free_bits=free_bits, title=title)
    noun, num_train = run.data.noun, len(run.data.train)
    heading = f"{title}, step {results['step']}: {len(run.test):,} test {noun}, in the last column "
    heading += f"{len(run.train_part):,} of the {num_train:,} of training"
    if results.get("calibrated_on") == "validation":
        heading += f"; calibrated on {len(part):,} of validation"
    frames = event_shape[0] if run.data.is_video else None
    say(results_table(heading, {**tested, f"training {noun}": on_train}, frames=frames))
    return results


def measure(run: Run, results: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    """Measure a run's newest checkpoint on the test data, and write `results.json` with what was measured.

    `results` is what `score` returned, and is not changed. Returns it with the results of the metrics.
    """
    state = run.saved_state()
    subject = Subject(
        trained=run.trained(state),
        examples=run.test,
        key=run.eval_key,
        batch_size=run.batch_size,
        past=run.past,
        folder=run.folder,
        name=run.likelihood_name,
        title=run.caption(state),
    )
    results = results | finite_or_none(record.measure(wanted, subject))
    run_folder.write_json(run.folder / run_folder.RESULTS_FILE, results)
    return results


def check_fid_images(fid_images: int, num_test: int) -> None:
    """Raise ConfigError, in one line, unless FID can be measured on so many of the test images; 0 stands for all."""
    with _as_config_error():
        fid.check_fid_images(fid_images, num_test)


@contextlib.contextmanager
def _as_config_error() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


def checked_weights(inception: str) -> str:
    """The file of weights that `--inception` names, fetched if need be and read once; ConfigError if that fails."""
    path = weights_file(inception)
    try:
        inception_weights.load_weights(path, fid.feature_of(path))
    except inception_weights.InceptionWeightsError as error:
        raise ConfigError(f"--inception: {error}") from error
    return path


def weights_file(inception: str) -> str:
    """The file that `--inception` names; `download` is the published one, fetched once into the user's cache."""
    if inception != "download":
        return inception
    path = cache_folder() / inception_weights.WEIGHTS_FILE
    if not path.exists():
        try:
            fetch(INCEPTION, path, timeout=30)
        except DataError as error:
            raise ConfigError(f"--inception download: {error}; --inception FILE takes a copy from elsewhere") from error
    return str(path)
