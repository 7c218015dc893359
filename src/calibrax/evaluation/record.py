"""The table of metrics, and one trained model measured by all of them (`calibrax evaluate`)."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from calibrax._terminal import say
from calibrax.evaluation.metric import Record, Subject, plain
from calibrax.evaluation.metrics import calibration, fid, importance, information, prediction, reconstruction
from calibrax.likelihoods._base import NoMeanError

Wanted = Mapping[str, Any]  # the options of the metrics to measure, by the metric's name

METRICS = tuple(one.METRIC for one in (importance, calibration, information, reconstruction, prediction, fid))


def check_options(wanted: Wanted, num_test: int, noun: str) -> None:
    """Refuse options that do not fit the test data or the kind of model, before anything is measured.

    Raises:
      ValueError: in one line that names the flag.
    """
    for metric in METRICS:
        options = wanted.get(metric.name)
        if options is None:
            continue
        if metric.noun not in (None, noun):
            for field in dataclasses.fields(options):
                if getattr(options, field.name) not in (0, field.default):
                    raise ValueError(f"--{field.name.replace('_', '-')} has no meaning for a model of {noun}")
        metric.check(options, num_test)


def measure(wanted: Wanted, subject: Subject) -> dict[str, Any]:
    """The records of the wanted metrics that apply, by name, in the table's order; progress goes to stderr."""
    found = {}
    for metric in METRICS:
        options = wanted.get(metric.name)
        if options is None or metric.noun not in (None, subject.noun) or not metric.applies(options, subject):
            continue
        begin = time.monotonic()
        say(f"{metric.progress(options)} ...", end=" ", file=sys.stderr)
        try:
            found[metric.name] = plain(metric.measure(options, subject))
        except NoMeanError as error:
            say(f"left out: {error};", end=" ", file=sys.stderr)
        finally:
            say(f"{time.monotonic() - begin:.0f} s", file=sys.stderr)
    return found


def lines(record: Record) -> Iterator[str]:
    """What to print of a run's results, metric by metric."""
    for metric in METRICS:
        if metric.name in record:
            yield from metric.lines(record[metric.name])
        elif metric.not_measured:
            yield metric.not_measured
