"""The folder of a run: who may write to it, and what is written down beside the checkpoints."""

import contextlib
import dataclasses
import errno
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from calibrax._files import from_json, to_json, write_text
from calibrax.data import Data
from calibrax.data.sources import absolute, expanded, files_of
from calibrax.runs.config import TrainConfig
from calibrax.runs.settings import ConfigError, as_flag

CONFIG_FILE = "config.json"
RESULTS_FILE = "results.json"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = "lock"
PACKAGES = ("calibrax", "jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy", "tensorflow-datasets")
REQUIRED = ("data", "likelihood", "model")  # settings that every version has written
MAY_CHANGE = {"data", "data_dir", "parallel", "resume", "run_dir", "scan_steps"}  # settings, when a run is resumed
MAY_CHANGE |= {"epochs", "eval_every", "log", "max_skipped", "save_every"}
NUM_HASHED = 16  # examples of a split that is not in memory: reading or drawing all would take minutes
LONGEST_INSIDE = 200  # characters of a path in a run's folder, about: checkpoints have the longest


class RunError(Exception):
    """Something is wrong with a run's folder that the user can mend; the message is one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


def check_usable(config: TrainConfig) -> None:
    """Before any work is done, refuse a folder that holds another run, or one without a run if it is to be resumed."""
    try:
        Path(config.run.run_dir or "runs").absolute()
    except FileNotFoundError as error:
        raise RunError("the working directory is deleted; change to another, or give an absolute --run-dir") from error
    if config.run.run_dir is None:
        return
    folder = Path(config.run.run_dir)
    _check_name(folder)
    if os.path.exists(folder) and not folder.is_dir():
        raise RunError(f"--run-dir {folder} is a file; expected a folder")
    if not config.run.resume:
        if os.path.exists(folder / CONFIG_FILE):
            raise RunError(f"{folder} already holds a run; add --resume to resume it, or give another --run-dir")
        return
    saved, given = read_config(folder).flat(), config.flat()
    for name in {**saved, **given}:
        if saved.get(name) != given.get(name) and name not in MAY_CHANGE:
            begun = f"the run in {folder} was begun with {saved.get(name)}; a run keeps its settings"
            raise ConfigError(f"{as_flag(name)} is {given.get(name)}, but {begun}")


@contextlib.contextmanager
def claimed(config: TrainConfig, data: Data, custom: Sequence[str] = ()) -> Iterator[Path]:
    """The run's folder, created or found, and locked against other processes while the block runs.

    `custom` names which of `model`, `likelihood` and `optimizer` are the caller's own instead of those of the settings.
    """
    folder = _new_folder(config, data, custom) if config.run.run_dir is None else Path(config.run.run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the run folder {folder}: {error.strerror}") from error
    with _locked(folder):
        config = config.replace(run_dir=str(folder))
        check_usable(config)  # again: another process may have created the run meanwhile
        if not config.run.resume:
            write_json(folder / CONFIG_FILE, _description(config, data, custom))
        yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Until the block or the process ends, no other process gets past this point with this folder."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    try:
        stream = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise RunError(f"cannot write into the run folder {folder}: {error.strerror}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process is training in {folder}") from error
        except OSError:  # a file system without locks
            pass
        yield


def check_data(config_file: str | Path, data: Data) -> Data:
    """Refuse data that differ from those that the run of a config.json was begun on.

    A user's own files may have been moved and renamed, so they are compared by their content; data sets with a name,
    and files of a run that recorded no checksum, by their name. Shape and numbers must be equal in any case.

    Returns:
      The data, under the name that they had when the run was begun.

    Raises:
      RunError: if they differ, or the file cannot be read.
    """
    record = read_json(Path(config_file))
    if isinstance(record, dict) and "data" not in record:  # written by hand
        return data
    try:
        saved = dict(record["data"])
    except (TypeError, ValueError) as error:
        raise RunError(f"cannot read {config_file}: it does not say what data the run was begun on") from error
    described = _data_description(data)
    if isinstance(saved.get("name"), str) and "sha256" in saved:
        described["name"] = saved["name"]
    for name, value in described.items():
        if saved.get(name) != value:
            begun = f"{config_file}: the run was begun on data with {name} {saved.get(name)}"
            raise RunError(f"{begun}; {data.name} has {value}")
    if "sha256" in saved and saved["sha256"] != checksum(data):
        raise RunError(f"{config_file}: the run was begun on other {data.noun} than {data.origin or data.name} holds")
    return dataclasses.replace(data, name=described["name"])


def _description(config: TrainConfig, data: Data, custom: Sequence[str]) -> dict[str, Any]:
    source, data_dir = config.data.name, config.data.data_dir
    places = {"data": absolute(source), "data_dir": data_dir and str(expanded(data_dir).absolute())}
    content = {} if files_of(source) is None else {"sha256": checksum(data)}
    return {
        "config": config.replace(resume=False, **places).flat(),
        **({"custom": list(custom)} if custom else {}),
        "data": _data_description(data) | content | {"origin": data.origin, "license": data.license},
        "commit": commit(),
        "versions": {"python": platform.python_version()} | package_versions(),
        "devices": [str(device) for device in jax.devices()],
    }


def _data_description(data: Data) -> dict[str, Any]:
    """What must be the same when a run is opened again."""
    return {"name": data.name, "event_shape": list(data.event_shape), "train": len(data.train), "test": len(data.test)}


def checksum(data: Data) -> str:
    """SHA-256 of the training and test examples; of the first 16 of a split that is not in memory as a whole."""
    digest = hashlib.sha256()
    for examples in (data.train, data.test):
        num = len(examples) if isinstance(examples, np.ndarray) else min(NUM_HASHED, len(examples))
        for index in range(num):
            digest.update(examples[index].tobytes())
    return digest.hexdigest()


def _check_name(folder: str | Path) -> None:
    """Raise RunError for a name that no run's folder can have: an empty one, or one that is too long for the system."""
    if not str(folder).strip() or "\0" in str(folder):
        raise RunError(f"the run folder is {str(folder)!r}; expected a name")
    check_length(f"the run folder {folder}", Path(folder), "x" * LONGEST_INSIDE)


def check_length(what: str, *parts: str | Path) -> None:
    """Raise RunError if the path of these parts is too long for the system; `what` names it in the message."""
    try:
        os.stat(Path(*parts).absolute())
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise RunError(f"{what} cannot be: {error.strerror}") from error


def read_config(folder: str | Path) -> TrainConfig:
    """The settings of the run in a folder, as `read_settings` reads them; `run_dir` is where the folder is now."""
    _check_name(folder)
    path = Path(folder) / CONFIG_FILE
    if not os.path.exists(path):
        raise RunError(f"{folder} holds no run: there is no {CONFIG_FILE} in it")
    return _settings(path, run_dir=str(folder))


def read_custom(folder: str | Path) -> list[str]:
    """Which of `model`, `likelihood` and `optimizer` of a run are not those of its settings."""
    record = read_json(Path(folder) / CONFIG_FILE)
    custom = record.get("custom") if isinstance(record, dict) else None
    return [name for name in custom if isinstance(name, str)] if isinstance(custom, list) else []


def read_settings(path: str | Path) -> TrainConfig:
    """The settings in a config.json, for a new run.

    Settings that the file lacks have their defaults, because a file of an older version lacks those that are new. The
    data, the likelihood and the model must be there, because every version wrote them. A setting that this version does
    not know is refused: to leave it out would make another run.

    Raises:
      RunError: in one line.
    """
    if not os.path.isfile(path):
        raise RunError(f"there is no file {path}; expected the {CONFIG_FILE} of a run")
    return _settings(Path(path), run_dir=None)


def _settings(path: Path, run_dir: str | None) -> TrainConfig:
    record = read_json(path)
    settings: Any = record.get("config") if isinstance(record, dict) else None
    if not isinstance(settings, dict):
        raise RunError(f"cannot read {path}: it holds no settings of a run")
    if missing := [name for name in REQUIRED if name not in settings]:
        raise RunError(f"cannot read {path}: its settings lack {', '.join(missing)}")
    try:
        return TrainConfig.from_flat({**settings, "run_dir": run_dir})
    except ConfigError as error:
        raise RunError(f"cannot read {path}: {error}") from error


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file so that it is complete or absent, even if the process is killed; see `to_json`."""
    write_text(path, to_json(record, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file, which may have been changed by hand; RunError if it cannot be read."""
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def commit() -> str | None:
    """The commit of the source tree, with `-dirty` if it was changed; None outside a checkout of calibrax."""
    here = Path(__file__).resolve().parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=here, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() if tracked.returncode == 0 else None


def _new_folder(config: TrainConfig, data: Data, custom: Sequence[str]) -> Path:
    likelihood = "own-likelihood" if "likelihood" in custom else config.likelihood.name
    stem = re.sub(r"[^\w.,=+-]+", "_", data.name)[:48]  # a file's name may hold anything and fill 255 bytes
    name = f"{stem}-{likelihood}-seed{config.run.seed}"
    folder, count = Path("runs") / name, 2
    while os.path.exists(folder):
        folder, count = Path("runs") / f"{name}-{count}", count + 1
    return folder


def package_versions() -> dict[str, str]:
    """The installed versions of this library and of what it builds on."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
