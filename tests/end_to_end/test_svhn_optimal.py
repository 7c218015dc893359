"""`make svhn-optimal`: which images it takes."""

import jax
import pytest
from tiny_runs import train_args, write_images

from calibrax.data import DataError
from calibrax.runs import run
from experiments import svhn_optimal


@pytest.fixture
def trained(monkeypatch):
    """The settings with which training would begin; SVHN cannot be had."""
    found = []

    def load_data(config):
        if config.data == "svhn":
            raise DataError("no network")
        return config.data

    def train(config, data=None):
        found.append(config)
        assert (load_data(config) if data is None else data) == config.data

    monkeypatch.setattr(run, "load_data", load_data)
    monkeypatch.setattr(run, "train", train)
    return found


def test_without_svhn_it_goes_on_with_drawn_digits_and_says_so(trained, capsys):
    assert svhn_optimal.main([]) == 0
    (config,) = trained
    assert (config.data, config.likelihood, config.image_size) == ("street-digits", "optimal-sigma", 28)
    said = capsys.readouterr()
    assert said.err == "SVHN cannot be had here: no network\n"
    assert "NOT SVHN" in said.out


def test_svhn_is_taken_where_it_can_be_had(trained, monkeypatch):
    monkeypatch.setattr(run, "load_data", lambda config: config.data)
    assert svhn_optimal.main([]) == 0
    assert trained[0].data == "svhn"


@pytest.mark.parametrize("args", [["--data", "svhn"], ["--data=svhn"]])
def test_who_asks_for_svhn_gets_no_other(trained, args, capsys):
    assert svhn_optimal.main(args) == 2
    assert capsys.readouterr().err == "calibrax: no network\n"


def test_other_images_train_and_resume(tmp_path, capsys):
    path, folder = write_images(tmp_path / "images.npz"), tmp_path / "run"
    args = train_args(path, folder)[1:]
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        assert svhn_optimal.main(args) == 0
        assert svhn_optimal.main(["--resume", "--run-dir", str(folder), "--epochs", "2"]) == 0
    assert '"optimal-sigma"' in (folder / "config.json").read_text()
