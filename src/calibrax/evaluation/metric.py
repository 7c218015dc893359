"""What an entry of the table of metrics is (`record.METRICS`), and what a metric is measured on."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from calibrax.evaluation.trained import Trained

Record = Mapping[str, Any]  # JSON-able


class Subject(NamedTuple):
    """What is measured: a trained model on test examples, and how its figures are labelled."""

    trained: Trained
    examples: np.ndarray  # images [N, H, W, C], or videos [N, T, H, W, C]
    key: jax.Array  # for all draws
    batch_size: int  # of videos; images use each metric's own default
    past: int | None  # number of given frames of a video; None for images
    folder: Path  # where figures are written
    name: str  # of the decoder, in legends
    title: str  # how the figures' titles begin

    @property
    def noun(self) -> str:
        return "images" if self.past is None else "videos"


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Of a metric without flags on the command line."""


class Metric(NamedTuple):
    """One metric of `calibrax evaluate`. It is defined in its own file and listed in `record.METRICS`."""

    name: str  # its key in results.json
    measure: Callable[[Any, Subject], Record]  # (options, subject) -> what results.json holds; may draw a figure
    lines: Callable[[Record], Iterable[str]]  # what is printed of that record
    progress: Callable[[Any], str]  # of options: what stderr says while it is measured
    options: type = NoOptions  # a frozen dataclass: flags, defaults, help texts and checks of the command line
    noun: str | None = None  # "images" or "videos" if it has a meaning for those alone
    applies: Callable[[Any, Subject], bool] = lambda options, subject: True  # e.g. False if an option leaves it out
    check: Callable[[Any, int], None] = lambda options, num_test: None  # raises ValueError for options and test data
    columns: Callable[[Record], dict[str, str]] = lambda record: {}  # cells of `calibrax compare`, by heading
    caveats: Callable[[list[Record]], list[str]] = lambda records: []  # why the columns of several runs do not compare
    not_measured: str = ""  # a line to print where it was not measured


def plain(value: Any) -> Any:
    """JSON-able: named tuples become dicts, arrays become lists, keys become text."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def with_stderr(value: Any, stderr: Any, form: str) -> str:
    """`value ± stderr` in a format such as `{:.1f}`; a dash if there is no finite value, no ± if no finite error."""
    if not _is_finite(value):
        return "-"
    return f"{form.format(value)} ± {form.format(stderr)}" if _is_finite(stderr) else form.format(value)


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
