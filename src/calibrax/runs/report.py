"""Runs on one page of HTML that needs no other file and no network (`calibrax report`)."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from calibrax._files import write_text
from calibrax.data import steps_per_epoch
from calibrax.evaluation import record, report
from calibrax.evaluation.figures.comparison import save_comparison_panel
from calibrax.evaluation.figures.training_curves import Panel, panels, save_training_panel
from calibrax.runs import folder as run_folder
from calibrax.runs import html
from calibrax.runs.compare import check_different, read_results, read_rows
from calibrax.runs.config import TrainConfig
from calibrax.runs.folder import RunError
from calibrax.runs.settings import ConfigError, as_flag

MOST_ROWS = 4000  # training rows that a page draws; with more, an SVG is larger than the pictures
# Pictures of each evaluation, in subfolders of the run's folder, and what they show.
EPOCH_PICTURES = {
    "samples": "images that the model draws",
    "reconstructions": "test images, and below each the model's reconstruction of it",
    "predictions": "a test video, and the model's predictions of it",
    "scores": "PSNR (dB) and SSIM of predicted frames of test videos, by time step",
}
# Figures of a finished run, in its folder, and what they show.
FIGURES = {
    "calibration.png": "calibration of the decoder on test images: where data fall in the predicted distribution, "
    "coverage of central intervals (%), and actual against predicted size of the error (units of the data)",
    "layers.png": "KL from the prior of each layer (nats per example), by training step",
    "prediction.png": "PSNR (dB) and SSIM of predicted frames of test videos, by time step",
    "film.png": "a test video, and the model's predictions of it",
}


COMPARED = (
    "Test data, with the running average of σ. Nats (rate, distortion, -log P too) are means per example; bits/dim are "
    "bits per value at 256 levels; σ is in units of the data."
)


class _Saved(NamedTuple):
    """A run, as its folder describes it."""

    folder: str
    config: TrainConfig
    described: Mapping[str, Any]  # the content of config.json
    results: report.Results | None
    rows: Sequence[Mapping[str, Any]]

    @property
    def step(self) -> int:
        """The newest step in the log."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def data(self) -> Mapping[str, Any]:
        """Name, shape and numbers of the data, as far as config.json says them."""
        data = self.described.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def last_step(self) -> int | None:
        """The number of steps that the run was begun with; None if config.json lacks the number of examples."""
        num = self.data.get("train")
        if type(num) is not int or num < 1:
            return None
        return self.config.run.epochs * steps_per_epoch(num, self.config.run.batch_size)

    @property
    def summary(self) -> report.Results:
        """The results, or what is known of them before there are any."""
        if self.results is not None:
            return self.results
        known = {name: f"own-{name}" for name in run_folder.read_custom(self.folder)}
        keys = {"data": "name", "train_examples": "train"}  # those of results.json, and of config.json
        known |= {key: self.data[name] for key, name in keys.items() if name in self.data}
        return self.config.flat() | known | {"step": self.step, "test": {"running average": {}}}


def write_report(folders: Sequence[str], out: str | None = None) -> Path:
    """Write a page on one run, or one that compares several: settings, results, curves, pictures, calibration.

    The page is one HTML file with everything in it. By default it is `report.html` in the run's folder, or in the
    current folder for several runs. It needs no evaluation: it says what is missing and the command that makes it.

    Args:
      folders: the runs' folders, all different.
      out: the page, a name that ends in .html.

    Returns:
      The page's path.

    Raises:
      ConfigError, RunError: for a user's mistake, in one line; nothing is written.
    """
    if not folders:
        raise ConfigError("no run to report on; expected at least one folder")
    if out is not None and Path(out).suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out is {out}; expected a name that ends in .html")
    check_different(folders)
    saved = [_read(folder) for folder in folders]
    path = Path(out or "report.html") if out or len(folders) > 1 else Path(folders[0]) / "report.html"
    run_folder.check_length(f"--out {path}", path)
    text = _page_of_one(saved[0]) if len(saved) == 1 else _page_of_several(saved)
    try:
        write_text(path, text)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; --out gives another place") from error
    return path


def _read(folder: str) -> _Saved:
    config = run_folder.read_config(folder)
    described = run_folder.read_json(Path(folder) / run_folder.CONFIG_FILE)
    path = Path(folder) / run_folder.RESULTS_FILE
    run = _Saved(folder, config, described, read_results(folder) if path.exists() else None, read_rows(folder))
    try:
        _results(run)
    except Exception as error:  # in a file that somebody edited, anything may be of any type
        raise RunError(f"cannot read {path}: it holds no results of a run") from error
    return run


# The pages


def _page_of_one(run: _Saved) -> str:
    title = f"{run.summary['data']}, {run.summary['likelihood']}, {run.summary['model']}"
    return html.page(
        title,
        f"<p>Run <code>{html.text(run.folder)}</code>. {_state(run)}</p>",
        html.section("Results", _results(run)),
        html.section("Training curves", _curves(run)),
        html.section("Pictures", _pictures(run)),
        html.section("Settings", _settings([run], [""]) + _origin(run)),
    )


def _page_of_several(runs: Sequence[_Saved]) -> str:
    labels = report.labels([run.folder for run in runs], [run.summary for run in runs])
    by_label = dict(zip(labels, runs, strict=True))
    states = html.listed(
        f"<b>{html.text(label)}</b> (<code>{html.text(run.folder)}</code>): {_state(run)}"
        for label, run in by_label.items()
    )
    measured = {label: run.results for label, run in by_label.items() if run.results is not None}
    results = "<p>No run has results yet.</p>"
    if measured:
        (headings, *cells), notes = report.comparison_cells(measured)
        results = html.table(COMPARED, headings, cells) + html.listed(map(html.text, notes))
    results += "".join(_missing(run, f"<b>{html.text(label)}</b>: ") for label, run in by_label.items())
    pictures = "".join(f"<h3>{html.text(label)}</h3>{_pictures(run)}" for label, run in by_label.items())
    return html.page(
        f"{len(runs)} runs compared",
        states,
        html.section("Results", results),
        html.section("Training curves", _compared_curves(by_label)),
        html.section("Pictures", pictures),
        html.section("Settings", _settings(runs, labels)),
    )


def _state(run: _Saved) -> str:
    """A sentence on how far the run is."""
    last, step = run.last_step, run.step
    if last is None or step > last:  # begun with fewer epochs than it has now
        return f"Step {step:,}."
    if step == last:
        return f"Finished: all {last:,} steps."
    resume = html.command("train", "--resume", "--run-dir", run.folder)
    return f"Unfinished: step {step:,} of {last:,}; {resume} resumes it."


def _results(run: _Saved) -> str:
    if run.results is None:
        return _missing(run)
    results, shape = run.results, run.results.get("event_shape") or []
    columns = {f"test data, {name}": one for name, one in results["test"].items()}
    columns |= {f"training data, {name}": one for name, one in results.get("train", {}).items()}
    frames = shape[0] if run.config.is_video and shape else None
    cells = report.results_cells(list(columns.values()), frames=frames)
    calibrated_on = "validation" if results.get("calibrated_on") == "validation" else "training"
    caption = (
        f"Results at step {results.get('step', 0):,} on {html.text(report.tested_on(results))}. "
        f"Nats are means per example, of {_shape(shape)} values; bits/dim are bits per value at 256 levels. Sigma "
        "is in units of the data, MSE in their square; “running average” is the σ of training, “calibrated” the exact "
        f"one over the {calibrated_on} data."
    )
    table = html.table(caption, ["", *columns], [[label.strip(), *row] for label, row in cells.items()])
    return table + html.listed(map(html.text, record.lines(results))) + _missing(run)


def _missing(run: _Saved, label: str = "") -> str:
    """What was not measured, with the command that measures it; empty if nothing is missing."""
    evaluate, last = html.command("evaluate", run.folder), run.last_step
    if run.results is None:
        if last is not None and run.step < last:
            return html.note(
                f"{label}No results yet: training is not finished. {evaluate} measures the newest checkpoint."
            )
        return html.note(f"{label}No results yet; {evaluate} makes them.")
    noun = "videos" if run.config.is_video else "images"
    metrics = (
        one for one in record.METRICS if one.noun in (None, noun) and not one.not_measured
    )  # which says so itself
    missing = [one.name for one in metrics if one.name not in run.results]
    if not missing:
        return ""
    return html.note(f"{label}Not measured: {', '.join(missing)}. {evaluate} measures those that this decoder has.")


def _curves(run: _Saved) -> str:
    rows, every = _thinned(run.rows)
    if not rows:
        return html.note("No step is logged yet.")
    which = "each training batch" if every == 1 else f"every {every}th training batch"
    key = f"Thin line: {which}; thick line: running median; points: test data; triangles: test values beyond the axis."
    return f"<p>{key}</p>" + _panels(panels(rows), lambda path, panel: save_training_panel(path, rows, panel))


def _compared_curves(runs: Mapping[str, _Saved]) -> str:
    rows = {label: _thinned(run.rows)[0] for label, run in runs.items()}
    key = "Lines with markers: test data; thin lines, of runs without test values: running median of training batches."
    wanted = panels([row for one in rows.values() for row in one])
    return f"<p>{key}</p>" + _panels(wanted, lambda path, panel: save_comparison_panel(path, rows, panel))


def _panels(wanted: Sequence[Panel], save: Callable[[Path, Panel], None]) -> str:
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for index, panel in enumerate(wanted):
            path = Path(folder) / f"{index}.svg"
            save(path, panel)
            svg = html.themed(path.read_text(encoding="utf-8")).encode()
            scale = ", logarithmic scale" if panel.logarithmic else ""
            caption = f"{panel.name[0].upper()}{panel.name[1:]}{scale}, by training step".replace("Σ", "σ")
            figures.append(html.figure("image/svg+xml", svg, caption, "curve"))
    return f'<div class="grid">{"".join(figures)}</div>'


def _thinned(rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Rows of which every n-th of training is kept, and n."""
    num = sum(row["split"] == "train" for row in rows)
    every = max(1, math.ceil(num / MOST_ROWS))
    return [dict(row) for row in rows if row["split"] != "train" or row["step"] % every == 0], every


def _pictures(run: _Saved) -> str:
    """The newest pictures of each kind, and the figures of the evaluation."""
    figures = []
    for kind, shown in EPOCH_PICTURES.items():
        for suffix in (".png", ".gif"):
            paths = [path for path in (Path(run.folder) / kind).glob(f"step_*{suffix}") if path.is_file()]
            if paths:
                newest = max(paths, key=lambda path: (len(path.name), path.name))
                step = newest.stem.removeprefix("step_").lstrip("0") or "0"
                caption = f"{kind.capitalize()} at step {step}: {shown}"
                figures.append(html.figure(f"image/{suffix[1:]}", newest.read_bytes(), caption))
    for name, shown in FIGURES.items():
        path = Path(run.folder) / name
        if path.is_file():
            wide = "wide" if name == "calibration.png" else ""
            figures.append(html.figure("image/png", path.read_bytes(), shown[0].upper() + shown[1:], wide))
    if not figures:
        return html.note("No pictures yet: the run makes them at its evaluations.")
    return f'<div class="grid">{"".join(figures)}</div>'


def _settings(runs: Sequence[_Saved], labels: Sequence[str]) -> str:
    flat = [run.config.flat() for run in runs]
    names = list(dict.fromkeys(name for one in flat for name in one if name not in ("run_dir", "resume")))
    rows = [[as_flag(name), *(_value(one[name]) if name in one else "-" for one in flat)] for name in names]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    if len(runs) == 1:
        listed = "".join(f"<div><dt>{html.text(name)}</dt><dd>{html.text(value)}</dd></div>" for name, value in rows)
        return f'<p>Options of <code>calibrax train</code>.</p><dl class="settings">{listed}</dl>'
    same = [[row[0], row[1]] for row in rows if row not in differing]
    differ = html.table("Options in which the runs differ.", ["option", *labels], differing) if differing else ""
    return differ + html.folded("Options in which they agree", html.table("", ["option", "value"], same))


def _origin(run: _Saved) -> str:
    """Where the run was made: commit, versions and devices."""
    versions, devices = run.described.get("versions"), run.described.get("devices")
    rows = [["commit", str(run.described.get("commit") or "-")]]
    rows += [[name, str(version)] for name, version in versions.items()] if isinstance(versions, dict) else []
    rows += [["devices", ", ".join(map(str, devices))]] if isinstance(devices, list) else []
    caption = "What the run was begun with: the commit of calibrax, versions of packages, devices."
    return html.folded("Versions and devices", html.table(caption, ["part", "version"], rows))


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _value(value: Any) -> str:
    if value is None:
        return "not set"
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
