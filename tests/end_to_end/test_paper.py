"""`make paper` in short form: it says what there is to do, goes on after an interruption, and writes the page."""

import functools
import json
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from calibrax.training.signals import Interrupted
from experiments import decoders, paper, paper_figure, paper_page, paper_table, sweep
from experiments.parts import Part
from experiments.report import Table

CASES = (decoders.OPTIMAL.with_paper(neg_log_p=-900.0), decoders.GAUSSIAN.with_paper(neg_log_p=0.0))
TABLE = Table("table1", "A table", "mnist", CASES, image_size=8)
FIGURE = paper_figure.Figure(
    "question-it", "A question", "mnist", CASES, answer=lambda data: "A table.\n\nYes.", side_by_side=True, image_size=8
)
MISSING = TABLE._replace(name="table5", source="cifar10")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Two parts with data and one without, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    parts = []
    for shows, made_by in ((TABLE, paper_table), (FIGURE, paper_figure), (MISSING, paper_table)):
        module: types.ModuleType = types.ModuleType(f"experiments.tiny_{shows.name}")
        vars(module)["main"] = functools.partial(made_by.main, shows)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        parts.append(Part(shows, f"tiny_{shows.name}", epochs=1, most_seeds=1))
    for module in (paper, paper_page):
        monkeypatch.setattr(module, "PARTS", parts)
    pixels = np.random.default_rng(0).integers(0, 256, (160, 8, 8, 1), dtype=np.uint8)
    np.savez("digits.npz", train=pixels[:132], test=pixels[132:])
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield ["--mnist", "digits.npz", "--cifar10", "nowhere.npz"]


def test_it_says_what_to_do_and_goes_on_after_an_interruption(tiny, monkeypatch, capsys):
    assert paper.main([*tiny, "--plan"]) == 0
    said = capsys.readouterr().err
    assert "table1                   2 of 2 runs to make, about 0 min" in said
    assert "table5                 left out: there is no file nowhere.npz" in said
    assert not Path("runs").exists()

    trained, original = [], sweep.train

    def interrupted(config, *args, **parts):
        if config.likelihood.name == "gaussian" and len(trained) == 1:
            trained.append("interrupted")
            raise Interrupted("saved at step 0", 130)
        trained.append(config.likelihood.name)
        return original(config, *args, **parts)

    monkeypatch.setattr(sweep, "train", interrupted)
    with pytest.raises(SystemExit) as stop:
        paper.main(tiny)
    assert stop.value.code == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert paper.main(tiny) == 0
    assert trained == ["optimal-sigma", "interrupted", "gaussian"]
    assert "table1                   1 of 2 runs to make" in capsys.readouterr().err

    page = Path("runs/paper/index.md").read_text(encoding="utf-8")
    assert page == paper_page.render(Path("runs/paper"))
    assert "## A table" in page
    assert "![samples](question-it/samples.png)" in page
    assert "\n\n- **[A question](#a-question)** Yes.\n\n## A table" in page
    assert "| [A table](#a-table) |" in page
    record = json.loads(Path("runs/paper/table1/provenance.json").read_text())["runs"][1]
    assert f"| Gaussian VAE | {record['test']['running average']['neg_elbo']:.1f} | 0 |" in page
    assert "- Gaussian VAE, +" in page
    assert ": unexplained" in page


def test_mistakes_are_one_line(tiny, capsys):
    for argv, match in [
        (["--only", "table9"], "--only has table9; expected some of table1, question-it, table5"),
        (["--seeds", "0"], "--seeds is 0; expected at least 1"),
        (["--mnist", "none.npz", "--cifar10", "none.npz"], "there is no data for any table or figure"),
    ]:
        assert paper.main(argv) == 2
        assert match in capsys.readouterr().err.strip().splitlines()[-1]
    assert paper_page.main(["--folder", "nowhere"]) == 2
    assert "--folder is nowhere; expected a folder of results" in capsys.readouterr().err
