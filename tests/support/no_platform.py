"""Commands in a new process in which JAX has no platform."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from calibrax import cli
for command in sys.argv[1:]:
    assert cli.main(command.split()) == 2, command
"""
COMMANDS = {
    "train": "train --data svhn --data-dir nowhere --run-dir run",
    "train by default": "train --data images.npz",
    "from": "train --from config.json --run-dir run",
    "evaluate": "evaluate saved",
    "sample": "sample saved",
    "models": "models",
}


def call_everything(platforms: str, folder: Path, commands=tuple(COMMANDS), **environment: str) -> list[str]:
    """The lines on stderr of each of these commands, which must exit with code 2 and write nothing."""
    before = sorted(folder.rglob("*"))
    environment = {**os.environ, "JAX_PLATFORMS": platforms, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    commands = [COMMANDS[command] for command in commands]
    call = [sys.executable, "-c", PROGRAM, *commands]
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert sorted(folder.rglob("*")) == before
    return done.stderr.splitlines()
