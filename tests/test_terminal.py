"""Text in the encoding of the stream, and progress bars on a terminal, in a log file and in a notebook."""

import contextlib
import io
import math
import subprocess
import sys
import types
import warnings

import pytest

import calibrax
from calibrax import _terminal, cli
from calibrax._terminal import accept_any_text, encodable, progress_bar, say
from calibrax.training.progress import ProgressBar

ROW = {"neg_elbo": -12.0, "log_sigma": math.log(0.25)}


def stream(encoding, errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding, errors)


def written(stream):
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("ascii", "beta 2 sigma^2 +/- 1 x - ? b\\xe4r.png"),
        ("cp1252", "beta 2 sigma² ± 1 × – ? b\\xe4r.png"),
        ("latin-1", "beta 2 sigma² ± 1 × - ? b\\xe4r.png"),
        ("utf-8", "β 2 σ² ± 1 × – 犬 b\\xe4r.png"),
    ],
)
def test_what_an_encoding_lacks_is_spelled_out(encoding, text):
    given = "β 2 σ² ± 1 × – 犬 b\udce4r.png"
    strict = stream(encoding)
    assert encodable(given, strict) == text
    say(given, file=strict)
    assert written(strict) == text + "\n"


def test_text_without_a_stream_or_an_encoding():
    assert encodable("σ", io.StringIO()) == "σ"
    with contextlib.redirect_stdout(None):  # as in a Windows program without a console
        say("σ")


def test_standard_streams_are_changed_and_others_are_left_alone(monkeypatch):
    class Other(io.StringIO):
        encoding = "ascii"

    replaced = Other()
    monkeypatch.setattr(sys, "stdout", stream("cp1252"))
    monkeypatch.setattr(sys, "stderr", replaced)
    accept_any_text()
    print("σ ± 1")
    assert written(sys.stdout) == "sigma ± 1\n"
    assert sys.stderr is replaced
    monkeypatch.setattr(sys, "stdout", None)
    accept_any_text()


@pytest.mark.parametrize("error", [UnicodeDecodeError("ascii", b"\xff", 0, 1, "bad"), ValueError("other")])
def test_other_errors_than_those_of_encoding_are_not_hidden(error):
    with pytest.raises(type(error)):
        _terminal._spell_out(error)


def test_a_file_name_that_the_system_cannot_encode_is_one_line(capsys):
    def command():
        "größe.npz".encode("ascii")

    assert cli.guarded(command) == 2
    assert capsys.readouterr().err == (
        "calibrax: 'größe.npz' is no file name in this system's ascii; try with PYTHONUTF8=1\n"
    )


@pytest.fixture
def clock(monkeypatch):
    """tqdm's clock, which `clock.move(seconds)` advances."""
    import tqdm.std

    now = types.SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(tqdm.std, "time", lambda: now.seconds)
    now.move = lambda seconds: setattr(now, "seconds", now.seconds + seconds)
    return now


def moves_in_a_minute(clock):
    """How often a bar is drawn in 60 s in which it advances every 0.05 s, after a part that was 100 times as fast."""
    with ProgressBar(0, 10_000, 16, "img") as bar:
        for _ in range(1000):
            clock.move(0.0005)
            bar.advance(None)
        before = sys.stderr.getvalue().count("\r")
        for _ in range(1200):
            clock.move(0.05)
            bar.advance(ROW)
        return sys.stderr.getvalue().count("\r") - before


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("kind", "low", "high"), [(io.StringIO, 1, 3), (Terminal, 200, 301)])
def test_a_bar_moves_on_a_terminal_and_writes_a_line_every_30_seconds_elsewhere(kind, low, high, clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", kind())
    assert low <= moves_in_a_minute(clock) <= high


@pytest.fixture
def notebook(monkeypatch):
    """What a program sees in a notebook without ipywidgets. Yields its standard error, which is no terminal."""

    class OutStream(io.StringIO):
        encoding = "UTF-8"

    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("ipykernel.zmqshell"))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    for name in ("auto", "autonotebook", "notebook"):  # tqdm looks for a notebook on import
        monkeypatch.delitem(sys.modules, f"tqdm.{name}", raising=False)
    yield OutStream()
    for name in ("auto", "autonotebook", "notebook"):
        sys.modules.pop(f"tqdm.{name}", None)


def test_a_bar_moves_several_times_a_second_in_a_notebook_without_a_warning(notebook, clock):
    with warnings.catch_warnings(), contextlib.redirect_stderr(notebook):
        warnings.simplefilter("error")
        assert 200 <= moves_in_a_minute(clock) <= 301
    assert "σ 0.2500" in notebook.getvalue()


def test_a_log_file_in_a_notebook_gets_a_line_every_30_seconds(notebook, clock):
    with io.TextIOWrapper(io.BytesIO(), "utf-8") as log, contextlib.redirect_stderr(log):
        log.getvalue = lambda: written(log)
        assert 1 <= moves_in_a_minute(clock) <= 3


def test_a_notebook_with_ipywidgets_gets_its_bar(notebook, monkeypatch):
    """With widgets that record what they show, in the place of ipywidgets."""

    class Widget:
        bar_style = value = None

        def __init__(self, *args, children=(), **options):
            self.children, self.layout, self.style = children, types.SimpleNamespace(), types.SimpleNamespace()
            self.__dict__.update(options)

        def close(self):
            pass

    shown = []
    parts = dict.fromkeys(("HTML", "FloatProgress", "HBox"), Widget)
    monkeypatch.setitem(sys.modules, "ipywidgets", types.SimpleNamespace(**parts))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=shown.append))
    with contextlib.redirect_stderr(notebook), ProgressBar(0, 4, 16, "img") as bar:
        for _ in range(4):
            bar.advance(ROW)
    (box,) = shown
    _, progress, text = box.children
    assert (progress.max, progress.value) == (64, 64)
    assert "ELBO\u200712.0\u2007nats,\u2007σ\u20070.2500" in text.value
    assert notebook.getvalue() == ""


def test_a_bar_in_an_encoding_without_blocks_is_of_ascii(monkeypatch):
    log = stream("cp1252")
    monkeypatch.setattr(sys, "stderr", log)
    with ProgressBar(0, 2, 16, "img") as bar:
        bar.advance(ROW, 2)
    assert "100%|##########| 32.0/32.0" in written(log)
    assert "sigma 0.2500" in written(log)


def test_a_program_without_a_console_has_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with ProgressBar(0, 2, 16, "img") as bar:
        bar.advance(ROW, 2)
    assert list(progress_bar(range(3))) == [0, 1, 2]


def test_the_package_is_a_program_too():
    for argument, code, output in (("--version", 0, f"calibrax {calibrax.__version__}\n"), ("trian", 2, "")):
        done = subprocess.run([sys.executable, "-m", "calibrax", argument], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (code, output)
