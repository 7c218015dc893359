"""The committed results: the page, its tables and the examples' tables hold the numbers of the provenance files."""

import json
import re
from pathlib import Path

import pytest

from experiments import paper_page, report

RESULTS = Path(__file__).parents[2] / "docs" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/provenance.json"))


def provenance_of(folder):
    return json.loads((folder / "provenance.json").read_text(encoding="utf-8"))


def test_the_page_is_what_the_provenance_files_make():
    assert (RESULTS / "index.md").read_text(encoding="utf-8") == paper_page.render(RESULTS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tables_hold_the_numbers_of_their_provenance(folder):
    provenance = provenance_of(folder)
    table = paper_page.table_of(provenance)
    if table is not None:
        table, results, config, data = paper_page.restored(table, provenance)
        text = report.markdown(table, results, config, data, planned=config.seeds * len(table.cases))
        assert (folder / "table.md").read_text(encoding="utf-8") == text
        assert (folder / "table.csv").read_text(encoding="utf-8") == report.as_csv(table, results)
    elif (folder / "table.md").exists():
        check_cells((folder / "table.md").read_text(encoding="utf-8"), provenance["results"])


def check_cells(text, rows):
    """Assert that the cells of a Markdown table are the rows' values, rounded."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    headings, _, *body = lines
    assert len(body) == len(rows)
    for cells, row in zip(body, rows, strict=True):
        for heading, cell in zip(headings, cells, strict=True):
            values = [row.get(heading), row.get(f"{heading} stderr")]
            if cell in ("", "–"):
                assert values[0] is None
            elif isinstance(values[0], str):
                assert cell == values[0]
            else:
                for shown, value in zip(cell.split(" ± "), values, strict=False):
                    assert abs(float(shown) - value) <= 0.5000001 * 10.0 ** -len(shown.partition(".")[2]), (row, cell)


def test_a_changed_number_is_noticed():
    with pytest.raises(AssertionError):
        check_cells("| a | b |\n| --- | ---: |\n| x | 1.24 ± 0.1 |\n", [{"a": "x", "b": 1.234, "b stderr": 0.1}])


def test_every_reason_belongs_to_a_row_that_differs():
    page = (RESULTS / "index.md").read_text(encoding="utf-8")
    _, reasons = paper_page.explained(RESULTS)
    for name, of_rows in reasons.items():
        assert (RESULTS / name).is_dir(), name
        for label, reason in of_rows.items():
            assert any(line.startswith(f"- {label}, ") and line.endswith(reason) for line in page.splitlines()), label


def test_what_is_said_by_hand_at_the_top_holds_no_number():
    said, _ = paper_page.explained(RESULTS)
    without_links = re.sub(r"\]\([^)]*\)", "]", "".join(said))
    assert not re.search(r"\d", without_links)
