"""A sweep's results as a table beside the paper's: Markdown, CSV, and where every number comes from."""

import csv
import dataclasses
import hashlib
import io
import itertools
import math
import platform
import statistics
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from calibrax._files import write_text
from calibrax.data import Data, first
from calibrax.runs import folder as run_folder
from experiments.sweep import Case, Done, SweepConfig

AGREES_WITHIN = 0.02  # nats a dimension
HASHED_VIDEOS = 256  # of a split at most


class Column(NamedTuple):
    """A column of a table: a number of the test images' or videos' evaluation, of FID, or of prediction."""

    heading: str
    field: str  # of `Evaluation`; "fid", "kid", "psnr" and "ssim" (of the best sample) are those of `results.json`
    form: str = ".1f"
    paper: str = ""  # the name of the paper's number in `Case.paper`; "" where it has none
    compares: bool = False  # agreement and order are judged on this one
    density_only: bool = False  # left out for decoders over 256 levels
    split: str = "test"
    shift: float = 0.0  # nats a dimension, added to densities: those of pixels in another range than [0, 1]


COLUMNS = (
    Column("-log p", "neg_elbo", paper="neg_log_p", compares=True),
    Column("-log p, training images", "neg_elbo", split="train"),
    Column("-log P, 256 levels", "discretized_neg_elbo"),
    Column("bits/dim", "bits_per_dim", ".3f"),
    Column("σ", "sigma", ".4f"),
    Column("β = 2σ²", "effective_beta", ".4g", paper="beta"),
    Column("rate", "rate"),
    Column("distortion", "distortion"),
    Column("FID", "fid", ".2f", paper="fid"),
    Column("KID", "kid", ".5f"),
)


IN_TWO_SCALINGS = (
    Column("-log p, of pixels in [-1, 1]", "neg_elbo", paper="neg_log_p", compares=True, shift=math.log(2)),
    Column("-log p, of pixels in [0, 1]", "neg_elbo", density_only=True),
    *(column for column in COLUMNS if column.field != "neg_elbo"),
)
NATS = ("neg_elbo", "discretized_neg_elbo", "rate", "distortion")


class Mean(NamedTuple):
    """A mean over seeds."""

    value: float
    stderr: float | None  # None for one seed


class Table(NamedTuple):
    """What a table shows."""

    name: str  # its folder
    title: str
    cases: Sequence[Case]
    columns: Sequence[Column] = COLUMNS
    ordering: Sequence[str] = ()  # labels of cases, the lowest -log p first
    remark: str = ""
    image_size: int | None = None  # of the runs; None: the small network's 28


def value(record: dict[str, Any], field: str, split: str = "test") -> float | None:
    """A number of `results.json`, by the running average's σ; nats of a video are those of one frame of it."""
    if field in ("fid", "kid"):
        measured = record.get("fid", {}).get(field)
        return None if measured is None else measured["value" if field == "fid" else "mean"]
    if field in ("psnr", "ssim"):
        return record.get("prediction", {}).get("best", {}).get(f"mean_{field}")
    number = record[split]["running average"].get(field)
    num_frames = math.prod(record["event_shape"][:-3])
    return number / num_frames if number is not None and field in NATS else number


def mean(done: Iterable[Done], case: Case, column: Column) -> Mean | None:
    """The mean of a number over a case's seeds; None where it has none, or where it is no density."""
    if column.field in ("neg_elbo", "distortion") and not case.is_density:
        return None
    if column.density_only and case.is_discrete:
        return None
    values = []
    for one in done:
        number = value(one.record, column.field, column.split) if one.case == case else None
        if number is not None and math.isfinite(number):
            moved = column.shift and not case.is_discrete
            values.append(number + column.shift * math.prod(one.record["event_shape"][-3:]) if moved else number)
    if not values:
        return None
    stderr = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(statistics.fmean(values), stderr)


def fid_name(done: Sequence[Done], field: str) -> str:
    """FID-768, or FID, as the runs have it; the plain heading says FID for the published network alone."""
    return next((one.record["fid"][field]["name"] for one in done if "fid" in one.record), field.upper())


def agreement(difference: float, dimensions: int) -> str:
    """A difference from the paper's number in nats, and a plain word on it."""
    word = "agrees" if abs(difference) <= AGREES_WITHIN * dimensions else "above" if difference > 0 else "below"
    return f"{difference:+.0f}, {word}"


def ordering_holds(table: Table, done: Sequence[Done]) -> str:
    """Whether -log p rises in the table's order; "" where it names none or a case is missing."""
    (column,) = (column for column in table.columns if column.compares)
    means = [mean(done, case, column) for label in table.ordering for case in table.cases if case.label == label]
    if not table.ordering or None in means or len(means) != len(table.ordering):
        return ""
    values = [one.value for one in means if one is not None]
    verdict = "holds" if all(low < high for low, high in itertools.pairwise(values)) else "does not hold"
    return f"-log p: {' < '.join(table.ordering)}: {verdict}."


def markdown(table: Table, done: Sequence[Done], config: SweepConfig, data: Data, planned: int) -> str:
    """The whole `table.md`."""
    notes = list(dict.fromkeys(reason for case in table.cases for reason in case.doubts.values()))
    columns = _shown(table, done)
    compared = any(column.compares and column.paper for column in columns)
    rows = [_row(case, columns, done, notes, math.prod(data.event_shape[-3:])) for case in table.cases]
    heads = ["decoder"]
    for column in columns:
        heads.append(fid_name(done, column.field) if column.field in ("fid", "kid") else column.heading)
        heads += [f"paper's {column.heading}"] if column.paper else []
        heads += ["beside the paper"] if column.compares and column.paper else []
    lines = [f"# {table.title}", "", _setting(config, data, done, planned, compared), "", *_grid(heads, rows)]
    verdict = ordering_holds(table, done)
    lines += ["", verdict] if verdict else []
    lines += ["", table.remark] if table.remark else []
    lines += ["", *(f"[{number}] {note}  " for number, note in enumerate(notes, start=1))] if notes else []
    return "\n".join(lines) + "\n"


def _row(
    case: Case, columns: Sequence[Column], done: Sequence[Done], notes: Sequence[str], dimensions: int
) -> list[str]:
    """A case's cells: ours, the paper's with the number of its note, and a word on the two."""
    cells = [case.label]
    for column in columns:
        ours, paper, doubt = mean(done, case, column), case.paper.get(column.paper), case.doubts.get(column.paper)
        cells.append(_cell(ours, column.form))
        if column.paper:
            mark = f" [{notes.index(doubt) + 1}]" if doubt else ""
            cells.append(("–" if paper is None else f"{paper:g}") + mark)
        if column.compares and column.paper:
            compared = "–" if ours is None or paper is None or doubt else agreement(ours.value - paper, dimensions)
            cells.append(compared)
    return cells


def in_words(epochs: int) -> str:
    return "one epoch" if epochs == 1 else f"{epochs} epochs"


def _shown(table: Table, done: Sequence[Done]) -> list[Column]:
    """The columns with a number of ours or of the paper's; without the paper's name where it says nothing of them."""
    shown = []
    for column in table.columns:
        in_paper = any(column.paper in {*case.paper, *case.doubts} for case in table.cases)
        if in_paper or any(mean(done, case, column) for case in table.cases):
            shown.append(column if in_paper else column._replace(paper=""))
    return shown


def _setting(config: SweepConfig, data: Data, done: Sequence[Done], planned: int, compared: bool) -> str:
    noun, example = ("videos", "a frame") if data.is_video else ("images", "an image")
    part = f", the first {config.fraction:.0%} of its training {noun}" if config.fraction < 1 else ""
    seeds = "one seed" if config.seeds == 1 else f"mean ± standard error over {config.seeds} seeds"
    rows = "" if not config.only else f" Only rows of: {', '.join(config.only)}."
    progress = "" if len(done) == planned else f" **Unfinished: {len(done)} of {planned} runs.**"
    dimensions = math.prod(data.event_shape[-3:])
    agrees = f' "agrees": within {AGREES_WITHIN} nats a dimension, {AGREES_WITHIN * dimensions:.0f} in all.'
    return (
        f"{data.name}{part}: {len(data.train):,} training and {len(data.test):,} test {noun} of "
        f"{'×'.join(map(str, data.event_shape))}, {in_words(config.epochs)}, {seeds}. Test {noun}, one posterior "
        f"sample, the running average's σ; nats {example}.{agrees if compared else ''}{rows}{progress}"
    )


def _cell(ours: Mean | None, form: str) -> str:
    if ours is None:
        return "–"
    return f"{ours.value:{form}}" + (f" ± {ours.stderr:{form}}" if ours.stderr else "")


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def as_csv(table: Table, done: Sequence[Done]) -> str:
    """The whole `table.csv`: a row a case, each number with its standard error and the paper's."""
    columns = _shown(table, done)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = ["decoder", "likelihood", "seeds"]
    for column in columns:
        name = column.field if column.split == "test" else f"{column.split}_{column.field}"
        heads += [name, f"{name}_stderr"] + ([f"{name}_paper"] if column.paper else [])
    writer.writerow([*heads, "note"])
    for case in table.cases:
        seeds = sorted(one.config.seed for one in done if one.case == case)
        row: list[Any] = [case.label, case.settings["likelihood"], " ".join(map(str, seeds))]
        for column in columns:
            ours = mean(done, case, column)
            row += [None, None] if ours is None else [ours.value, ours.stderr]
            row += [case.paper.get(column.paper)] if column.paper else []
        writer.writerow([*row, " ".join(case.doubts.values())])
    return text.getvalue()


def provenance(table: Table, done: Sequence[Done], config: SweepConfig, data: Data, command: str) -> dict[str, Any]:
    """Everything needed to make the table again."""
    return {
        "table": table.name,
        "command": command,
        "settings": dataclasses.asdict(config),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": run_folder.commit(),
        "versions": {"python": platform.python_version()} | run_folder.package_versions(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "data": {
            "name": data.name,
            "origin": data.origin,
            "license": data.license,
            "splits": {split: _identity(examples) for split, examples in data.splits.items()},
        },
        "runs": [
            {"decoder": one.case.label, "folder": one.config.run_dir, **_without_arrays(one.record)} for one in done
        ],
    }


def _identity(examples: Any) -> dict[str, Any]:
    """Count and hash of a split; of videos that are not in memory, the hash of the first."""
    if isinstance(examples, np.ndarray) and examples.ndim == 4:
        return {"images": len(examples), "sha256": hashlib.sha256(examples.tobytes()).hexdigest()}
    clips = first(examples, HASHED_VIDEOS)
    shape = "x".join(map(str, clips.shape[1:]))
    digest = hashlib.sha256(clips.tobytes()).hexdigest()
    return {"videos": len(examples), "shape": shape, f"sha256 of the first {len(clips)}": digest}


def _without_arrays(record: dict[str, Any]) -> dict[str, Any]:
    """A record's numbers without its long lists, which stay in the run's folder."""
    kept = {}
    for name, part in record.items():
        if isinstance(part, dict):
            part = _without_arrays(part)
        if not (isinstance(part, list) and len(part) > 4):
            kept[name] = part
    return kept


def write(folder: Path, table: Table, done: Sequence[Done], config: SweepConfig, data: Data, command: str) -> None:
    """`table.md`, `table.csv` and `provenance.json`, each whole."""
    folder.mkdir(parents=True, exist_ok=True)
    planned = config.seeds * len(table.cases)
    write_text(folder / "table.md", markdown(table, done, config, data, planned))
    write_text(folder / "table.csv", as_csv(table, done))
    run_folder.write_json(folder / "provenance.json", provenance(table, done, config, data, command))
