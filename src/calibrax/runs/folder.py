"""The folder of a run: who may write to it, and what is written down beside the checkpoints."""

import contextlib
import dataclasses
import errno
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from calibrax._files import write_text
from calibrax.runs.config import ConfigError, TrainConfig
from calibrax.data import Data

CONFIG_FILE = "config.json"
RESULTS_FILE = "results.json"
LOCK_FILE = "lock"
PACKAGES = ("calibrax", "jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy", "tensorflow-datasets")
ALWAYS_WRITTEN = ("data", "likelihood", "model")
MAY_CHANGE = (  # on resuming
    "data_dir",
    "epochs",
    "eval_every",
    "max_skipped",
    "parallel",
    "resume",
    "run_dir",
    "save_every",
    "scan_steps",
)


class RunError(Exception):
    """Something about a run's folder that the user can mend; the message is one line, whatever a folder's name has."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


def check_usable(config: TrainConfig) -> None:
    """Refuse a folder that holds another run, or none where one is to be resumed; before any work is done."""
    if config.run_dir is None:
        return
    folder = Path(config.run_dir)
    _check_name(config.run_dir)
    if os.path.exists(folder) and not folder.is_dir():
        raise RunError(f"--run-dir {folder} is a file; expected a folder")
    if not config.resume:
        if os.path.exists(folder / CONFIG_FILE):
            raise RunError(f"{folder} already holds a run; add --resume to go on with it, or give another --run-dir")
        return
    saved = read_config(folder)
    for field in dataclasses.fields(TrainConfig):
        old, new = getattr(saved, field.name), getattr(config, field.name)
        if old != new and field.name not in MAY_CHANGE:
            flag = "--" + field.name.replace("_", "-")
            raise ConfigError(
                f"{flag} is {new}, but the run in {folder} was begun with {old}; a run keeps its settings"
            )


@contextlib.contextmanager
def claimed(config: TrainConfig, data: Data) -> Iterator[Path]:
    """The run's folder, made and described or met again, and kept from other processes while the block runs."""
    folder = _new_folder(config, data) if config.run_dir is None else Path(config.run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the run folder {folder}: {error.strerror}") from error
    with _locked(folder):
        check_usable(dataclasses.replace(config, run_dir=str(folder)))  # again: another process may have been first
        if config.resume:
            check_data(folder / CONFIG_FILE, data)
        else:
            write_json(folder / CONFIG_FILE, _description(config, data, folder))
        yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Until the block or the process ends, however that ends, nobody else gets past here with this folder."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
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


def check_data(config_file: str | Path, data: Data) -> None:
    """Refuse other data than the run of a config.json was begun with."""
    try:
        saved = dict(read_json(Path(config_file))["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"cannot read {config_file}: it does not say what data the run was begun on") from error
    for name, value in _data_description(data).items():
        if saved.get(name) != value:
            begun = f"{config_file}: the run was begun on data with {name} {saved.get(name)}"
            raise RunError(f"{begun}; {data.name} has {value}")


def _description(config: TrainConfig, data: Data, folder: Path) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(dataclasses.replace(config, run_dir=str(folder), resume=False)),
        "data": _data_description(data) | {"origin": data.origin, "license": data.license},
        "commit": commit(),
        "versions": {"python": platform.python_version()} | package_versions(),
        "devices": [str(device) for device in jax.devices()],
    }


def _data_description(data: Data) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    shapes = {"name": data.name, "event_shape": list(data.event_shape)}
    return shapes | {"train": len(data.train), "test": len(data.test)}


def _check_name(folder: str | Path) -> None:
    """Raise RunError for the name of no folder: an empty one, or one that is longer than the system has them."""
    if not str(folder).strip() or "\0" in str(folder):
        raise RunError(f"the run folder is {str(folder)!r}; expected a name")
    try:
        os.stat(folder)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise RunError(f"the run folder {folder} cannot be: {error.strerror}") from error


def read_config(folder: str | Path) -> TrainConfig:
    """The settings of the run in a folder, with `run_dir` where it is now; as `read_settings` takes them."""
    _check_name(folder)
    path = Path(folder) / CONFIG_FILE
    if not os.path.exists(path):
        raise RunError(f"{folder} holds no run: there is no {CONFIG_FILE} in it")
    return _settings(path, run_dir=str(folder))


def read_settings(path: str | Path) -> TrainConfig:
    """The settings in a config.json, for a new run.

    Those that are not there have their defaults, as a run of an older version lacks what is new; but not the data, the
    likelihood and the model, which every version wrote. One that this version does not know is refused: to leave it out
    would be another run.

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
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    if unknown := [name for name in settings if name not in known]:
        raise RunError(f"cannot read {path}: this version has no setting {unknown[0]!r}")
    if lacking := [name for name in ALWAYS_WRITTEN if name not in settings]:
        raise RunError(f"cannot read {path}: its settings lack {', '.join(lacking)}")
    given: dict[str, Any] = {**settings, "run_dir": run_dir}
    try:
        return TrainConfig(**given)
    except ConfigError as error:
        raise RunError(f"cannot read {path}: {error}") from error


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a file that is there whole or not at all."""
    write_text(path, json.dumps(record, indent=2) + "\n")


def commit() -> str | None:
    """The commit of the source tree, `-dirty` where it was changed; None outside a checkout of calibrax."""
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


def _new_folder(config: TrainConfig, data: Data) -> Path:
    name = f"{data.name}-{config.likelihood}-seed{config.seed}"
    folder, count = Path("runs") / name, 2
    while os.path.exists(folder):
        folder, count = Path("runs") / f"{name}-{count}", count + 1
    return folder


def read_json(path: Path) -> Any:
    """What `write_json` wrote, or what somebody made of it; raises RunError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def package_versions() -> dict[str, str]:
    """Of this library and what it stands on, as installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
