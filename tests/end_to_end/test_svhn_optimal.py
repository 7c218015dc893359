"""`make svhn-optimal`: which images it trains on."""

import jax
import pytest
from tiny_runs import train_args, write_images

from calibrax import runs
from calibrax.data import DataError
from experiments import svhn_optimal


@pytest.fixture
def trained(monkeypatch):
    """A list to which training adds its settings instead of training. SVHN cannot be found."""
    started = []

    def load_data(config):
        if config.data.name == "svhn":
            raise DataError("no network")
        return config.data.name

    def train(config, data=None):
        started.append(config)
        assert (load_data(config) if data is None else data) == config.data.name

    monkeypatch.setattr(runs, "load_data", load_data)
    monkeypatch.setattr(runs, "train", train)
    return started


def test_without_svhn_it_says_so_and_uses_street_digits(trained, capsys):
    assert svhn_optimal.main([]) == 0
    (config,) = trained
    assert (config.data.name, config.likelihood.name, config.data.image_size) == ("street-digits", "optimal-sigma", 28)
    printed = capsys.readouterr()
    assert printed.err == "SVHN cannot be had here: no network\n"
    assert "NOT SVHN" in printed.out


def test_svhn_is_used_if_it_is_found(trained, monkeypatch):
    monkeypatch.setattr(runs, "load_data", lambda config: config.data.name)
    assert svhn_optimal.main([]) == 0
    assert trained[0].data.name == "svhn"


@pytest.mark.parametrize("args", [["--data", "svhn"], ["--data=svhn"]])
def test_an_explicit_request_for_svhn_has_no_fallback(trained, args, capsys):
    assert svhn_optimal.main(args) == 2
    assert capsys.readouterr().err == "calibrax: no network\n"


def test_other_images_train_and_resume(tmp_path, capsys):
    path, folder = write_images(tmp_path / "images.npz"), tmp_path / "run"
    args = train_args(path, folder, "--epochs", "1")[1:]
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        assert svhn_optimal.main(args) == 0
        assert svhn_optimal.main(["--resume", "--run-dir", str(folder), "--epochs", "2"]) == 0
    assert '"optimal-sigma"' in (folder / "config.json").read_text()
