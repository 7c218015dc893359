"""Results as tables: one run's evaluations side by side, and several runs under labels that tell them apart."""

import collections
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibrax._files import printable
from calibrax.evaluation.metric import with_stderr
from calibrax.evaluation.metrics.likelihood import Evaluation
from calibrax.evaluation.record import METRICS

Results = dict[str, Any]  # what `results.json` holds; the run's settings may be among the keys

ROWS = (
    ("-ELBO (nats)", "neg_elbo", "{:.1f}"),
    ("  standard error", "neg_elbo_stderr", "{:.1f}"),
    ("rate: KL (nats)", "rate", "{:.1f}"),
    ("distortion (nats)", "distortion", "{:.1f}"),
    ("-log P, 256 levels", "discretized_neg_elbo", "{:.1f}"),
    ("bits/dim, 256 levels", "bits_per_dim", "{:.3f}"),
    ("MSE", "mse", "{:.6f}"),
    ("sigma", "sigma", "{:.5f}"),
    ("effective beta", "effective_beta", "{:.6f}"),
)  # of one run's table
COLUMNS = (
    ("rate", "rate", "{:.1f}"),
    ("distortion", "distortion", "{:.1f}"),
    ("-log P 256", "discretized_neg_elbo", "{:.1f}"),
    ("bits/dim", "bits_per_dim", "{:.3f}"),
    ("σ", "sigma", "{:.5f}"),
    ("effective β", "effective_beta", "{:.6f}"),
)  # of the table of several runs, from the test data's `Evaluation`
# What tells runs of one likelihood apart, the most telling first: key, format, and the start of the names of the
# likelihoods that use the setting.
DIFFERENCES = (
    ("beta", "β {:.4g}", "beta-gaussian"),
    ("df", "{:.4g} degrees of freedom", "student-t"),
    ("components", "{} components", "logistic-mixture"),
    ("beta_nll", "β-NLL {:.4g}", "pixel-sigma"),
    ("faithful", "faithful: {}", "pixel-sigma"),
    ("initial", "initial scale {:.4g}", ""),
    ("decay", "decay {:g}", "optimal"),
    ("model", "{}", ""),
    ("latent_dim", "{} latent dimensions", ""),
    ("train_examples", "{:,} training images", ""),
    ("batch_size", "batches of {}", ""),
    ("learning_rate", "learning rate {:g}", ""),
    ("seed", "seed {}", ""),
    ("step", "step {:,}", ""),
)


def results_table(title: str, results: Mapping[str, Evaluation], *, frames: int | None = None) -> str:
    """One run's evaluations side by side, one column each; a dash where a decoder has no such number.

    A column's name says where its σ comes from: `running average` is the average over training, `calibrated` the
    exact one over training or validation examples with the final parameters. With `frames`, the number of scored frames
    of each video, -ELBO is shown per frame as well; it is None for images.
    """
    width = max(16, *(len(name) for name in results))
    lines = [title, " " * 22 + "".join(f"{name:>{width + 2}}" for name in results)]
    for label, cells in results_cells([result._asdict() for result in results.values()], frames=frames).items():
        lines.append(f"{label:<22}" + "".join(f"{cell:>{width + 2}}" for cell in cells))
    return "\n".join(lines)


def results_cells(evaluations: Sequence[Results], *, frames: int | None = None) -> dict[str, list[str]]:
    """The cells of `results_table` by the label of their row, from evaluations as `results.json` holds them."""
    rows = [(label, form, [one.get(field) for one in evaluations]) for label, field, form in ROWS]
    if frames is not None:
        per_frame = [None if one.get("neg_elbo") is None else one["neg_elbo"] / frames for one in evaluations]
        rows.insert(2, (f"  a frame, of {frames}", "{:.1f}", per_frame))
    return {label: [with_stderr(value, None, form) for value in values] for label, form, values in rows}


def comparison_table(runs: Mapping[str, Results]) -> str:
    """One row of test results per run, by its label; a dash where a run has no such number.

    σ is the running average of training. Lines below the table say what does not compare.

    Raises:
      ValueError: if there is no run.
    """
    cells, notes = comparison_cells(runs)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers]))
    return "\n".join([*lines, *notes])


def comparison_cells(runs: Mapping[str, Results]) -> tuple[list[list[str]], list[str]]:
    """The rows of `comparison_table`, of which the first has the headings, and the lines below it."""
    if not runs:
        raise ValueError("runs is empty; expected the results of at least one")
    rows = [_row(results) for results in runs.values()]
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    if all(label.startswith(row["likelihood"]) for label, row in zip(runs, rows, strict=True)):
        headings.remove("likelihood")
    cells = [["run", *headings]]
    cells += [[label, *(row.get(name, "-") for name in headings)] for label, row in zip(runs, rows, strict=True)]
    return cells, _notes(list(runs.values()))


def labels(folders: Sequence[str | Path], runs: Sequence[Results]) -> list[str]:
    """A short name for each run, all different: its likelihood, and what distinguishes it from the others.

    Every label names the data if they differ. Settings, seed and step are added only if two labels are equal; the
    folder's name, or its whole path, only if they are still equal after that. The folders are all different.
    """
    names = [str(results["likelihood"]) for results in runs]
    if len({str(results.get("data")) for results in runs}) > 1:
        names = [f"{name}, {results.get('data')}" for name, results in zip(names, runs, strict=True)]
    for key, form, likelihoods in DIFFERENCES:
        names = _tell_apart(names, [_setting(results, key, form, likelihoods) for results in runs])
    for paths in ([Path(folder).name for folder in folders], [str(folder) for folder in folders]):
        names = _tell_apart(names, [printable(path) for path in paths])
    return names


def tested_on(results: Results) -> str:
    """What a run was tested on, in words: name, shape and number of images."""
    num = _test(results).get("num_examples")
    shape = "x".join(map(str, results.get("event_shape") or ()))
    return f"{results.get('data')}{f' {shape}' if shape else ''}{'' if num is None else f', {num:,} test images'}"


def _tell_apart(names: list[str], texts: list[str]) -> list[str]:
    """Each name with its text added, if runs of that name differ in it."""
    pairs = list(zip(names, texts, strict=True))
    num_texts = collections.Counter(name for name, _ in set(pairs))
    return [f"{name}, {text}" if text and num_texts[name] > 1 else name for name, text in pairs]


def _setting(results: Results, key: str, form: str, likelihoods: str) -> str:
    """A setting in words; empty if the results have none or the likelihood does not use it."""
    value = results.get(key)
    if value is None and key == "beta":
        value = _test(results).get("effective_beta")  # for a β-VAE, this is β
    if value is None or not str(results["likelihood"]).startswith(likelihoods):
        return ""
    return form.format(value)


def _row(results: Results) -> dict[str, str]:
    """Cells by heading; those of further metrics only if they were measured."""
    test = _test(results)
    row = {
        "likelihood": str(results["likelihood"]),
        "step": with_stderr(results.get("step"), None, "{:,}"),
        "seed": with_stderr(results.get("seed"), None, "{}"),
        "-ELBO (nats)": with_stderr(test.get("neg_elbo"), test.get("neg_elbo_stderr"), "{:.1f}"),
    }
    row |= {heading: with_stderr(test.get(field), None, form) for heading, field, form in COLUMNS}
    for metric in METRICS:
        row |= metric.columns(results[metric.name]) if metric.name in results else {}
    return row


def _notes(runs: Sequence[Results]) -> list[str]:
    """Lines on what the runs were tested on, and on numbers that do not compare."""
    tests = list(dict.fromkeys(tested_on(results) for results in runs))
    several = "these runs were tested on different data; their nats do not compare"
    notes = [f"{several}: {'; '.join(tests)}" if len(tests) > 1 else f"tested on {tests[0]}"]
    if len({_is_probability(results) for results in runs} - {None}) > 1:
        notes.append(
            "-ELBO is of a probability for some of these decoders, of a density for others: compare -log P 256"
        )
    for metric in METRICS:
        notes += metric.caveats([results[metric.name] for results in runs if metric.name in results])
    return notes


def _is_probability(results: Results) -> bool | None:
    """Whether -ELBO is of probabilities of 256 levels rather than of a density; None if that is not known."""
    neg_elbo, discretized = (_test(results).get(field) for field in ("neg_elbo", "discretized_neg_elbo"))
    if neg_elbo is None or discretized is None:
        return None
    return math.isclose(neg_elbo, discretized, rel_tol=1e-5, abs_tol=1e-3)


def _test(results: Results) -> Results:
    return results["test"]["running average"]
