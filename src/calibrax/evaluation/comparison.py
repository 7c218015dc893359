"""Several runs in one table, under labels that tell them apart."""

import collections
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]  # what `results.json` holds, with the run's settings beside it or without

# What tells runs of one likelihood apart, the most telling first: the record's key, its words, and how the names of
# those likelihoods begin that take notice of it.
DIFFERENCES = (
    ("beta", "β {:.4g}", "beta-gaussian"),
    ("df", "{:.4g} degrees of freedom", "student-t"),
    ("components", "{} components", "logistic-mixture"),
    ("decay", "decay {:g}", "optimal"),
    ("model", "{}", ""),
    ("latent_dim", "{} latent dimensions", ""),
    ("train_examples", "{:,} training images", ""),
    ("batch_size", "batches of {}", ""),
    ("learning_rate", "learning rate {:g}", ""),
    ("seed", "seed {}", ""),
    ("step", "step {:,}", ""),
)
NUMBERS = (
    ("rate", "rate", "{:.1f}"),
    ("distortion", "distortion", "{:.1f}"),
    ("-log P 256", "discretized_neg_elbo", "{:.1f}"),
    ("bits/dim", "bits_per_dim", "{:.3f}"),
    ("σ", "sigma", "{:.5f}"),
    ("effective β", "effective_beta", "{:.6f}"),
)  # of the test images' `Evaluation`
SCORES = (("fid", "value", "{:.2f}"), ("kid", "mean", "{:.5f}"))


def labels(folders: Sequence[str | Path], records: Sequence[Record]) -> list[str]:
    """A short name for each run: its likelihood, and what it takes to tell it from the others.

    Data that differ are in every label. Settings, seed and step are only where the label is another run's too, and the
    folder's name, or its whole path, where even they agree.

    Args:
      folders: of the runs, each another.
      records: of the same runs, as `results.json` holds them; the run's settings may be among the keys.

    Returns:
      Labels, each another.
    """
    names = [str(record["likelihood"]) for record in records]
    if len({str(record.get("data")) for record in records}) > 1:
        names = [f"{name}, {record.get('data')}" for name, record in zip(names, records, strict=True)]
    for key, form, likelihoods in DIFFERENCES:
        names = _tell_apart(names, [_setting(record, key, form, likelihoods) for record in records])
    for ways in ([Path(folder).name for folder in folders], [str(folder) for folder in folders]):
        names = _tell_apart(names, ways)
    return names


def comparison_table(records: Mapping[str, Record]) -> str:
    """The runs' test results under one another; a dash where a run has no such number.

    σ is the running average of training. FID and KID have the names under which they were stored, since distances of
    other features, such as FID-768, are other numbers. Lines below say what does not compare.

    Args:
      records: as `results.json` holds them, by label; at least one.

    Raises:
      ValueError: if there is none.
    """
    if not records:
        raise ValueError("records is empty; expected at least one run's")
    rows = [_row(record) for record in records.values()]
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    if all(label.startswith(row["likelihood"]) for label, row in zip(records, rows, strict=True)):
        headings.remove("likelihood")
    cells = [["run", *headings]]
    cells += [[label, *(row.get(name, "-") for name in headings)] for label, row in zip(records, rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers]))
    return "\n".join([*lines, *_notes(list(records.values()))])


def tested_on(record: Record) -> str:
    """What a run was tested on, in words: name, shape and number of images."""
    num = _test(record).get("num_examples")
    shape = "x".join(map(str, record.get("event_shape") or ()))
    parts = [str(record.get("data")), f" {shape}" if shape else "", "" if num is None else f", {num:,} test images"]
    return "".join(parts)


def _tell_apart(names: list[str], texts: list[str]) -> list[str]:
    """Each text added to its name where runs of that name differ in it."""
    found = collections.defaultdict(set)
    for name, text in zip(names, texts, strict=True):
        found[name].add(text)
    pairs = zip(names, texts, strict=True)
    return [f"{name}, {text}" if text and len(found[name]) > 1 else name for name, text in pairs]


def _setting(record: Record, key: str, form: str, likelihoods: str) -> str:
    """A setting in words; nothing where the record has none or its likelihood takes no notice of it."""
    value = record.get(key)
    if value is None and key == "beta":
        value = _test(record).get("effective_beta")  # of a β-VAE it is the β
    if value is None or not str(record["likelihood"]).startswith(likelihoods):
        return ""
    return form.format(value)


def _row(record: Record) -> dict[str, str]:
    """Cells by heading; FID and KID only where they were measured."""
    row = {
        "likelihood": str(record["likelihood"]),
        "step": _cell(record.get("step"), "{:,}"),
        "seed": _cell(record.get("seed"), "{}"),
        "-ELBO (nats)": _with_stderr(_test(record), "neg_elbo", "neg_elbo_stderr", "{:.1f}"),
    }
    row |= {heading: _cell(_test(record).get(field), form) for heading, field, form in NUMBERS}
    for kind, field, form in SCORES:
        if score := _score(record, kind):
            row[score["name"]] = _with_stderr(score, field, "stderr", form)
    return row


def _notes(records: Sequence[Record]) -> list[str]:
    """Lines on what the runs were tested on, and on numbers that do not compare."""
    tests = list(dict.fromkeys(tested_on(record) for record in records))
    several = "these runs were tested on different data; their nats do not compare"
    notes = [f"{several}: {'; '.join(tests)}" if len(tests) > 1 else f"tested on {tests[0]}"]
    if len({_is_probability(record) for record in records} - {None}) > 1:
        notes.append(
            "-ELBO is of a probability for some of these decoders, of a density for others: compare -log P 256"
        )
    distances = [score for record in records if (score := _score(record, "fid"))]
    counts = {(score["name"], score.get("num_a"), score.get("num_b")) for score in distances}
    if len(counts) > len({score["name"] for score in distances}):
        notes.append("FID depends on the number of images, which differs between these runs")
    return notes


def _is_probability(record: Record) -> bool | None:
    """Whether -log p(x|z) is that of 256 levels already; None where it is not known."""
    neg_elbo, discretized = (_test(record).get(field) for field in ("neg_elbo", "discretized_neg_elbo"))
    if neg_elbo is None or discretized is None:
        return None
    return math.isclose(neg_elbo, discretized, rel_tol=1e-5, abs_tol=1e-3)


def _test(record: Record) -> Record:
    return record["test"]["running average"]


def _score(record: Record, kind: str) -> Record:
    return record.get("fid", {}).get(kind, {})


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _with_stderr(values: Record, field: str, stderr_field: str, form: str) -> str:
    value, stderr = _cell(values.get(field), form), values.get(stderr_field)
    return value if stderr is None or math.isnan(stderr) else f"{value} ± {form.format(stderr)}"
