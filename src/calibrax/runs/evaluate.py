"""A finished run measured by the metrics of `evaluation.record` (`calibrax evaluate`)."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from calibrax.data import DataError
from calibrax.data.download import Remote, fetch
from calibrax.evaluation import record
from calibrax.evaluation.metric import Subject
from calibrax.evaluation.metrics import fid, inception_weights
from calibrax.evaluation.metrics.feature_cache import cache_folder
from calibrax.evaluation.record import Wanted
from calibrax.runs import folder as run_folder
from calibrax.runs.run import Run
from calibrax.runs.settings import ConfigError

INCEPTION = Remote(inception_weights.WEIGHTS_URL, inception_weights.WEIGHTS_SIZE, inception_weights.WEIGHTS_SHA256)


def evaluate(run: Run, wanted: Wanted) -> dict[str, Any]:
    """`Run.evaluate` and then the wanted metrics; written to `results.json` and printed.

    Args:
      run: with a checkpoint.
      wanted: as for `measure`; `inception` may be `download`.

    Returns:
      What `results.json` holds.

    Raises:
      ConfigError: if an option does not fit the run, or weights cannot be fetched or read; before anything is measured.
    """
    check_options(wanted, len(run.test), run.data.noun)
    options = wanted.get("fid")
    if options is not None and options.inception is not None:
        wanted = {**wanted, "fid": dataclasses.replace(options, inception=checked_weights(options.inception))}
    results = measure(run, run.evaluate(), wanted)
    print("\n".join(record.lines(results)))
    return results


def measure(run: Run, results: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    """Measure a run's newest checkpoint on the test data, and write `results.json` with what was measured.

    Args:
      run: with a checkpoint.
      results: what `Run.evaluate` returned; not changed.
      wanted: the metrics to measure, with their options.

    Returns:
      The results with those of the metrics.
    """
    state = run.saved_state()
    subject = Subject(
        trained=run.trained(state),
        examples=run.test,
        key=run.eval_key,
        batch_size=run.batch_size,
        past=run.past,
        folder=run.folder,
        name=run.config.likelihood.name,
        title=run.caption(state),
    )
    results = results | record.measure(wanted, subject)
    run_folder.write_json(run.folder / run_folder.RESULTS_FILE, results)
    return results


def check_options(wanted: Wanted, num_test: int, noun: str) -> None:
    """Raise ConfigError for options that do not fit the test data, or the kind of model: of "images" or "videos"."""
    with _as_config_error():
        record.check_options(wanted, num_test, noun)


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
    """The file that `--inception` names; `download` is the published one, which is fetched once into the user's cache.

    Raises:
      ConfigError: if it cannot be fetched.
    """
    if inception != "download":
        return inception
    path = cache_folder() / inception_weights.WEIGHTS_FILE
    if not path.exists():
        try:
            fetch(INCEPTION, path, timeout=30)
        except DataError as error:
            raise ConfigError(f"--inception download: {error}; --inception FILE takes a copy from elsewhere") from error
    return str(path)
