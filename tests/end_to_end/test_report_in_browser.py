"""The page of `calibrax report` in a headless Chromium: no error, nothing loaded, nothing wider than the window."""

import json
import re
import shutil
import subprocess

import jax
import pytest
from PIL import Image
from tiny_runs import train_args, write_images

from calibrax import cli
from calibrax.runs.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')  # which would stop the script of the probe
PROBE = """<script>
addEventListener("load", () => parent.postMessage({
  window: innerWidth, page: document.documentElement.scrollWidth,
  loaded: performance.getEntriesByType("resource").map(entry => entry.name),
  broken: [...document.images].filter(image => !image.naturalWidth).length, images: document.images.length,
}, "*"))
</script></body>"""
# A window is at least 500 pixels wide, so the page stands in a frame.
FRAME = """<!doctype html><body><iframe src="{page}" width="{width}" height="3000" style="border: 0"></iframe>
<script>addEventListener("message", event => document.title = JSON.stringify(event.data))</script>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a run that was evaluated, and one that compares it with an unfinished one."""
    folder = tmp_path_factory.mktemp("pages")
    images, long = write_images(folder / "tiny.npz"), "a-run-with-quite-a-long-name" * 4
    with jax.numpy_dtype_promotion("standard"):
        for name, extra in {"evaluated": (), long: ("--likelihood", "bernoulli")}.items():
            assert cli.main(train_args(images, folder / name, *extra)) == 0
        assert cli.main(["evaluate", str(folder / "evaluated"), "--importance-samples", "4"]) == 0
    other = folder / long
    (other / "results.json").unlink()
    runs = [str(folder / "evaluated"), str(other)]
    return [write_report(runs[:1], str(folder / "one.html")), write_report(runs, str(folder / "several.html"))]


def browse(profile, page, *options):
    """Open a page; returns the document and what the console said."""
    command = [CHROMIUM, "--headless", "--disable-gpu", "--no-sandbox", f"--user-data-dir={profile / 'chromium'}"]
    command += ["--enable-logging=stderr", "--disable-background-networking", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.parametrize("width", [390, 1400])
def test_a_page_is_no_wider_than_its_window_and_loads_nothing(pages, tmp_path, width):
    for page in pages:
        text, num = POLICY.subn("", page.read_text(encoding="utf-8"))
        assert num == 1
        copy, frame = tmp_path / "copy.html", tmp_path / "frame.html"
        copy.write_text(text.replace("</body>", PROBE), encoding="utf-8")
        frame.write_text(FRAME.format(page=copy.name, width=width))
        document, console = browse(tmp_path, frame, "--dump-dom", "--window-size=1600,3000")
        found = json.loads(re.search(r"<title>(.*?)</title>", document)[1])
        assert found["window"] == width
        assert found["page"] <= width
        assert found["broken"] == 0
        assert found["images"] >= 6
        assert console == []
        assert found["loaded"] == []


def test_a_page_that_loads_something_or_is_too_wide_would_be_noticed(tmp_path):
    page, frame = tmp_path / "copy.html", tmp_path / "frame.html"
    wide = '<body><img src="http://example.invalid/a.png"><div style="width: 900px">.</div><script>x</script></body>'
    page.write_text(wide.replace("</body>", PROBE))
    frame.write_text(FRAME.format(page=page.name, width=390))
    document, console = browse(tmp_path, frame, "--dump-dom")
    found = json.loads(re.search(r"<title>(.*?)</title>", document)[1])
    assert found["page"] > 390
    assert found["broken"] == 1
    assert console
    assert found["loaded"] == ["http://example.invalid/a.png"]


def test_the_page_as_it_is_has_no_error_and_follows_the_colour_scheme(pages, tmp_path):
    for page in pages:
        brightness = []
        for scheme in ("1", "0"):  # light, dark
            picture = tmp_path / f"{page.stem}{scheme}.png"
            options = [f"--screenshot={picture}", "--window-size=1400,1200", "--hide-scrollbars"]
            _, console = browse(tmp_path, page, *options, f"--blink-settings=preferredColorScheme={scheme}")
            assert console == []
            with Image.open(picture) as image:
                assert image.size == (1400, 1200)
                brightness.append(image.convert("L").resize((1, 1)).getpixel((0, 0)))
        assert brightness[0] > 200
        assert brightness[1] < 80
