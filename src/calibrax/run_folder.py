"""The folder of a run: who may write to it, and what is written down beside the checkpoints."""

import dataclasses
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from calibrax.config import ConfigError, TrainConfig
from calibrax.data import ImageData

CONFIG_FILE = "config.json"
RESULTS_FILE = "results.json"
PACKAGES = ("calibrax", "jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy", "tensorflow-datasets")
MAY_CHANGE = (  # on resuming
    "data_dir",
    "epochs",
    "eval_every",
    "max_skipped",
    "parallel",
    "resume",
    "run_dir",
    "save_every",
)


class RunError(Exception):
    """Something about a run's folder that the user can mend; the message is one line."""


def check_usable(config: TrainConfig) -> None:
    """Refuse a folder that holds another run, or none where one is to be resumed; before any work is done."""
    if config.run_dir is None:
        return
    folder = Path(config.run_dir)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--run-dir {folder} is a file; expected a folder")
    if not config.resume:
        if (folder / CONFIG_FILE).exists():
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


def claim(config: TrainConfig, data: ImageData) -> Path:
    """Make the run's folder, or check that a resumed run meets the data it was begun with; returns the folder."""
    folder = _new_folder(config, data) if config.run_dir is None else Path(config.run_dir)
    shapes = {"name": data.name, "event_shape": list(data.event_shape)}
    shapes |= {"train": len(data.train), "test": len(data.test)}
    if config.resume:
        saved = read_json(folder / CONFIG_FILE)["data"]
        for name, value in shapes.items():
            if saved.get(name) != value:
                raise RunError(f"{folder} was begun on data with {name} {saved.get(name)}; {config.data} has {value}")
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the run folder {folder}: {error.strerror}") from error
    record = {
        "config": dataclasses.asdict(dataclasses.replace(config, run_dir=str(folder), resume=False)),
        "data": shapes | {"origin": data.origin, "license": data.license},
        "commit": commit(),
        "versions": {"python": platform.python_version()} | package_versions(),
        "devices": [str(device) for device in jax.devices()],
    }
    write_json(folder / CONFIG_FILE, record)
    return folder


def read_config(folder: str | Path) -> TrainConfig:
    """The settings of the run in a folder, with `run_dir` where it is now."""
    path = Path(folder) / CONFIG_FILE
    if not path.exists():
        raise RunError(f"{folder} holds no run: there is no {CONFIG_FILE} in it")
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    settings: dict[str, Any] = {name: value for name, value in read_json(path)["config"].items() if name in known}
    settings["run_dir"] = str(folder)
    return TrainConfig(**settings)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a file that is there whole or not at all."""
    write_text(path, json.dumps(record, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


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


def _new_folder(config: TrainConfig, data: ImageData) -> Path:
    name = f"{data.name}-{config.likelihood}-seed{config.seed}"
    folder, count = Path("runs") / name, 2
    while folder.exists():
        folder, count = Path("runs") / f"{name}-{count}", count + 1
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote; raises RunError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
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
