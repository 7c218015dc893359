"""Write results beside the paper's numbers: Markdown, CSV, and the provenance of every number."""

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
from experiments.sweep import IMAGE_SIZE, Case, Result, SweepConfig

TOLERANCE = 0.02  # nats per dimension: numbers that differ by less agree with the paper's
HASHED_VIDEOS = 256  # per split, at most


class Column(NamedTuple):
    """One number of every row: a field of the evaluation, or FID, KID, PSNR or SSIM."""

    heading: str
    field: str  # of `Evaluation`; or "fid", "kid", "psnr", "ssim" (the last two are those of the best sample)
    form: str = ".1f"  # format specification
    paper: str = ""  # the key of the paper's number in `Case.paper`; "" if the paper has none
    compares: bool = False  # judge agreement with the paper and the order of the rows by this column
    density_only: bool = False  # leave it out for decoders over 256 levels
    split: str = "test"
    shift: float = 0.0  # nats per dimension, added to densities to convert them to another range of pixels than [0, 1]


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

    name: str  # of its folder
    title: str
    source: str  # the paper's data set
    cases: Sequence[Case]
    columns: Sequence[Column] = COLUMNS
    ordering: Sequence[str] = ()  # labels of cases in the paper's order, lowest -log p first
    remark: str = ""
    image_size: int = IMAGE_SIZE

    @property
    def compared_column(self) -> Column:
        """The column by which agreement and order are judged."""
        (column,) = (column for column in self.columns if column.compares)
        return column


def value(record: dict[str, Any], field: str, split: str = "test") -> float | None:
    """A number of `results.json`, with the running average's σ; None if it is missing. Nats of videos are per frame."""
    if field in ("fid", "kid"):
        measured = record.get("fid", {}).get(field)
        return None if measured is None else measured["value" if field == "fid" else "mean"]
    if field in ("psnr", "ssim"):
        return record.get("prediction", {}).get("best", {}).get(f"mean_{field}")
    number = record[split]["running average"].get(field)
    num_frames = math.prod(record["event_shape"][:-3])
    return number / num_frames if number is not None and field in NATS else number


def mean(results: Iterable[Result], case: Case, column: Column) -> Mean | None:
    """The mean of a column over a case's seeds; None if no seed has the number, or if it does not apply to the case."""
    if column.field in ("neg_elbo", "distortion") and not case.is_density:
        return None
    if column.density_only and case.is_discrete:
        return None
    values = []
    for result in results:
        number = value(result.record, column.field, column.split) if result.case == case else None
        if number is not None and math.isfinite(number):
            shift = 0.0 if case.is_discrete else column.shift
            values.append(number + shift * math.prod(result.record["event_shape"][-3:]) if shift else number)
    return mean_of(values) if values else None


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of the values of one or more seeds."""
    stderr = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(statistics.fmean(values), stderr)


def by_seed(results: Iterable[Result], case: Case, field: str, split: str = "test") -> dict[int, float]:
    """A case's number of each seed that has it."""
    numbers = {result.config.run.seed: value(result.record, field, split) for result in results if result.case == case}
    return {seed: number for seed, number in numbers.items() if number is not None and math.isfinite(number)}


def difference(results: Sequence[Result], case: Case, reference: Case, field: str) -> Mean | None:
    """The mean over seeds of a case's number minus the reference's of the same seed; None if no seed has both."""
    ours, others = (by_seed(results, one, field) for one in (case, reference))
    pairs = [number - others[seed] for seed, number in ours.items() if seed in others]
    return mean_of(pairs) if pairs else None


def in_words(difference: Mean, form: str, unit: str = "") -> str:
    """A difference in words, such as "3.2 ± 0.4 nats lower", and whether its standard error leaves the sign open."""
    size = cell(Mean(abs(difference.value), difference.stderr), form) + unit
    order = f"{size} {'lower' if difference.value < 0 else 'higher'}"
    if difference.stderr is None:
        return f"{order} (one seed)"
    return order if abs(difference.value) > 2 * difference.stderr else f"{order} (within two standard errors of 0)"


def fid_name(results: Sequence[Result], field: str) -> str:
    """The heading of an FID or KID column, such as FID-768. Plain "FID" is only for the published network."""
    return next((result.record["fid"][field]["name"] for result in results if "fid" in result.record), field.upper())


def agreement(difference: float, dimensions: int) -> str:
    """The difference from the paper's number in nats, and whether the two agree."""
    word = "agrees" if abs(difference) <= TOLERANCE * dimensions else "above" if difference > 0 else "below"
    return f"{difference:+.0f}, {word}"


def ordering_holds(table: Table, results: Sequence[Result]) -> str:
    """A line on whether -log p rises in the table's order; "" if the table has no order or a case has no result."""
    cases = [case for label in table.ordering for case in table.cases if case.label == label]
    means = [mean(results, case, table.compared_column) for case in cases]
    if not table.ordering or None in means or len(means) != len(table.ordering):
        return ""
    values = [found.value for found in means if found is not None]
    verdict = "holds" if all(low < high for low, high in itertools.pairwise(values)) else "does not hold"
    return f"-log p: {' < '.join(table.ordering)}: {verdict}."


def markdown(table: Table, results: Sequence[Result], config: SweepConfig, data: Data, planned: int) -> str:
    """The content of `table.md`.

    Args:
      table: what it shows.
      results: the runs that are finished.
      config: the settings of the sweep.
      data: the images or videos of the runs.
      planned: the number of runs when all are finished.
    """
    notes = list(dict.fromkeys(reason for case in table.cases for reason in case.doubts.values()))
    columns = _shown_columns(table, results)
    compared = any(column.compares and column.paper for column in columns)
    rows = [_row(case, columns, results, notes, math.prod(data.event_shape[-3:])) for case in table.cases]
    headings = ["decoder"]
    for column in columns:
        headings.append(fid_name(results, column.field) if column.field in ("fid", "kid") else column.heading)
        headings += [f"paper's {column.heading}"] if column.paper else []
        headings += ["beside the paper"] if column.compares and column.paper else []
    lines = [f"# {table.title}", "", _paragraph(config, data, results, planned, compared), "", *grid(headings, rows)]
    verdict = ordering_holds(table, results)
    lines += ["", verdict] if verdict else []
    lines += ["", table.remark] if table.remark else []
    lines += ["", *(f"[{number}] {note}  " for number, note in enumerate(notes, start=1))] if notes else []
    return "\n".join(lines) + "\n"


def _row(
    case: Case, columns: Sequence[Column], results: Sequence[Result], notes: Sequence[str], dimensions: int
) -> list[str]:
    """The cells of a case. For each column: our number, the paper's with the number of its note, and the comparison."""
    cells = [case.label]
    for column in columns:
        ours, paper, doubt = mean(results, case, column), case.paper.get(column.paper), case.doubts.get(column.paper)
        cells.append(cell(ours, column.form))
        if column.paper:
            mark = f" [{notes.index(doubt) + 1}]" if doubt else ""
            cells.append(("–" if paper is None else f"{paper:g}") + mark)
        if column.compares and column.paper:
            compared = "–" if ours is None or paper is None or doubt else agreement(ours.value - paper, dimensions)
            cells.append(compared)
    return cells


def full_title(title: str, config: SweepConfig, data: Data) -> str:
    """The title of a picture, with the data and the number of epochs."""
    return f"{title}{'' if title.endswith('?') else ';'} {data.name}, {_epochs(config)}"


def _epochs(config: SweepConfig) -> str:
    return "one epoch" if config.epochs == 1 else f"{config.epochs} epochs"


def _shown_columns(table: Table, results: Sequence[Result]) -> list[Column]:
    """The columns in which we or the paper have a number; `paper` is cleared where the paper has none."""
    shown = []
    for column in table.columns:
        in_paper = any(column.paper in {*case.paper, *case.doubts} for case in table.cases)
        if in_paper or any(mean(results, case, column) for case in table.cases):
            shown.append(column if in_paper else column._replace(paper=""))
    return shown


def _paragraph(config: SweepConfig, data: Data, results: Sequence[Result], planned: int, compared: bool) -> str:
    """The paragraph above the table: data, epochs, seeds, units."""
    noun, example = ("videos", "a frame") if data.is_video else ("images", "an image")
    rows = "" if not config.only else f" Only rows of: {', '.join(config.only)}."
    progress = "" if len(results) == planned else f" **Unfinished: {len(results)} of {planned} runs.**"
    dimensions = math.prod(data.event_shape[-3:])
    agrees = f' "agrees": within {TOLERANCE} nats a dimension, {TOLERANCE * dimensions:.0f} in all.'
    return (
        f"{setting(config, data)} Test {noun}, one posterior sample, the running average's σ; nats {example}."
        f"{agrees if compared else ''}{rows}{progress}"
    )


def setting(config: SweepConfig, data: Data) -> str:
    """A sentence on what the numbers are of: data, epochs, seeds."""
    part = f", the first {config.fraction:.0%} of its training {data.noun}" if config.fraction < 1 else ""
    seeds = "one seed" if config.seeds == 1 else f"mean ± standard error over {config.seeds} seeds"
    shape = "×".join(map(str, data.event_shape))
    return (
        f"{data.name}{part}: {len(data.train):,} training and {len(data.test):,} test {data.noun} of {shape}, "
        f"{_epochs(config)}, {seeds}."
    )


def cell(ours: Mean | None, form: str) -> str:
    """A mean with its standard error, such as "-3.2 ± 0.4"; a dash if there is none."""
    if ours is None:
        return "–"
    shown = f"{ours.value:{form}}"
    if not ours.stderr:
        return shown
    digits = len(shown.partition(".")[2])  # the error to as many places as the mean, also if `form` counts digits
    return f"{shown} ± {ours.stderr:.{digits}f}"


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def as_csv(table: Table, results: Sequence[Result]) -> str:
    """The content of `table.csv`: one row per case, each number with its standard error and the paper's number."""
    columns = _shown_columns(table, results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    headings = ["decoder", "likelihood", "seeds"]
    for column in columns:
        name = column.field if column.split == "test" else f"{column.split}_{column.field}"
        headings += [name, f"{name}_stderr"] + ([f"{name}_paper"] if column.paper else [])
    writer.writerow([*headings, "note"])
    for case in table.cases:
        seeds = sorted(result.config.run.seed for result in results if result.case == case)
        row: list[Any] = [case.label, case.settings["likelihood"], " ".join(map(str, seeds))]
        for column in columns:
            ours = mean(results, case, column)
            row += [None, None] if ours is None else [ours.value, ours.stderr]
            row += [case.paper.get(column.paper)] if column.paper else []
        writer.writerow([*row, " ".join(case.doubts.values())])
    return text.getvalue()


def provenance(name: str, results: Sequence[Result], config: SweepConfig, data: Data, command: str) -> dict[str, Any]:
    """The content of `provenance.json`: everything needed to repeat a table or figure of that name."""
    return {
        "table": name,
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
            {"decoder": result.case.label, "folder": result.config.run.run_dir, **_without_arrays(result.record)}
            for result in results
        ],
    }


def _identity(examples: Any) -> dict[str, Any]:
    """The number of examples of a split and a hash; for videos, the hash of the first ones."""
    if isinstance(examples, np.ndarray) and examples.ndim == 4:
        return {"images": len(examples), "sha256": hashlib.sha256(examples.tobytes()).hexdigest()}
    clips = first(examples, HASHED_VIDEOS)
    shape = "x".join(map(str, clips.shape[1:]))
    digest = hashlib.sha256(clips.tobytes()).hexdigest()
    return {"videos": len(examples), "shape": shape, f"sha256 of the first {len(clips)}": digest}


def _without_arrays(record: dict[str, Any]) -> dict[str, Any]:
    """A record without its long lists, which are kept in the run's folder."""
    kept = {}
    for name, part in record.items():
        if isinstance(part, dict):
            part = _without_arrays(part)
        if not (isinstance(part, list) and len(part) > 4):
            kept[name] = part
    return kept


def write(folder: Path, table: Table, results: Sequence[Result], config: SweepConfig, data: Data, command: str) -> None:
    """Write `table.md`, `table.csv` and `provenance.json`, each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    planned = config.seeds * len(table.cases)
    write_text(folder / "table.md", markdown(table, results, config, data, planned))
    write_text(folder / "table.csv", as_csv(table, results))
    run_folder.write_json(folder / "provenance.json", provenance(table.name, results, config, data, command))
