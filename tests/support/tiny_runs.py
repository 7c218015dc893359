"""Runs of a few steps on images of 8 x 8, and helpers to inspect them."""

import re
import shutil
from pathlib import Path

import jax
import numpy as np

from calibrax.runs.run import Run
from calibrax.training import read_metrics


def write_images(path):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(8, 8, 3))
    pixels = 128 + 40 * rng.normal(size=(60, 1, 1, 1)) * base + 4 * rng.normal(size=(60, 8, 8, 3))
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    np.savez(path, train=pixels[:50], test=pixels[50:])
    return path


def train_args(images, folder, *extra):
    return ["train", "--data", str(images), "--run-dir", str(folder), "--epochs", "3", "--batch-size", "16", *extra]


def rewind(finished, folder):
    """Copy a finished run without its newest checkpoint, like one that was killed before it saved that checkpoint."""
    shutil.copytree(finished, folder)
    checkpoints = folder / "checkpoints"
    newest = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    shutil.rmtree(checkpoints / str(newest))
    return folder


def final_state(folder):
    return jax.device_get(Run.open(folder).saved_state())


def train_rows(folder):
    return [row for row in read_metrics(Path(folder) / "metrics.jsonl") if row["split"] == "train"]


def assert_one_line(capsys, code, match):
    captured = capsys.readouterr()
    assert code == 2
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("calibrax: ")
    assert re.search(match, lines[0]), lines[0]
