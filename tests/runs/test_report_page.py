"""The page of a run, and of several: what is on it, that it loads nothing, and a user's mistakes."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser

from tiny_runs import assert_one_line

from calibrax import cli
from calibrax.evaluation.report import ROWS
from calibrax.runs.report import MOST_ROWS, _thinned, write_report


class Page(HTMLParser):
    """Tags, visible text, and every address of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.addresses, self.images, self.open = [], [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.open.append(tag)
        self.addresses += [attrs[name] for name in ("src", "href", "srcset", "action", "data") if name in attrs]
        if tag == "img":
            self.images.append(attrs)
            self.open.pop()
        if tag in ("meta", "link"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # well-formed

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def page_of(*folders, out):
    assert write_report([str(folder) for folder in folders], str(out)) == out
    page = Page(out)
    assert page.open == []
    assert page.tags[0] == "html"
    assert all(address.startswith("data:") for address in page.addresses)
    assert "script" not in page.tags
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert all(image["alt"] for image in page.images)
    assert page.tags.count("h1") == page.tags.count("title") == 1
    assert page.tags.count("figure") == page.tags.count("figcaption") >= len(page.images)
    return page


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_s_page_has_results_curves_pictures_and_settings(finished, tmp_path):
    page = page_of(finished / "run", out=tmp_path / "page.html")
    assert "Finished: all 9 steps." in page.text
    results = json.loads((finished / "run" / "results.json").read_text())
    test = results["test"]["running average"]
    for _, field, form in ROWS:
        assert form.format(test[field]) in page.words
    for caption in (
        "−ELBO (nats per example)",
        "Rate: KL from the prior (nats per",
        "Distortion",
        "σ that the decoder",
    ):
        assert caption in page.text
    embedded = [base64.b64decode(image["src"].partition(",")[2]) for image in page.images]
    for kind in ("samples", "reconstructions"):
        assert (finished / "run" / kind / "step_0000009.png").read_bytes() in embedded
    assert sum(image["src"].startswith("data:image/svg+xml") for image in page.images) == 4
    assert "--batch-size 16" in page.text
    assert "jaxlib" in page.text
    assert "Not measured: importance, calibration, information, reconstruction" in page.text
    assert f"calibrax evaluate {finished / 'run'}" in page.text


def test_the_page_is_the_same_each_time_and_its_figures_follow_the_colour_scheme(finished, tmp_path):
    first = page_of(finished / "run", out=tmp_path / "a.html")
    assert page_of(finished / "run", out=tmp_path / "b.html").source == first.source
    assert "prefers-color-scheme: dark" in first.source
    svg = base64.b64decode(first.images[0]["src"].partition(",")[2]).decode()
    assert "prefers-color-scheme: dark" in svg
    assert "#000000" not in svg.partition("</style>")[2]


def test_an_unfinished_run_s_page_says_so(run_copy, tmp_path):
    (run_copy / "results.json").unlink()
    log = run_copy / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    page = page_of(run_copy, out=tmp_path / "page.html")
    assert f"Unfinished: step 4 of 9; calibrax train --resume --run-dir {run_copy} resumes it." in page.text
    assert f"No results yet: training is not finished. calibrax evaluate {run_copy} measures" in page.text
    log.unlink()
    shutil.rmtree(run_copy / "samples")
    shutil.rmtree(run_copy / "reconstructions")
    page = page_of(run_copy, out=tmp_path / "page.html")
    assert "step 0 of 9" in page.text
    assert "No step is logged yet." in page.text
    assert "No pictures yet" in page.text


def test_what_was_measured_is_on_the_page(run_copy, tmp_path):
    change_json(run_copy / "results.json", importance={"neg_log_p": -123.4, "stderr": 5.6, "samples": 100})
    (run_copy / "calibration.png").write_bytes(b"a picture")
    page = page_of(run_copy, out=tmp_path / "page.html")
    assert "100 importance samples: -123.4 ± 5.6 nats" in page.text
    assert "Not measured: calibration, information, reconstruction" in page.text
    assert any("coverage of central intervals (%)" in image["alt"] for image in page.images)


def test_several_runs_are_compared(finished, run_copy, tmp_path):
    config = json.loads((run_copy / "config.json").read_text())["config"]
    change_json(run_copy / "config.json", config=config | {"seed": 3})
    change_json(run_copy / "results.json", seed=3)
    page = page_of(finished / "run", run_copy, out=tmp_path / "page.html")
    assert {"optimal-sigma, seed 0", "optimal-sigma, seed 3"} <= set(page.words)
    assert "2 runs compared" in page.text
    assert "tested on tiny 8x8x3, 10 test images" in page.text
    assert "--seed 0 3" in page.text
    svg = base64.b64decode(page.images[0]["src"].partition(",")[2]).decode()
    assert "optimal-sigma, seed 3" in svg
    (run_copy / "results.json").unlink()
    page = page_of(finished / "run", run_copy, out=tmp_path / "page.html")
    assert f"optimal-sigma, seed 3 : No results yet; calibrax evaluate {run_copy} makes them." in page.text


def test_text_of_settings_and_names_is_escaped(finished, tmp_path):
    folder = shutil.copytree(finished / "run", tmp_path / "<b>&\"'\n\x1b")
    config = json.loads((folder / "config.json").read_text())["config"]
    change_json(folder / "config.json", config=config | {"data": "<script>alert(1)</script>"})
    change_json(folder / "results.json", data="</title><script>alert(1)</script>", commit="<i>")
    page = page_of(folder, out=tmp_path / "page.html")
    assert "</title><script>alert(1)</script>" in page.text
    assert "<script>alert(1)</script>" in page.words
    other = shutil.copytree(folder, tmp_path / "<u>")
    page_of(folder, other, out=tmp_path / "page.html")


def test_a_long_log_is_thinned_and_the_page_says_so(finished):
    rows = [{"step": step, "split": "train", "loss": 1.0} for step in range(1, 3 * MOST_ROWS + 1)]
    rows.append({"step": 3 * MOST_ROWS, "split": "test", "neg_elbo": 1.0})
    kept, every = _thinned(rows)
    assert (len(kept), every) == (MOST_ROWS + 1, 3)
    assert kept[0]["step"] == 3
    assert kept[-1] == rows[-1]


def test_the_default_place_is_the_run_s_folder_or_here(run_copy, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(run_copy)]) == 0
    assert capsys.readouterr().out.strip() == str(run_copy / "report.html")
    assert (run_copy / "report.html").exists()
    assert cli.main(["report", str(run_copy), str(finished / "run")]) == 0
    assert (tmp_path / "report.html").exists()


def test_mistakes_are_one_line_and_nothing_is_written(finished, run_copy, tmp_path, capsys):
    run, nothing, out = str(finished / "run"), tmp_path / "nothing", tmp_path / "page.html"
    nothing.mkdir()
    (tmp_path / "folder.html").mkdir()
    damaged = {"text": "{", "list": "[]", "row": '{"test": {"running average": 3}}', "train": None}
    for arguments, match in (
        ([str(nothing)], "holds no run"),
        ([str(tmp_path / "absent")], "holds no run"),
        ([run, run], "is named twice"),
        ([], "runs|no run"),
        ([run, "--out", str(tmp_path / "page.txt")], r"expected a name that ends in \.html"),
        ([run, "--out", str(tmp_path / "folder.html")], "cannot write .*folder.html"),
        ([run, "--out", f"{tmp_path}/{'x' * 300}.html"], "cannot be"),
    ):
        assert_one_line(capsys, cli.main(["report", *arguments]), match)
    results = json.loads((run_copy / "results.json").read_text())
    damaged["train"] = json.dumps(results | {"train": {"running average": 5}})
    for text in damaged.values():
        (run_copy / "results.json").write_text(text)
        assert_one_line(capsys, cli.main(["report", str(run_copy), "--out", str(out)]), "cannot read .*results.json")
    assert not out.exists()
    assert not list(tmp_path.glob("*.txt"))


def test_a_run_begun_with_fewer_epochs_than_it_has_now_is_not_called_unfinished(run_copy, tmp_path):
    config = json.loads((run_copy / "config.json").read_text())["config"]
    change_json(run_copy / "config.json", config=config | {"epochs": 1})
    page = page_of(run_copy, out=tmp_path / "page.html")
    assert "Step 9." in page.text
    assert "Unfinished" not in page.text
