"""What `calibrax evaluate` measures of a run: `Run.evaluate`, and all that takes longer."""

from pathlib import Path
from typing import Any

from calibrax.runs import folder as run_folder
from calibrax.runs.config import ConfigError
from calibrax.data import DataError
from calibrax.data.download import Remote, fetch
from calibrax.evaluation import full
from calibrax.evaluation.metrics import inception_weights
from calibrax.evaluation.metrics.feature_cache import cache_folder
from calibrax.runs.run import Run

NUM_CALIBRATION_VIDEOS = 32  # some million values
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
    num = len(run.test)
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
    futures: int = 100,
    inception: str | None = None,
    fid_images: int = 0,
) -> dict[str, Any]:
    """Measure a run's newest checkpoint further, on the test data; `results.json` gains what was measured.

    Args:
      run: with a checkpoint.
      record: what `Run.evaluate` returned; not changed.
      importance_samples: of the importance-weighted bound; 0 leaves it out. Video models have none.
      calibration_draws: from p(x | z) for each value; 0 leaves calibration out. Of videos, the first 32 are taken.
      information: rate, mutual information and marginal KL, where there are images enough and one layer of latents.
      futures: samples of each test video, of which the best is scored; 0 leaves them out. Images have no future.
      inception: the file of weights for FID and KID; None leaves them out.
      fid_images: how many test images, from the first on, FID and KID compare with as many samples; 0: all. Of test
        videos, all frames after those that are given count.

    Returns:
      The record with what was asked for.
    """
    trained, test, record = run.trained(), run.test, dict(record)
    title = f"{run.data.name}, {run.config.likelihood}, step {record['step']}"
    common: dict[str, Any] = {"key": run.eval_key}
    if importance_samples and not run.config.is_video:
        with full.announced(f"importance-weighted bound, {importance_samples} samples"):
            record["importance"] = full.measure_importance(trained, test, num_samples=importance_samples, **common)
    if calibration_draws:
        some = test[:NUM_CALIBRATION_VIDEOS] if run.config.is_video else test
        with full.announced(f"calibration, {calibration_draws} draws a value"):
            record["calibration"] = full.measure_calibration(
                trained, some, run.folder / "calibration.png", num_draws=calibration_draws,
                name=run.config.likelihood, title=f"{title}: {len(some):,} test {run.modality.noun}", **common,
            )  # fmt: skip
    if information and hasattr(run.model, "encode") and len(test) >= full.MIN_IMAGES_INFORMATION:
        with full.announced("information"):
            record["information"] = full.measure_information_of(trained, test, **common)
    if run.config.is_video:
        common |= {"past": run.config.n_past, "batch_size": run.modality.batch_size(run.config)}
    if futures and run.config.is_video:
        with full.announced(f"prediction, {futures} samples a video"):
            record["prediction"] = full.measure_prediction(
                trained, test, run.folder, num_samples=futures, title=f"{title}: {len(test):,} test videos", **common
            )
    if inception is not None:
        measure_fid = full.measure_video_fid if run.config.is_video else full.measure_fid
        with full.announced("FID and KID"):
            record["fid"] = measure_fid(trained, test[: fid_images or None], weights=inception, **common)
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
