"""One page of results: every table, figure and answer in a folder, beside the paper's numbers.

Command:   python -m experiments.paper_page --folder docs/results     (`make paper` calls it)

The tables are made from the numbers in each folder's `provenance.json`. `explained.toml` in the folder may hold what is
said by hand: `in_short`, a text for the top of the page, and why a row differs from the paper's, by the folder's name
and the row's label. The page says "unexplained" of the others.
"""

import collections
import dataclasses
import json
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibrax import cli
from calibrax._files import write_text
from calibrax.data import Data
from calibrax.runs import ConfigError, TrainConfig
from experiments import report, table2_bair, table2_hvae, table4
from experiments.parts import PARTS
from experiments.report import Table
from experiments.sweep import Result, SweepConfig, chosen

KINDS = ("table", "figure", "question", "")  # the order of the folders, by the first letters of their names
FRONT = """# Results

Every number on this page is from a run of this repository. The tables are made from the `provenance.json` in each
folder, which holds the command, commit, versions, device, checksums of the data and the numbers of every run. Tables
with "paper's" columns give the paper's numbers too. A row "agrees" if the two differ by less than 0.02 nats per
dimension. A result on a part of a data set holds for that part. ± is the standard error of a mean over seeds.
"""
PARAGRAPH = "\n\n"
SUMMARY = ("table", "data", "runs", "rows that agree with the paper", "the paper's order of -log p")


@dataclasses.dataclass(frozen=True)
class PageConfig:
    """Write the page of the results in a folder anew."""

    folder: str = "docs/results"
    """The folder that has a folder for each table and figure."""


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    return cli.guarded(lambda: write(Path(cli.parse(PageConfig, "python -m experiments.paper_page", argv).folder)))


def write(folder: Path) -> None:
    """Write `index.md` into a folder of results; ConfigError if there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"--folder is {folder}; expected a folder of results")
    write_text(folder / "index.md", render(folder))


def render(folder: Path) -> str:
    """The page of the results in a folder: what `index.md` holds."""
    in_short, reasons = explained(folder)
    summary, answers, sections = [], [], []
    anchors: collections.Counter[str] = collections.Counter()
    for path in sorted((path.parent for path in folder.glob("*/provenance.json")), key=_place):
        provenance = json.loads((path / "provenance.json").read_text(encoding="utf-8"))
        table = table_of(provenance)
        if table is None:
            text = _own_text(path, provenance)
            link = _link(text, anchors)
            if (path / "answer.md").exists():
                answers.append(f"- **{link}** {text.strip().rpartition(PARAGRAPH)[2]}")  # the answer is the last one
        else:
            table, results, config, data = restored(table, provenance)
            link = _link(f"# {table.title}", anchors)
            summary.append((link, *_summary(table, results, data)))
            text = report.markdown(table, results, config, data, planned=config.seeds * len(table.cases))
            text += _differences(table, results, data, reasons.get(path.name, {}))
        sections.append(_section(path, text, provenance))
    if answers:
        answers = ["## Questions that the paper leaves open\n", *answers, ""]
    return "\n".join([FRONT, *in_short, *_grid(summary), *answers, *sections]).rstrip() + "\n"


def explained(folder: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """What `explained.toml` says: the text for the top, and why rows differ from the paper's, by folder and label."""
    path = folder / "explained.toml"
    said = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    in_short = said.pop("in_short", None)
    return [in_short] if in_short else [], said


def _place(folder: Path) -> tuple[int, str]:
    return next(index for index, kind in enumerate(KINDS) if folder.name.startswith(kind)), folder.name


def table_of(provenance: Mapping[str, Any]) -> Table | None:
    """The table that a provenance is of; None if it is of something else."""
    name, settings = provenance["table"], provenance.get("settings", {})
    if name.startswith("table4-"):
        return table4.table(name.removeprefix("table4-"))
    if name.startswith("table2-") and "column" in settings:
        return table2_hvae.table(settings["column"], settings["model"], settings["image_size"])
    if name == "table2-bair":
        channels = provenance["runs"][0]["event_shape"][-1]
        return table2_bair.table(settings["model"], channels, settings["batch_size"])
    return next((part.shows for part in PARTS if part.shows.name == name and isinstance(part.shows, Table)), None)


def restored(table: Table, provenance: Mapping[str, Any]) -> tuple[Table, list[Result], SweepConfig, Data]:
    """What a table was made from: its rows, the runs, the settings, and data of the same names and shapes."""
    config, data = sweep_of(provenance)
    table = table._replace(cases=chosen(config, table.cases))
    cases, results = {case.label: case for case in table.cases}, []
    for run in provenance["runs"]:
        case = cases[run["decoder"]]
        results.append(Result(case, TrainConfig.for_model(seed=run["seed"], **case.settings), run))
    return table, results, config, data


def sweep_of(provenance: Mapping[str, Any]) -> tuple[SweepConfig, Data]:
    """The settings of a sweep, and data of the same names and shapes."""
    fields = {field.name for field in dataclasses.fields(SweepConfig)}
    given = provenance["settings"].items()
    settings: dict[str, Any] = {name: value for name, value in given if name in fields and value is not None}
    settings["only"] = tuple(settings.get("only", ()))
    splits = provenance["data"]["splits"].items()
    shape = provenance["runs"][0]["event_shape"]
    examples: dict[str, Any] = {name: np.broadcast_to(np.uint8(0), _shape(split, shape)) for name, split in splits}
    return SweepConfig(**settings), Data(name=provenance["data"]["name"], **examples)


def _shape(split: Mapping[str, Any], event_shape: Sequence[int]) -> tuple[int, ...]:
    if "videos" in split:
        return split["videos"], *map(int, split["shape"].split("x"))
    return split["images"], *event_shape


def _compared(table: Table, results: Sequence[Result], data: Data) -> dict[str, str]:
    """The rows that have our number and a number of the paper that can be compared: what `agreement` says of each."""
    column, found = table.compared_column, {}
    for case in table.cases:
        ours, paper = report.mean(results, case, column), case.paper.get(column.paper)
        if ours is not None and paper is not None and column.paper not in case.doubts:
            found[case.label] = report.agreement(ours.value - paper, int(np.prod(data.event_shape[-3:])))
    return found


def _summary(table: Table, results: Sequence[Result], data: Data) -> tuple[str, ...]:
    compared = _compared(table, results, data)
    agree = sum("agrees" in verdict for verdict in compared.values())
    order = report.ordering_holds(table, results).rpartition(": ")[2].rstrip(".")
    beside = f"{agree} of {len(compared)}" if compared else "–"
    return data.name, str(len(results)), beside, order or "–"


def _differences(table: Table, results: Sequence[Result], data: Data, reasons: Mapping[str, str]) -> str:
    """A line on each row that differs from the paper's; "" if there are none."""
    compared = _compared(table, results, data)
    lines = [
        f"- {label}, {verdict.partition(',')[0]}: {reasons.get(label, 'unexplained')}"
        for label, verdict in compared.items()
        if "agrees" not in verdict
    ]
    return "\n".join(["", "Differences from the paper:", "", *lines, ""]) if lines else ""


def _own_text(folder: Path, provenance: Mapping[str, Any]) -> str:
    """The text that a question or an example wrote; for a figure its title and what it is of."""
    for name in ("answer.md", "table.md"):
        if (folder / name).exists():
            return (folder / name).read_text(encoding="utf-8")
    figure = next((part.shows for part in PARTS if part.shows.name == provenance["table"]), None)
    if figure is None:
        return f"# {provenance['table']}\n\n{provenance['data']}\n"
    return f"# {figure.title}\n\n{report.setting(*sweep_of(provenance))}\n"


def _link(text: str, anchors: collections.Counter[str]) -> str:
    """A link to the section of a text, by the name that Markdown gives to its heading; equal ones are numbered."""
    title = text.partition("\n")[0].removeprefix("# ")
    anchor = re.sub(r"[^-\w ]", "", title.lower()).replace(" ", "-")
    number, anchors[anchor] = anchors[anchor], anchors[anchor] + 1
    return f"[{title}](#{anchor}{f'-{number}' if number else ''})"


def _section(folder: Path, text: str, provenance: Mapping[str, Any]) -> str:
    """A text one level of headings down, the pictures in the folder, and where all of it comes from."""
    pictures = [f"![{path.stem}]({folder.name}/{path.name})\n" for path in sorted(folder.glob("*.png"))]
    commit, devices = provenance["commit"][:7], ", ".join(provenance["devices"])
    source = f"`{provenance['command']}`, commit {commit}, {devices}, JAX {provenance['versions']['jax']}; "
    return "\n".join([f"#{text.rstrip()}", "", *pictures, f"{source}[provenance]({folder.name}/provenance.json)", ""])


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [SUMMARY, ["---"] * len(SUMMARY), *rows]
    return [*("| " + " | ".join(cells) + " |" for cells in lines), ""] if rows else []


if __name__ == "__main__":
    sys.exit(main())
