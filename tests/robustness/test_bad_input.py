"""Bad input to commands, files, folders and functions, each with the one line that reports it."""

import io
import json
import re
import shlex
import shutil
import signal
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from tiny_runs import train_args, write_images

import calibrax as cx
from calibrax import cli, data, linen, objectives, running_average
from calibrax.data import DataError
from calibrax.evaluation import (
    Trained,
    evaluate_calibration,
    evaluate_likelihood,
    frechet_distance,
    generate,
    importance_bounds,
    kid,
    moments,
    reconstruct,
    report,
)
from calibrax.evaluation.figures import images as figures
from calibrax.evaluation.metrics import frame_scores as video
from calibrax.evaluation.metrics import inception, prediction
from calibrax.evaluation.metrics.inception_weights import InceptionWeightsError, load_weights
from calibrax.models import ConvVAE
from calibrax.runs import ConfigError, TrainConfig
from calibrax.training import Checkpoints, create_train_state, read_metrics

SECONDS = 10  # limit per case
KEY = jax.random.key(0)
LONG = "x" * 300  # longer than file systems allow for a name


class TooLongError(BaseException):
    """A time-out that the tested code does not catch."""


@contextmanager
def limited():
    def too_long(signum, frame):
        raise TooLongError(f"more than {SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield


def by_id(cases):
    return [pytest.param(case, id=case.id) for case in cases]


# Invalid files and folders


def levels(num, *shape):
    return np.random.default_rng(0).integers(0, 256, (num, *shape), dtype=np.uint8)


GOOD, FILMS = levels(20, 8, 8, 3), levels(6, 4, 64, 64, 1)


def npz(path="bad.npz", **arrays):
    return lambda: np.savez(path, **arrays)


def films(test=FILMS):
    return npz(train=FILMS, test=test)


def text(path, content=""):
    def write():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content, encoding="utf-8")

    return write


def pictures(**folders):
    """Write PNG files: `a__b=[(8, 8, 3)]` is one file of that shape in the folder a/b."""

    def write():
        for folder, shapes in folders.items():
            Path(folder.replace("__", "/")).mkdir(parents=True, exist_ok=True)
            for index, shape in enumerate(shapes):
                Image.fromarray(levels(*shape)).save(Path(folder.replace("__", "/")) / f"{index}.png")

    return write


def cut(path, share):
    """Truncate a file to a share of its length."""

    def write():
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: int(len(content) * share)])

    return write


def removed(path):
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def settings(**changes):
    """Change settings in the run's config.json; `...` removes one."""

    def write():
        record = json.loads(Path("run/config.json").read_text())
        record["config"] = {k: v for k, v in (record["config"] | changes).items() if v is not ...}
        Path("run/config.json").write_text(json.dumps(record))

    return write


def results(change):
    """Change the run's results.json: `change(record)` modifies the record or returns another one."""

    def write():
        record = json.loads(Path("run/results.json").read_text())
        Path("run/results.json").write_text(json.dumps(change(record) or record))

    return write


def rows(*lines):
    """Insert lines before those of the run's metrics.jsonl."""

    def write():
        whole = Path("run/metrics.jsonl").read_text()
        Path("run/metrics.jsonl").write_text("\n".join([*lines, whole]))

    return write


def film_run(**changes):
    """Write a run on videos that has no checkpoint yet."""

    def write():
        np.savez("films.npz", train=FILMS, test=FILMS[:3])
        config = {"data": "films.npz", "likelihood": "gaussian", "model": "svg-small", "n_future": 2, "batch_size": 2}
        text("film/config.json", json.dumps({"config": config | changes}))()

    return write


def several(*writers):
    def write():
        for one in writers:
            one()

    return write


def a_file_for_a_folder(path):
    return several(removed(path), text(path))


def a_folder_for_a_file(path):
    return several(removed(path), text(f"{path}/a"))


def bomb():
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64, 3)})
    with zipfile.ZipFile("bad.npz", "w") as archive:
        for name in ("train.npy", "test.npy"):
            archive.writestr(name, header.getvalue())


def twice():
    member = io.BytesIO()
    np.save(member, GOOD)
    with zipfile.ZipFile("bad.npz", "w") as archive:
        for name in ("train.npy", "test.npy"):
            archive.writestr(name, member.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("train.npy", member.getvalue())


def nothing():
    pass


# Commands


class Command(NamedTuple):
    id: str
    line: str  # run in a folder with the images tiny.npz and, if the line names it, the run `run`
    words: str  # a regular expression that the message must match
    damage: Callable[[], Any] = nothing  # called there first


def trains(id, options, words, damage=nothing):
    line = f"train --data tiny.npz --run-dir new --epochs 3 --batch-size 16 --data-dir . {options}"
    return Command(f"train {id}", line, words, damage)


TRAIN = [
    trains("near name", "--likelihood optimal-sigm", "'optimal-sigm' is unknown; did you mean optimal-sigma"),
    trains("far name", "--likelihood zzz", "'zzz' is unknown; expected one of gaussian"),
    trains("model", "--model hvea", "--model 'hvea' is unknown"),
    trains("epochs 0", "--epochs 0", "--epochs is 0; expected at least 1"),
    trains("epochs ten", "--epochs ten", "--epochs"),
    trains("epochs huge", "--epochs 99999999999", "--epochs is 99999999999; expected at least 1, less than 2.31"),
    trains("no value", "--epochs", "--epochs"),
    trains("batch too large", "--batch-size 51", "--batch-size is 51; expected at most 50"),
    trains("batch negative", "--batch-size -3", "--batch-size is -3"),
    trains("batch pmap", "--batch-size 12 --parallel pmap", "--batch-size is 12; expected a multiple of the 8 devices"),
    trains("batch accumulate", "--accumulate 3", "--accumulate is 3; expected a divisor of the batch size, 16"),
    trains("pmap accumulate", "--accumulate 4 --parallel pmap", "--batch-size is 16; expected a multiple of the 8 dev"),
    trains("parallel", "--parallel tpus", "tpus"),
    trains("rate negative", "--learning-rate -1", "--learning-rate is -1"),
    trains("rate nan", "--learning-rate nan", "--learning-rate is nan"),
    trains("rate inf", "--learning-rate inf", "--learning-rate is inf"),
    trains("floor", "--lr-floor 1", "--lr-floor is 1.0; expected at most the learning rate"),
    trains("lr decay", "--lr-decay 1.1", "--lr-decay is 1.1; expected more than 0, at most 1"),
    trains("seed", "--seed -1", "--seed is -1"),
    trains("seed huge", "--seed 4294967296", r"--seed is 4294967296; expected in \[0, 2\^32\)"),
    trains("beta", "--likelihood beta-gaussian --beta 0", "beta is 0"),
    trains("beta unread", "--beta 2", "--beta has no meaning for --likelihood optimal-sigma"),
    trains("decay", "--decay 1", "decay is 1"),
    trains("df", "--likelihood student-t --df -2", "df is -2"),
    trains("components", "--likelihood logistic-mixture --components 0", "components is 0"),
    trains("fraction 0", "--fraction 0", "--fraction is 0.0; expected more than 0, at most 1"),
    trains("fraction 1.5", "--fraction 1.5", "--fraction is 1.5"),
    trains("fraction few", "--fraction 0.1", "--batch-size is 16; expected at most 5, the training images"),
    trains("eval every", "--eval-every 0", "--eval-every is 0; expected at least 1"),
    trains("save every", "--save-every -1", "--save-every is -1"),
    trains("ema", "--ema-decay 1", "--ema-decay is 1.0; expected between 0 and 1"),
    trains("clip", "--clip-grad-norm 0", "--clip-grad-norm is 0.0; expected a positive number"),
    trains("free bits", "--free-bits -1", "--free-bits is -1.0; expected a finite number from 0"),
    trains("image size small", "--image-size 2", "--image-size is 2; expected at least 4"),
    trains("image size large", "--image-size 100000", "--image-size is 100000; expected at least 4, at most"),
    trains("latents", "--latent-dim 0", "--latent-dim is 0"),
    trains("latents unread", "--model hvae-small --latent-dim 7", "--latent-dim has no meaning for --model hvae-small"),
    trains("dropout unread", "--dropout 0.5", "--dropout has no meaning for --model conv-vae"),
    trains("shape", "--model hvae-small --image-size 9", "--model hvae-small cannot take tiny"),
    trains("no file", "--data nowhere.npz", "there is no file nowhere.npz"),
    trains("no data", "--data svnh", "no data called 'svnh': did you mean svhn"),
    trains("data empty", "--data ''", "--data is ''; expected a name or a path"),
    trains("data of another kind", "--data notes.txt", "notes.txt is a file of another kind", text("notes.txt")),
    trains("run dir empty", "--run-dir ''", "--run-dir is ''; expected a name or a path"),
    trains("run dir long", f"--run-dir {LONG}", "the run folder x+ cannot be: File name too long"),
    trains("run dir file", "--run-dir tiny.npz", "--run-dir tiny.npz is a file; expected a folder"),
    trains("run dir taken", "--run-dir run", "run already holds a run; add --resume"),
    trains("option cut short", "--epoch 3", "--epoch"),
    trains("option", "--nonsense", "--nonsense"),
    trains("stray", "stray", "stray"),
    trains("resume nothing", "--resume", "new holds no run: there is no config.json in it"),
    trains("from nothing", "--from none.json", "there is no file none.json; expected the config.json of a run"),
    trains("from folder", "--from run", "there is no file run; expected the config.json"),
    trains("from long", f"--from {LONG}", "there is no file x+; expected the config.json"),
    trains("from and resume", "--from run/config.json --resume --run-dir run", "--from begins a new run, and --resume"),
    trains("from no json", "--from tiny.npz", "cannot read tiny.npz"),
    trains("videos for images", "--data moving-digits", "--model conv-vae is of images, and --data moving-digits are"),
    trains(
        "images for videos",
        "--model svg-small --n-future 2",
        "--model svg-small is of videos, and --data tiny.npz are",
    ),
    trains("one video", "--model svg-small --batch-size 1", "--batch-size is 1; expected more videos"),
    Command("train resume where", "train --resume", "--resume needs --run-dir"),
    Command("train resume no folder", "train --resume --run-dir none", "none holds no run"),
    Command("train resume empty", "train --resume --run-dir ''", "the run folder is ''; expected a name"),
    Command(
        "train resume batch", "train --resume --run-dir run --batch-size 8", "--batch-size is 8, but the run .* 16"
    ),
    Command("train resume seed", "train --resume --run-dir run --seed 5", "--seed is 5, but the run in run was begun"),
]

OTHER = [
    Command("unknown command", "trian", "unknown command 'trian'; expected one of train, evaluate"),
    Command("option for a command", "--verbose", "unknown command '--verbose'"),
    Command("evaluate what", "evaluate", "(?i)required|missing"),
    Command("evaluate nothing", "evaluate none", "none holds no run"),
    Command("evaluate empty", "evaluate ''", "the run folder is ''; expected a name"),
    Command("evaluate long", f"evaluate {LONG}", "the run folder x+ cannot be: File name too long"),
    Command("evaluate file", "evaluate tiny.npz", "tiny.npz holds no run"),
    Command("evaluate two", "evaluate run run", "run"),
    Command(
        "evaluate samples", "evaluate run --importance-samples -1", "--importance-samples is -1; expected 0 or more"
    ),
    Command("evaluate draws", "evaluate run --calibration-draws 1", "--calibration-draws is 1; expected 0, or 2 and"),
    Command("evaluate futures", "evaluate run --futures -1", "--futures is -1; expected 0 or more"),
    Command("evaluate futures unread", "evaluate run --futures 5", "--futures has no meaning for a model of images"),
    Command("evaluate fid alone", "evaluate run --fid-images 8", "--fid-images is 8, but .* with --inception alone"),
    Command("evaluate fid few", "evaluate run --inception a.npz --fid-images 3", "--fid-images is 3; expected 0, or 4"),
    Command("evaluate weights", "evaluate run --inception none.pth", "--inception: weights file is none.pth; expected"),
    Command("evaluate moved data", "evaluate run", "tiny.npz, which is not there now; --data", removed("tiny.npz")),
    Command(
        "evaluate film samples",
        "evaluate film --importance-samples 5",
        "--importance-samples has no meaning for a model of videos",
        film_run(),
    ),
    Command("sample what", "sample", "(?i)required|missing"),
    Command("sample nothing", "sample none", "none holds no run"),
    Command("sample num 0", "sample x --num 0", "--num is 0; expected 1 to 10000"),
    Command("sample num many", "sample x --num 10001", "--num is 10001; expected 1 to 10000"),
    Command("sample out", "sample x --out x.jpeg", r"--out is 'x.jpeg'; expected a name that ends in \.png"),
    Command("sample out empty", "sample x --out ''", r"--out is ''; expected a name that ends in \.png"),
    Command(
        "sample temperature", "sample x --temperature -1", "--temperature is -1.0; expected a finite number from 0"
    ),
    Command("sample seed", "sample x --seed -1", r"--seed is -1; expected a number in \[0, 2\^32\)"),
    Command("sample seed huge", "sample x --seed 99999999999999999999", "--seed is 9+; expected a number in"),
    Command("sample two pictures", "sample run --layers top --traverse 1", "give one of them"),
    Command("sample layers", "sample run --layers top", "conv-vae has one layer of latents"),
    Command("sample traverse", "sample run --traverse 2", "conv-vae has one layer of latents"),
    Command("sample side", "sample run --layers left", "left"),
    Command("sample clip", "sample run --clip 2", "--clip has no meaning for a model of images"),
    Command("sample layers num", "sample run --layers top --num 5", "--num has no meaning for --layers"),
    Command("sample layers noise", "sample run --layers top --noise", "--noise has no meaning for --layers"),
    Command(
        "sample traverse temperature",
        "sample run --traverse 1 --temperature 0.5",
        "--temperature has no meaning for --traverse",
    ),
    Command("sample film noise", "sample film --noise", "--noise is for images", film_run()),
    Command("sample film clip", "sample film --clip 4", "--clip is 4; expected 1 to 3, the test videos", film_run()),
    Command("sample film clip 0", "sample film --clip 0", "--clip is 0; expected 1 to 3, the test videos", film_run()),
    Command("sample film layers", "sample film --layers top", "svg-small has one layer of latents", film_run()),
    Command("sample film early", "sample film", "film holds no checkpoint yet", film_run()),
    Command("compare nothing", "compare", "no run to compare; expected at least one folder"),
    Command("compare no run", "compare none", "none holds no run"),
    Command("compare twice", "compare run run/../run", "run/../run is named twice"),
    Command("compare out", "compare run --out x.gif", r"--out is x.gif; expected a name that ends in .png or .svg"),
    Command("compare out folder", "compare run --out run.png", "cannot write run.png", text("run.png/a")),
    Command("data what", "data", "(?i)required|missing"),
    Command("data no file", "data none.npz", "there is no file none.npz"),
    Command("data no name", "data cifar11 --data-dir .", "no data called 'cifar11': did you mean cifar10"),
    Command(
        "data over itself", "data tiny.npz --picture tiny.npz", r"--picture is tiny.npz; expected .* ends in \.png"
    ),
    Command("data picture", "data none.npz --picture x.gif", r"--picture is x.gif; expected a name that ends in \.png"),
    Command("data size", "data tiny.npz --image-size 0", "image size is 0x0; expected one whole number"),
    Command("data size word", "data tiny.npz --image-size small", "small"),
    Command("data celeba", "data celeba --data-dir .", "celeba is not in .*: no img_align_celeba.zip"),
    Command("data bair", "data bair --data-dir no:where", "bair_robot_pushing_small"),
    Command("data digits", "data moving-digits:none.npz", "there is no file none.npz"),
    Command("models stray", "models x", "calibrax models takes no arguments; got x"),
]

RESUME, AGAIN = "train --resume --run-dir run", "train --from run/config.json --run-dir new"
RUN_FOLDERS = [
    Command("config gone", "evaluate run", "run holds no run: there is no config.json", removed("run/config.json")),
    Command("config cut", "evaluate run", "cannot read run/config.json", cut("run/config.json", 0.5)),
    Command("config empty file", "sample run", "cannot read run/config.json", text("run/config.json")),
    Command("config list", "evaluate run", "it holds no settings of a run", text("run/config.json", "[]")),
    Command("config number", "compare run", "it holds no settings of a run", text("run/config.json", "3")),
    Command("config no settings", "evaluate run", "it holds no settings of a run", text("run/config.json", "{}")),
    Command("config null", "sample run", "it holds no settings of a run", text("run/config.json", '{"config": null}')),
    Command(
        "config lacks all",
        "evaluate run",
        "its settings lack data, likelihood, model",
        text("run/config.json", '{"config": {}}'),
    ),
    Command("config lacks model", RESUME, "its settings lack model", settings(model=...)),
    Command("config deep", "evaluate run", "cannot read run/config.json", text("run/config.json", "[" * 100_000)),
    Command("config folder", "evaluate run", "cannot read run/config.json", a_folder_for_a_file("run/config.json")),
    Command("setting unknown", "evaluate run", "no setting 'wings'", settings(wings=2)),
    Command("setting unknown resume", RESUME, "no setting 'wings'", settings(wings=2)),
    Command("setting unknown from", AGAIN, "no setting 'wings'", settings(wings=2)),
    Command("setting word", "evaluate run", "--epochs is 'many'; expected a whole number", settings(epochs="many")),
    Command("setting none", "sample run", "--seed is None; expected a whole number", settings(seed=None)),
    Command("setting true", "compare run", "--batch-size is True; expected a whole number", settings(batch_size=True)),
    Command(
        "setting list",
        "evaluate run",
        r"--likelihood is \['gaussian'\]; expected text",
        settings(likelihood=["gaussian"]),
    ),
    Command(
        "setting nan",
        "evaluate run",
        "--learning-rate is None; expected a number",
        settings(learning_rate=float("nan")),
    ),
    Command("setting range", "sample run", "run/config.json: decay is 2.0; expected", settings(decay=2.0)),
    Command("setting likelihood", "evaluate run", "--likelihood 'normal' is unknown", settings(likelihood="normal")),
    Command("setting model from", AGAIN, "--model 'unet' is unknown", settings(model="unet")),
    Command("setting lines", "evaluate run", "trained on a b, which is not there now", settings(data="a\nb")),
    Command("setting latents", "sample run", "does not fit its config.json", settings(latent_dim=7)),
    Command(
        "other data",
        RESUME,
        "the run was begun on data with train 50; tiny has 20",
        npz("tiny.npz", train=GOOD, test=GOOD),
    ),
    Command(
        "other data from",
        AGAIN,
        "the run was begun on data with train 50",
        npz("tiny.npz", train=GOOD, test=GOOD),
    ),
    Command(
        "metrics gone", "evaluate run", "cannot read run/metrics.jsonl: No such file", removed("run/metrics.jsonl")
    ),
    Command("metrics line", "evaluate run", "metrics.jsonl: line 1 is not a row of metrics", rows("oops")),
    Command("metrics line compare", "compare run", "metrics.jsonl: line 1 is not a row of metrics", rows("oops")),
    Command("metrics line resume", RESUME, "metrics.jsonl: line 1 is not a row", rows("\x00")),
    Command("metrics no loss", RESUME, "line 1 is not a row", rows('{"step": 1, "split": "train"}')),
    Command(
        "metrics loss",
        RESUME,
        "line 1 is not a row",
        rows('{"step": 1, "split": "train", "loss": "low"}'),
    ),
    Command(
        "metrics skipped",
        RESUME,
        "line 1 is not a row",
        rows('{"step": 1, "split": "train", "loss": 1.0, "skipped": null}'),
    ),
    Command("metrics step", "evaluate run", "line 1 is not a row", rows('{"step": true, "split": "test"}')),
    Command("metrics step below", "compare run", "line 1 is not a row", rows('{"step": -1, "split": "test"}')),
    Command("metrics step huge", "compare run", "line 1 is not a row", rows('{"step": 9999999999, "split": "test"}')),
    Command(
        "metrics folder",
        "evaluate run",
        "cannot read run/metrics.jsonl: Is a directory",
        a_folder_for_a_file("run/metrics.jsonl"),
    ),
    Command(
        "results gone", "compare run", "run holds no results yet; calibrax evaluate run", removed("run/results.json")
    ),
    Command("results folder", "evaluate run", "run/results.json is a folder", a_folder_for_a_file("run/results.json")),
    Command("results cut", "compare run", "cannot read run/results.json", cut("run/results.json", 0.6)),
    Command("results list", "compare run", "run/results.json: it holds no results", text("run/results.json", "[]")),
    Command("results no test", "compare run", "it holds no results of a run", results(lambda record: {"test": {}})),
    Command("results test list", "compare run", "it holds no results of a run", results(lambda record: {"test": [1]})),
    Command(
        "results word",
        "compare run",
        "it holds no results",
        results(lambda r: r["test"]["running average"].update(rate="low")),
    ),
    Command("results step", "compare run", "it holds no results", results(lambda record: record.update(step="last"))),
    Command(
        "results fid",
        "compare run",
        "it holds no results",
        results(lambda record: record.update(fid={"fid": {"value": 3}})),
    ),
    Command("checkpoints gone", "evaluate run", "run holds no checkpoint yet", removed("run/checkpoints")),
    Command("checkpoints gone sample", "sample run", "run holds no checkpoint yet", removed("run/checkpoints")),
    Command(
        "checkpoints file",
        "evaluate run",
        "run/checkpoints is a file; expected a folder",
        a_file_for_a_folder("run/checkpoints"),
    ),
    Command("checkpoints file resume", RESUME, "run/checkpoints is a file", a_file_for_a_folder("run/checkpoints")),
    Command(
        "checkpoint empty",
        "evaluate run",
        "no intact checkpoint in .*: checkpoint 3 is damaged",
        several(removed("run/checkpoints"), text("run/checkpoints/3/a")),
    ),
    Command(
        "checkpoint manifest", "sample run", "checkpoint 3 is damaged", removed("run/checkpoints/3/manifest.sha256")
    ),
    Command(
        "checkpoint metadata", RESUME, "checkpoint 3 is damaged", text("run/checkpoints/3/_CHECKPOINT_METADATA", "{}")
    ),
]


def reads(id, words, damage, line="data bad.npz"):
    return Command(id, line, words, damage)


FILES = [
    reads("npz floats", "'train' is float64 .*; expected uint8", npz(train=GOOD / 255, test=GOOD)),
    reads("npz integers", "'test' is int64", npz(train=GOOD, test=GOOD.astype(int))),
    reads("npz signed", "'train' is int8", npz(train=GOOD.astype(np.int8), test=GOOD)),
    reads(
        "npz grey", r"'train' is uint8 \(20, 8, 8\); expected uint8 \[N, H, W, C\]", npz(train=GOOD[..., 0], test=GOOD)
    ),
    reads("npz scalar", r"'train' is uint8 \(\); expected uint8", npz(train=np.uint8(3), test=GOOD)),
    reads("npz empty train", r"'train' is uint8 \(0, 8, 8, 3\)", npz(train=GOOD[:0], test=GOOD)),
    reads("npz empty test", r"'test' is uint8 \(0, 8, 8, 3\)", npz(train=GOOD, test=GOOD[:0])),
    reads(
        "npz empty validation", r"'validation' is uint8 \(0, 8, 8, 3\)", npz(train=GOOD, test=GOOD, validation=GOOD[:0])
    ),
    reads("npz no channels", r"expected uint8 \[N, H, W, C\]", npz(train=GOOD[..., :0], test=GOOD[..., :0])),
    reads("npz no test", "has no array 'test'; expected uint8 arrays 'train' and 'test'", npz(train=GOOD)),
    reads("npz no train", "has no array 'train'", npz(x_train=GOOD, x_test=GOOD)),
    reads("npz no array", "has no array 'train'", npz()),
    reads("npz sizes", "images differ in shape between splits", npz(train=GOOD, test=GOOD[:, 1:])),
    reads("npz objects", "'train' is object", npz(train=np.array([{}, []], object), test=GOOD)),
    reads("npz words", "'train' is <U3", npz(train=np.array(["one"]), test=GOOD)),
    reads(
        "npz cut", "bad.npz cannot be read as an .npz file", several(npz(train=GOOD, test=GOOD), cut("bad.npz", 0.7))
    ),
    reads("npz text", "bad.npz cannot be read as an .npz file", text("bad.npz", "train, test")),
    reads("npz no bytes", "bad.npz cannot be read as an .npz file", text("bad.npz")),
    reads("npz folder", "there is no file bad.npz", text("bad.npz/a")),
    reads("npz promises", "promises .* bytes, more than the file holds", bomb),
    reads("npz twice", "has several arrays 'train'; expected one", twice),
    reads(
        "npz pixels",
        "4 pixels or more",
        npz("tiny.npz", train=GOOD[:, :2, :2], test=GOOD[:, :2, :2]),
        trains("", "", "").line,
    ),
    reads("folder empty", "bad holds no images; expected .png", pictures(bad=[]), "data bad"),
    reads("folder of text", "bad holds no images", text("bad/notes.txt"), "data bad"),
    reads("folder of one", "bad holds 1 image; expected at least two", pictures(bad=[(8, 8, 3)]), "data bad"),
    reads(
        "folder sizes",
        "images differ in size: .*; give an image size",
        pictures(bad=[(8, 8, 3), (9, 8, 3)] * 3),
        "data bad",
    ),
    reads("folder no test", "bad has no images in 'test'", pictures(bad__train=[(8, 8, 3)]), "data bad"),
    reads(
        "folder empty test", "bad has no images in 'test'", pictures(bad__train=[(8, 8, 3)], bad__test=[]), "data bad"
    ),
    reads(
        "folder empty train", "bad has no images in 'train'", pictures(bad__train=[], bad__test=[(8, 8, 3)]), "data bad"
    ),
    reads(
        "folder text picture",
        "b.png cannot be read as an image",
        several(pictures(bad=[(8, 8, 3)]), text("bad/b.png", "png")),
        "data bad",
    ),
    reads(
        "folder cut picture",
        "0.png cannot be read as an image",
        several(pictures(bad=[(8, 8, 3)] * 3), cut("bad/0.png", 0.5)),
        "data bad",
    ),
    reads(
        "folder splits",
        "images differ in shape between splits",
        pictures(bad__train=[(8, 8, 3)], bad__test=[(9, 8, 3)]),
        "data bad",
    ),
    reads(
        "folder link",
        "b.png is not a regular file .for example, a broken link.",
        several(pictures(bad=[(8, 8, 3)]), lambda: Path("bad/b.png").symlink_to("gone.png")),
        "data bad",
    ),
    reads(
        "folder deep pixels",
        "0.png has pixels of mode I",
        several(
            pictures(bad=[(8, 8, 3)] * 3), lambda: Image.fromarray(levels(8, 8).astype(np.uint16)).save("bad/0.png")
        ),
        "data bad",
    ),
]

FILM = "train --model svg-small --data bad.npz --run-dir new --batch-size 2 --n-past 2 --n-future"
VIDEOS = [
    reads("video floats", "'test' is float64", npz(train=FILMS, test=FILMS / 255)),
    reads(
        "video axes",
        "frames differ in shape between splits",
        npz(train=FILMS, test=FILMS[0]),
    ),
    reads(
        "video axes train",
        "images differ in shape between splits",
        npz(train=FILMS[0], test=FILMS),
    ),
    reads("video no test", "has no array 'test'", npz(train=FILMS)),
    reads("video none", r"'test' is uint8 \(0, 4, 64, 64, 1\)", npz(train=FILMS, test=FILMS[:0])),
    reads("video no frames", r"'train' is uint8 \(6, 0, 64, 64, 1\)", npz(train=FILMS[:, :0], test=FILMS)),
    reads("video sizes", "frames differ in shape between splits", npz(train=FILMS, test=FILMS[:, :, 1:])),
    reads("video cut", "cannot be read", several(films(), cut("bad.npz", 0.9))),
    reads(
        "video for images",
        "--model conv-vae is of images, and --data bad.npz are videos",
        films(),
        "train --data bad.npz --run-dir new",
    ),
    reads(
        "video length",
        "--n-past 2 and --n-future 9 add up to 11: .*expected 1 to 4, those of 'train'",
        films(),
        f"{FILM} 9",
    ),
    reads("video test length", "--n-eval is 9: .*expected 1 to 4, those of 'test'", films(), f"{FILM} 2 --n-eval 9"),
    reads(
        "video test short",
        "test videos have 2 frames; expected more than the 2 .*--n-past",
        films(test=FILMS[:, :2]),
        f"{FILM} 2",
    ),
    reads("video n-eval", "--n-eval is 2; expected more than the 2 frames", films(), f"{FILM} 2 --n-eval 2"),
    reads("video n-past", "--n-past is 0; expected at least 1", nothing, f"{FILM} 2 --n-past 0"),
    reads("video one", "there is one test video; expected two or more", films(test=FILMS[:1]), f"{FILM} 2"),
    reads(
        "video few", "--batch-size is 7; expected at most 6, the training videos", films(), f"{FILM} 2 --batch-size 7"
    ),
    reads(
        "video network",
        "--model svg-small cannot take bad",
        npz(train=FILMS[:, :, :9], test=FILMS[:, :, :9]),
        f"{FILM} 2",
    ),
]

COMMANDS = [*TRAIN, *OTHER, *RUN_FOLDERS, *FILES, *VIDEOS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the images `tiny.npz` and a run on them; its settings have that relative path, as in a copy."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.chdir(folder)
        write_images("tiny.npz")
        assert cli.main(train_args("tiny.npz", "run", "--epochs", "1")) == 0
        settings(data="tiny.npz")()
    return folder


def tree(folder):
    """The content of a folder: the bytes of files, the targets of links, and the names of folders."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("case", by_id(COMMANDS))
def test_a_command_reports_bad_input_in_one_line_and_changes_nothing(case, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = shlex.split(case.line)
    shutil.copy(trained / "tiny.npz", tmp_path)
    if "run" in case.line.replace("--run-dir", "").replace("/", " ").split():
        shutil.copytree(trained / "run", tmp_path / "run")
    case.damage()
    before = tree(tmp_path)
    capsys.readouterr()
    with limited():
        code = cli.main(args)
    assert tree(tmp_path) == before
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert re.fullmatch(r"calibrax: [^\n]+\n", err), err
    assert re.search(case.words, err), err


# Settings


class Setting(NamedTuple):
    id: str
    settings: dict[str, Any]
    words: str


SETTINGS = [
    Setting("a word", {"epochs": "3"}, "--epochs is '3'; expected a whole number"),
    Setting("a fraction", {"batch_size": 1.5}, "--batch-size is 1.5; expected a whole number"),
    Setting("a truth", {"latent_dim": True}, "--latent-dim is True; expected a whole number"),
    Setting("a list", {"data": ["svhn"]}, r"--data is \['svhn'\]; expected text"),
    Setting("bytes", {"run_dir": b"runs"}, "--run-dir is b'runs'; expected text or nothing"),
    Setting("a path", {"data_dir": Path("x")}, "--data-dir is .*; expected text or nothing"),
    Setting("an array", {"learning_rate": np.ones((2, 2))}, "--learning-rate is .*; expected a number"),
    Setting("nothing", {"model": None}, "--model is None; expected text"),
    Setting("a choice", {"dtype": "float16"}, "--dtype is 'float16'; expected float32, bfloat16"),
    Setting("an optimizer", {"optimizer": "sgd"}, "--optimizer is 'sgd'; expected adam, adamax"),
    Setting("lines", {"likelihood": "opti\nmal"}, "--likelihood .* is unknown"),
    Setting("no character", {"run_dir": "a\0b"}, "--run-dir is .*; expected a name or a path"),
    Setting("blank", {"data": "  "}, "--data is '  '; expected a name or a path"),
    Setting("not a number", {"free_bits": float("nan")}, "--free-bits is nan; expected a finite number"),
    Setting("accumulate", {"batch_size": 8, "accumulate": 3}, "--accumulate is 3; expected a divisor"),
    Setting("unread by the likelihood", {"df": 3.0}, "--df has no meaning for --likelihood optimal-sigma"),
    Setting("unread by the model", {"n_past": 3}, "--n-past has no meaning for --model conv-vae"),
    Setting("resumes nothing", {"resume": True}, "--resume needs --run-dir"),
    Setting("huge", {"latent_dim": 2**21}, "--latent-dim is 2097152; expected at least 1, at most"),
]


@pytest.mark.parametrize("case", by_id(SETTINGS))
def test_an_invalid_setting_is_reported_in_one_line(case):
    check(ConfigError, case.words, lambda: TrainConfig.from_flat(case.settings))


# Functions


class Call(NamedTuple):
    id: str
    call: Callable[[], Any]  # in an empty folder
    words: str
    error: type[Exception] = ValueError


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


X = zeros(2, 4, 4, 3)
G = cx.gaussian()
update, bits_per_dim = running_average.update, objectives.bits_per_dim


def score(likelihood, outputs, x, state=None, **options):
    return lambda: likelihood.nll({}, {} if state is None else state, outputs, x, **options)


LIKELIHOODS = [
    Call("x shape", score(G, X, X[..., :1]), r"x has shape \(2, 4, 4, 1\); expected \(2, 4, 4, 3\)"),
    Call("x batch", score(G, X, X[:1]), r"x has shape \(1, 4, 4, 3\)"),
    Call("x rank", score(G, X, X[0]), r"x has shape \(4, 4, 3\)"),
    Call("x integers", score(G, X, X.astype(np.int32)), "x has dtype int32; expected uint8"),
    Call("x word", score(G, X, "abc"), r"x has shape \(\)"),
    Call("no example", score(G, X[:0], X[:0]), "expected at least one value"),
    Call("outputs of numbers", score(G, zeros(3), zeros(4)), r"x has shape \(4,\); expected \(3,\)"),
    Call("outputs number", score(G, 3.0, X), r"outputs has shape \(\); expected"),
    Call("outputs complex", lambda: G.mean({}, {}, X.astype(complex)), "expected real numbers"),
    Call("channels", score(cx.pixel_sigma(), X, X), "outputs has 3 channels; expected a multiple of 2"),
    Call("levels", score(cx.categorical(), X, X), "outputs has 3 channels; expected a multiple of 256"),
    Call("mean rank", lambda: G.mean({}, {}, zeros()), r"outputs has shape \(\)"),
    Call("sample channels", lambda: cx.student_t().sample(KEY, {}, {}, zeros(2, 4)), "outputs has 4 channels"),
    Call("no params", score(cx.shared_sigma(), X, X), "params has keys .*; expected 'log_sigma'"),
    Call("no state", score(cx.optimal_sigma(), X, X, train=False), "state has keys .*; expected 'mse'"),
    Call("no dict", score(cx.optimal_sigma(), X, X, state=3, train=False), "state is a int; expected a dict"),
    Call("update", lambda: cx.optimal_sigma().update({}, {}), "has keys .*; expected 'mse'"),
    Call("event shape", lambda: G.init((0, 3)), r"event_shape is \(0, 3\); expected a tuple of positive"),
    Call("event shape word", lambda: G.init("abc"), "event_shape is 'abc'"),
    Call("output channels", lambda: G.output_channels(0), "channels is 0; expected an integer from 1"),
    Call("sigma", lambda: cx.gaussian(sigma=-1), r"sigma is -1; expected a number in \(0, inf\)"),
    Call("sigma word", lambda: cx.gaussian(sigma="1"), "sigma is '1'; expected a number"),  # pyright: ignore
    Call("link", lambda: cx.gaussian(link="tanh"), "link is 'tanh'; expected 'sigmoid'"),  # pyright: ignore
    Call("beta", lambda: cx.beta_gaussian(0), "beta is 0; expected a number"),
    Call("df", lambda: cx.student_t(-1), "df is -1"),
    Call("levels one", lambda: cx.categorical(1), "levels is 1; expected an integer from 2"),
    Call("bits", lambda: cx.bitwise_categorical(0), "bits is 0; expected an integer from 1"),
    Call("components", lambda: cx.logistic_mixture(0), "components is 0; expected an integer from 1"),
    Call("axis", lambda: cx.optimal_sigma(axis="row"), "axis is 'row'; expected None, 'image'"),  # pyright: ignore
    Call("decay", lambda: cx.optimal_sigma(decay=1.0), "decay is 1.0"),
    Call("bounds", lambda: cx.pixel_sigma(min_log_sigma=3, max_log_sigma=1), "max_log_sigma is 1; expected a number"),
    Call("soft clip", lambda: cx.soft_clip(jnp.zeros(()), 3, 1), "low is 3; expected a number under high = 1"),
    Call("joint none", lambda: cx.joint({}), "likelihoods has keys .*; expected at least one name"),
    Call("joint list", lambda: cx.joint([G]), "likelihoods is a list; expected a dict"),  # pyright: ignore
    Call("joint part", lambda: cx.joint({"a": 3}), "is a int; expected a Likelihood"),  # pyright: ignore
    Call("joint slash", lambda: cx.joint({"a/b": G}), "expected at least one name, without a slash"),
    Call("joint keys", score(cx.joint({"a": G}), {"b": X}, {"a": X}), "has keys .*; expected a"),
    Call("framewise", lambda: cx.framewise(3), "likelihood is a int; expected a Likelihood"),  # pyright: ignore
    Call("framewise shape", lambda: cx.framewise(G).init(()), r"expected \(T, ...\)"),
    Call("framewise rank", score(cx.framewise(G), zeros(3), zeros(3)), r"expected \[B, T, ...\]"),
    Call("framewise time", score(cx.framewise(G), zeros(2, 3, 4, 1), zeros(3, 2, 4, 1)), "by the outputs' batch axes"),
    Call("framewise numbers", score(cx.framewise(G), [1.0], [1.0]), r"expected \[B, T, ...\]"),
    Call("masked pair", score(cx.masked(G), X, X), r"expected a pair \(x, mask\)"),
    Call("mask shape", score(cx.masked(G), X, (X, X[:, :2] > 0)), r"mask has shape \(2, 2, 4, 3\)"),
    Call("mask dtype", score(cx.masked(G), X, (X, X)), "mask has dtype float32; expected bool"),
    Call("tempered", lambda: cx.tempered(G, -1), "weight is -1; expected a number in"),
    Call("tempered shape", lambda: cx.tempered(G, jnp.zeros(2)), r"weight has shape \(2,\)"),
    Call("calibrate", lambda: cx.calibrate(3, {}, []), "likelihood is a int; expected"),  # pyright: ignore
    Call("calibrate none", lambda: cx.calibrate(cx.optimal_sigma(), {}, []), "pairs is empty"),
    Call("calibrate arrays", lambda: cx.calibrate(cx.optimal_sigma(), {}, [X]), "expected pairs"),  # pyright: ignore
    Call("decode", lambda: linen.Decode("gaussian"), "likelihood is a str; expected a Likelihood"),  # pyright: ignore
    Call("decode shape", lambda: linen.Decode(G).init(KEY, X, X[..., :1], train=True), "x has shape"),
    Call("decode number", lambda: linen.Decode(G).init(KEY, X, 3.0, train=True), r"x has shape \(\); expected"),
    Call("head channels", lambda: linen.CategoricalHead(0), "channels is 0; expected an integer from 1"),
    Call("head levels", lambda: linen.CategoricalHead(3, 1), "levels is 1; expected an integer from 2"),
    Call("head x", lambda: linen.CategoricalHead(3, 4).init(KEY, X, X[..., :2]), "expected 3 channels"),
    Call("head features", lambda: linen.CategoricalHead(3, 4).init(KEY, zeros(), X), r"features has shape \(\)"),
    Call("head chunk", lambda: linen.CategoricalHead(3, 4, 0).init(KEY, X, X), "max_chunk_logits is 0; expected"),
]

AVERAGE = running_average.init((2,))
OBJECTIVES = [
    Call("average shape", lambda: running_average.init((-1,)), r"shape is \(-1,\); expected a tuple of ints"),
    Call("average number", lambda: running_average.init(3), "shape is 3; expected a tuple"),  # pyright: ignore
    Call("average decay", lambda: update(AVERAGE, zeros(2), decay=1.0), r"decay is 1.0; expected .* \[0"),
    Call("average decay NumPy", lambda: update(AVERAGE, zeros(2), decay=np.float32(-1)), "decay is -1.0"),  # pyright: ignore
    Call("average value", lambda: update(AVERAGE, 1.0, decay=0.9), r"value has shape \(\); expected \(2,\)"),
    Call("average weight", lambda: update(AVERAGE, zeros(2), decay=0.9, weight=zeros(3)), r"weight has shape \(3,\)"),
    Call("kl", lambda: objectives.gaussian_kl(jnp.zeros((2, 3)), jnp.zeros((2, 4))), "log_var has shape"),
    Call("elbo", lambda: objectives.elbo(jnp.zeros(2), jnp.zeros(3)), r"kl has shape \(3,\); expected \(2,\)"),
    Call("free bits", lambda: objectives.free_bits(jnp.zeros((2, 1)), -1.0), "minimum is -1.0; expected a finite"),
    Call("free bits NumPy", lambda: objectives.free_bits(jnp.zeros((2, 1)), np.float32(-1)), "minimum is -1.0"),  # pyright: ignore
    Call("bound of nothing", lambda: objectives.importance_bound(jnp.zeros((0, 3))), "expected at least one sample"),
    Call("bound axis", lambda: objectives.importance_bound(jnp.zeros((2, 3)), axis=2), "axis is 2; expected one of"),
    Call("bits of nothing", lambda: bits_per_dim(1.0, (0, 3)), r"event_shape is \(0, 3\); expected"),
    Call("bits negative", lambda: bits_per_dim(1.0, (-2, -2)), r"event_shape is \(-2, -2\); expected"),
    Call("bits word", lambda: bits_per_dim(1.0, "ab"), "event_shape is 'ab'; expected"),  # pyright: ignore
    Call("beta to sigma", lambda: objectives.beta_to_sigma(-1), "beta is -1; expected a positive finite number"),
    Call("beta to sigma NumPy", lambda: objectives.beta_to_sigma(np.float32(-1)), "beta is -1.0; expected"),
    Call("convention", lambda: objectives.effective_beta(0.0, "mse"), "convention is 'mse'; expected 'sse'"),  # pyright: ignore
    Call("convention list", lambda: objectives.effective_beta(0.0, ["sse"]), "convention is .*; expected"),  # pyright: ignore
]

MODEL = ConvVAE((8, 8, 3), 3, 2)
UNTRAINED = Trained(MODEL, G, {"model": {}, "likelihood": {}}, {})
IMAGES = levels(4, 8, 8, 3)


def state_of(example, likelihood: Any = G):
    return create_train_state(KEY, example, model=MODEL, likelihood=likelihood, optimizer=optax.sgd(0.1))


TRAINING = [
    Call("state likelihood", lambda: state_of(IMAGES, "gaussian"), "likelihood is a str; expected a Likelihood"),
    Call("state of nothing", lambda: state_of(IMAGES[:0]), "expected a batch of at least one example"),
    Call("state of a number", lambda: state_of(3.0), r"example has shape \(\); expected a batch"),
    Call("state of others", lambda: state_of(IMAGES[:, 1:]), "x has shape .*the model's image_shape"),
    Call("keep", lambda: Checkpoints("c", keep=0), "keep is 0; expected a whole number from 1"),
    Call("keep negative", lambda: Checkpoints("c", keep=-1), "keep is -1"),
    Call(
        "file for checkpoints", lambda: [text("c")(), Checkpoints("c")], "c is a file; expected a folder of checkpoints"
    ),
    Call("metrics", lambda: [text("m", "x\n{}\n")(), read_metrics("m")], "m: line 1 is not a row of metrics"),
]

EVALUATION = [
    Call("score nothing", lambda: evaluate_likelihood(UNTRAINED, IMAGES[:0], key=KEY), "examples is empty"),
    Call("score batch", lambda: evaluate_likelihood(UNTRAINED, IMAGES, key=KEY, batch_size=0), "batch_size is 0"),
    Call("reconstruct nothing", lambda: reconstruct(UNTRAINED, IMAGES[:0], key=KEY), "examples is empty"),
    Call("generate nothing", lambda: generate(UNTRAINED, 0, key=KEY), "num is 0; expected an integer of at least 1"),
    Call("generate half", lambda: generate(UNTRAINED, 1.5, key=KEY), "num is 1.5; expected"),  # pyright: ignore
    Call("temperature", lambda: generate(UNTRAINED, 1, key=KEY, temperature=-1.0), "temperature is -1.0; expected"),
    Call("temperature nan", lambda: generate(UNTRAINED, 1, key=KEY, temperature=float("nan")), "temperature is nan"),
    Call("bounds of nothing", lambda: importance_bounds(UNTRAINED, IMAGES[:0], key=KEY), "examples is empty"),
    Call("bounds samples", lambda: importance_bounds(UNTRAINED, IMAGES, key=KEY, num_samples=0), "num_samples is 0"),
    Call("bounds half", lambda: importance_bounds(UNTRAINED, IMAGES, key=KEY, num_samples=1.5), "num_samples is 1.5"),  # pyright: ignore
    Call("calibration pairs", lambda: evaluate_calibration(G, {}, {}, [X], key=KEY), "expected pairs"),  # pyright: ignore
    Call(
        "calibration draws", lambda: evaluate_calibration(G, {}, {}, [(X, X)], key=KEY, num_draws=1), "num_draws is 1"
    ),
    Call("moments rank", lambda: moments(zeros(3)), r"features has shape \(3,\); expected \[N, D\]"),
    Call("moments one", lambda: moments(zeros(1, 3)), "features have 1 rows; expected at least two images"),
    Call("moments nan", lambda: moments(np.full((3, 2), np.nan)), "values that are not finite"),
    Call("fid widths", lambda: frechet_distance(moments(zeros(4, 3)), moments(zeros(4, 2))), "features are 3 and 2"),
    Call("kid few", lambda: kid(zeros(3, 2), zeros(3, 2)), "expected at least 4, 2 and 2"),
    Call("grid of nothing", lambda: figures.save_grid("a.png", IMAGES[:0]), "expected .N, H, W, C. with at least one"),
    Call("grid integers", lambda: figures.save_grid("a.png", IMAGES.astype(int)), "images has dtype int64; expected"),
    Call(
        "pairs of rows", lambda: figures.save_reconstructions("a.png", IMAGES, IMAGES[:1]), "reconstructions has shape"
    ),
    Call(
        "table of nothing", lambda: report.comparison_table({}), "runs is empty; expected the results of at least one"
    ),
    Call("psnr", lambda: video.psnr(zeros(2, 8, 8, 1), zeros(2, 8, 8, 3)), "truth has shape .*, prediction"),
    Call("ssim", lambda: video.ssim(zeros(2, 4, 4, 1), zeros(2, 4, 4, 1)), "expected at least 7x7 pixels"),
    Call("copied", lambda: prediction.copied(FILMS, 4), "past is 4; expected 1 to 3"),
    Call("pixels", lambda: inception.to_uint8(zeros(2, 3)), "images has shape .*expected .N, H, W, C."),
]


def weights(id, path, words, write=nothing, feature=768, error: type[Exception] = InceptionWeightsError):
    return Call(f"weights {id}", lambda: [write(), load_weights(path, feature)], words, error)


FOLDED, NO_LAYER = {"weights_conv": zeros(3), "bias_conv": zeros(32)}, npz("a.npz", x=zeros(3))
WEIGHTS = [
    weights("none", None, "weights file is None; expected pt_inception"),
    weights("gone", "a.pth", "weights file is a.pth; expected pt_inception"),
    weights("folder", ".", "weights file is .; expected pt_inception"),
    weights("feature", "a.pth", "feature is 100; expected one of 64, 192, 768, 2048", feature=100, error=ValueError),
    weights("others", "a.pth", "a.pth: SHA-256 is .*; expected", text("a.pth", "x")),
    weights("text", "a.npz", "a.npz cannot be read", text("a.npz", "x")),
    weights("of no layer", "a.npz", "there is no array weights_conv", NO_LAYER),
    weights("sizes", "a.npz", "is of the wrong size or type for Conv2d_1a_3x3", npz("a.npz", **FOLDED), feature=64),
    weights("end", "a.npz", "these weights end at Mixed_6e", NO_LAYER, feature=2048),
]

DATA = [
    Call("load number", lambda: data.load(3), "data is 3; expected a name or a path", DataError),  # pyright: ignore
    Call(
        "load size",
        lambda: data.load("street-digits", image_size=(3,)),
        "image size is 3; expected one whole number, or",
        DataError,
    ),  # pyright: ignore
    Call("load size word", lambda: data.load("street-digits", image_size="a"), "image size is axa", DataError),  # pyright: ignore
    Call("load none", lambda: data.load("street-digits", num_train=0), "num_train is 0; expected 1 or more", DataError),
    Call("load seed", lambda: data.load("street-digits", seed=-1), "seed is -1; expected 0 or more", DataError),
    Call("load offline", lambda: data.load("mnist", data_dir=".", download=False), "mnist is not in", DataError),
    Call("load data dir", lambda: data.load("mnist", data_dir=""), "data_dir is ''; expected a name", DataError),
    Call("load video", lambda: data.load("moving"), "no data called 'moving': did you mean", DataError),
    Call("load video frames", lambda: data.load("moving-digits", num_frames=0), "num_frames is 0", DataError),
    Call("load video file", lambda: data.load("none.npz"), "there is no file none.npz", DataError),
    Call(
        "load video long",
        lambda: [films()(), data.load("bad.npz", num_frames=5)],
        "number of frames is 5; expected 1 to 4",
        DataError,
    ),
    Call("digits", lambda: data.moving_digits(levels(2, 90, 90)), "size is 64; expected 90 or more"),
    Call("digits dtype", lambda: data.moving_digits(zeros(2, 9, 9)), "digits is float32"),
    Call("fraction", lambda: data.take_fraction(data.Data("a", IMAGES, IMAGES), 0), "fraction is 0", DataError),
    Call("batch size", lambda: next(data.batches(IMAGES, 5, seed=0)), "batch size is 5; expected 1 to 4", DataError),
    Call("batch seed", lambda: next(data.batches(IMAGES, 2, seed=-1)), "seed is -1; expected 0 or more", DataError),
    Call("video batch size", lambda: next(data.batches(FILMS, 0, seed=0)), "batch size is 0", DataError),
]

CALLS = [*LIKELIHOODS, *OBJECTIVES, *TRAINING, *EVALUATION, *WEIGHTS, *DATA]


@pytest.mark.parametrize("case", by_id(CALLS))
def test_a_function_reports_bad_arguments_in_one_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(case.error, case.words, case.call)


def check(error, words, call):
    with limited(), pytest.raises(error) as caught:
        call()
    # Not a subclass, such as UnicodeDecodeError, which would be an accident.
    assert isinstance(caught.value, DataError) or type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert re.search(words, str(caught.value)), caught.value


def test_every_case_has_a_name_of_its_own():
    cases = [*COMMANDS, *SETTINGS, *CALLS]
    assert len({case.id for case in cases}) == len(cases)
    assert all(case.words for case in cases)
