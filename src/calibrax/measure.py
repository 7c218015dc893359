"""What `calibrax evaluate` measures of a run: `Run.evaluate`, and all that takes longer."""

from pathlib import Path
from typing import Any

from calibrax import run_folder
from calibrax.config import ConfigError
from calibrax.data import DataError
from calibrax.data.download import Remote, fetch
from calibrax.evaluation import full, inception_weights
from calibrax.evaluation.feature_cache import cache_folder
from calibrax.run import Run

INCEPTION = Remote(inception_weights.WEIGHTS_URL, inception_weights.WEIGHTS_SIZE, inception_weights.WEIGHTS_SHA256)


def evaluate_fully(run: Run, *, inception: str | None = None, fid_images: int = 0, **wanted: Any) -> dict[str, Any]:
    """`Run.evaluate`, and importance-weighted bound, calibration, information, FID and KID; printed as well.

    Args:
      run: with a checkpoint.
      inception: the file of weights for FID and KID, or `download`; None leaves them out.
      fid_images, wanted: as for `measure`.

    Returns:
      What `results.json` holds.

    Raises:
      ConfigError: if the weights cannot be fetched or read, or there are too few test images for FID and KID; before
        anything is measured.
    """
    num = len(run.data.test)
    check_fid_images(fid_images, num)
    if inception is not None:
        if num < full.MIN_IMAGES_FID:
            few = f"{num} test images are too few for FID and KID"
            raise ConfigError(f"--inception: {few}; expected at least {full.MIN_IMAGES_FID}")
        inception = checked_weights(inception)
    record = measure(run, run.evaluate(), inception=inception, fid_images=fid_images, **wanted)
    print("\n".join(full.lines(record)))
    if inception is None:
        print("FID and KID: not measured, as they need Inception's weights (--inception FILE, or download)")
    return record


def measure(
    run: Run,
    record: dict[str, Any],
    *,
    importance_samples: int = 64,
    calibration_draws: int = 199,
    information: bool = True,
    inception: str | None = None,
    fid_images: int = 0,
) -> dict[str, Any]:
    """Measure a run's newest checkpoint further, on the test images; `results.json` gains what was measured.

    Args:
      run: with a checkpoint.
      record: what `Run.evaluate` returned; not changed.
      importance_samples: of the importance-weighted bound; 0 leaves it out.
      calibration_draws: from p(x | z) for each value; 0 leaves calibration out.
      information: rate, mutual information and marginal KL, where there are images enough and one layer of latents.
      inception: the file of weights for FID and KID; None leaves them out.
      fid_images: how many test images, from the first on, FID and KID compare with as many samples; 0: all.

    Returns:
      The record with what was asked for.
    """
    trained, test, record = run.trained(), run.data.test, dict(record)
    title = f"{run.data.name}, {run.config.likelihood}, step {record['step']}: {len(test):,} test images"
    options: dict[str, Any] = {"key": run.eval_key}
    if importance_samples:
        with full.announced(f"importance-weighted bound, {importance_samples} samples"):
            record["importance"] = full.measure_importance(trained, test, num_samples=importance_samples, **options)
    if calibration_draws:
        with full.announced(f"calibration, {calibration_draws} draws a value"):
            record["calibration"] = full.measure_calibration(
                trained, test, run.folder / "calibration.png", num_draws=calibration_draws,
                name=run.config.likelihood, title=title, **options,
            )  # fmt: skip
    if information and hasattr(run.model, "encode") and len(test) >= full.MIN_IMAGES_INFORMATION:
        with full.announced("information"):
            record["information"] = full.measure_information_of(trained, test, **options)
    if inception is not None:
        with full.announced("FID and KID"):
            record["fid"] = full.measure_fid(trained, test[: fid_images or None], weights=inception, **options)
    run_folder.write_json(run.folder / run_folder.RESULTS_FILE, record)
    return record


def check_fid_images(fid_images: int, num_test: int) -> None:
    """Raise ConfigError, in one line, unless FID can be had of so many test images; 0 stands for all."""
    if fid_images and not full.MIN_IMAGES_FID <= fid_images <= num_test:
        least = full.MIN_IMAGES_FID
        raise ConfigError(f"--fid-images is {fid_images}; expected 0, or {least} to {num_test}, the test images")


def checked_weights(inception: str) -> str:
    """The file of weights that `--inception` names, fetched if need be and read once; ConfigError where that fails."""
    path = weights_file(inception)
    try:
        full.check_weights(path)
    except inception_weights.InceptionWeightsError as error:
        raise ConfigError(f"--inception: {error}") from error
    return path


def weights_file(inception: str, remote: Remote | None = None, folder: Path | None = None) -> str:
    """The file of Inception's weights that `--inception` names.

    Args:
      inception: a file, or `download` for the published one, which is fetched once.
      remote: where that is published; by default `INCEPTION`.
      folder: where it is kept; by default `feature_cache.cache_folder()`.

    Raises:
      ConfigError: if it cannot be fetched.
    """
    if inception != "download":
        return inception
    path = (folder or cache_folder()) / inception_weights.WEIGHTS_FILE
    if not path.exists():
        try:
            fetch(remote or INCEPTION, path, timeout=30)
        except DataError as error:
            raise ConfigError(f"--inception download: {error}; --inception FILE takes a copy from elsewhere") from error
    return str(path)
