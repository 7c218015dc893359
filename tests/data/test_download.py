"""Downloads from a local server that works, breaks off, sends other content, refuses, is slow or falls silent."""

import email.utils
import hashlib
import http.server
import shutil
import ssl
import subprocess
import time

import pytest

from calibrax.data import DataError, download

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TIMEOUT = 0.3  # seconds


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the n-th request by the n-th of the server's `answers`, and all further ones by the last."""

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        server.answers[min(len(server.ranges), len(server.answers)) - 1](self)

    def send(self, body, *, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def whole(handler):
    handler.send(CONTENT)


def torn(handler, after=100_000):
    handler.send(CONTENT[:after], length=len(CONTENT))


def in_ranges(handler, shift=0, until=None):
    """A server that supports ranges; with a shift, or an early end, a broken one."""
    asked = handler.headers.get("Range")
    if asked is None:
        return torn(handler, until) if until else whole(handler)
    start = int(asked[6:-1])
    body, span = CONTENT[start + shift : until], f"bytes {start + shift}-{len(CONTENT) - 1}/{len(CONTENT)}"
    return handler.send(body, status=206, length=len(CONTENT) - start - shift, Content_Range=span)


def another(handler):
    handler.send(CONTENT[::-1])


def longer(handler):
    handler.send(CONTENT + b"x")


def endless(handler):
    """Without a Content-Length, and longer than the known size."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(CONTENT)


def silent(handler):
    time.sleep(4 * TIMEOUT)


def dripping(handler):
    handler.send(b"", length=len(CONTENT))
    for _ in range(40):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(TIMEOUT / 4)


def no_http(handler):
    handler.wfile.write(b"220 ftp.example.org ready\r\n\r\n")


def answers(status, **headers):
    return lambda handler: handler.send(b"", status=status, **headers)


@pytest.fixture
def fetch(serve, tmp_path):
    """`fetch(*answers)` downloads from a server with these answers, and returns its ranges, waits and path."""

    def fetch(*answers, content=b"", name="f.bin", **fields):
        httpd = serve(Handler)
        httpd.answers, httpd.ranges, httpd.waits, httpd.path = answers, [], [], tmp_path / "new" / name / name
        if content:
            httpd.path.parent.mkdir(parents=True)
            httpd.path.with_name(name + ".part").write_bytes(content)
        remote = download.Remote(f"http://127.0.0.1:{httpd.server_port}/f", len(CONTENT), SHA256)._replace(**fields)
        fetch.record = httpd
        download.fetch(remote, httpd.path, timeout=TIMEOUT, sleep=httpd.waits.append)
        assert httpd.path.read_bytes() == CONTENT
        assert [path.name for path in httpd.path.parent.iterdir()] == [name]
        return httpd

    return fetch


def one_line(match):
    return pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$")


def test_a_file_is_downloaded_whole(fetch):
    assert fetch(whole).ranges == [None]


def test_a_partial_file_is_continued(fetch):
    assert fetch(in_ranges, content=CONTENT[:12_345]).ranges == ["bytes=12345-"]
    assert fetch(whole, content=CONTENT[:12_345], name="g.bin").ranges == ["bytes=12345-"]


def test_a_complete_partial_file_needs_no_server(fetch):
    assert fetch(content=CONTENT).ranges == []


@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT[::-1][:12_345], CONTENT + b"x"])
def test_a_partial_file_with_other_content_is_replaced(fetch, content):
    record = fetch(in_ranges, content=content)
    assert record.ranges[-1] is None
    assert record.waits in ([], [0])


def test_an_unsatisfiable_range_starts_the_download_again(fetch):
    assert fetch(answers(416), in_ranges, content=CONTENT[:12_345]).ranges == ["bytes=12345-", None]


def test_without_a_checksum_a_partial_file_is_not_continued(fetch, monkeypatch):
    monkeypatch.setattr(download, "_check_scheme", lambda *_: None)  # there is no https here
    assert fetch(in_ranges, content=CONTENT[:12_345], sha256=None).ranges == [None]


def test_without_a_checksum_only_https_is_accepted(fetch):
    with one_line("expected https"):
        fetch(whole, sha256=None)
    remote = download.Remote("https://127.0.0.1:9/f")
    assert not fetch.record.path.parent.exists()
    with one_line("cannot be fetched"):
        download.fetch(remote, fetch.record.path, timeout=1)


@pytest.mark.parametrize("fault", [torn, silent, dripping, no_http, answers(503), answers(429), answers(500)])
def test_transient_errors_are_retried(fetch, fault, capsys):
    record = fetch(fault, fault, whole)
    assert len(record.ranges) == 3
    assert record.waits == [1, 4]
    assert capsys.readouterr().err.count("trying again in") == 2


def test_each_attempt_continues_where_the_last_broke_off(fetch):
    def part(until):
        return lambda handler: in_ranges(handler, until=until)

    assert fetch(part(100_000), part(250_000), in_ranges).ranges == [None, "bytes=100000-", "bytes=250000-"]


@pytest.mark.parametrize("fault", [torn, dripping, answers(503)])
def test_lasting_transient_errors_end_after_four_attempts(fetch, fault):
    with one_line("gave up after 4 attempts"):
        fetch(fault)
    assert fetch.record.waits == [1, 4, 16]
    assert not fetch.record.path.exists()


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (answers(404), "answers 404"),
        (answers(403), "answers 403"),
        (another, "not the file it should be: its SHA-256"),
        (longer, "not the file it should be: it has more than 1024000 bytes"),
        (endless, "not the file it should be: it has more than 1024000 bytes"),
        (answers(302, Location="ftp://127.0.0.1/f"), "is sent on to ftp://127.0.0.1/f: expected https or http"),
        (answers(302, Location="file:///etc/hostname"), "answers 302 .*file:///etc/hostname. is not allowed"),
        (answers(302, Location="/"), "answers 302"),  # round and round
    ],
)
def test_permanent_errors_are_not_retried(fetch, answer, match):
    with one_line(match):
        fetch(answer)
    assert fetch.record.waits == []
    assert not [path for path in fetch.record.path.parents[1].rglob("*") if path.is_file()]


def test_a_server_that_sends_another_range_is_an_error(fetch):
    with one_line("broke off after 1023999 of 1024000 bytes; gave up"):
        fetch(lambda handler: in_ranges(handler, shift=1), content=CONTENT[:100])


def test_an_unknown_size_has_a_limit(fetch, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", len(CONTENT) - 1)
    with one_line("more than 1023999 bytes"):
        fetch(whole, size=None)
    monkeypatch.setattr(download, "LARGEST", len(CONTENT))
    fetch(whole, size=None)


@pytest.mark.parametrize(("asked", "wait"), [("7", 7), ("never", 1), ("-3", 1)])
def test_retry_after_in_seconds_is_obeyed(fetch, asked, wait):
    assert fetch(answers(503, Retry_After=asked), whole).waits == [wait]


def test_retry_after_as_a_date_is_obeyed_up_to_a_minute(fetch):
    until = email.utils.formatdate(time.time() + 30, usegmt=True)
    (wait,) = fetch(answers(429, Retry_After=until), whole).waits
    assert 20 < wait <= 30
    with one_line("answers 503 Service Unavailable, and asks to wait 3600 s"):
        fetch(answers(503, Retry_After="3600"), name="g.bin")


def test_unreachable_addresses_are_reported_at_once(tmp_path):
    for url in ("http://127.0.0.1:9/f", "http://nowhere.invalid/f", "http://[/f", "http:///f", "gopher://x/f", "f"):
        with one_line("cannot be fetched|expected https"):
            download.fetch(download.Remote(url, 1, SHA256), tmp_path / "f.bin", timeout=5, sleep=pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_the_next_call_completes_a_download_that_broke_off(fetch, tmp_path):
    with one_line("broke off"):
        fetch(torn)
    partial = fetch.record.path.with_name("f.bin.part").read_bytes()
    assert partial == CONTENT[:100_000]
    assert fetch(in_ranges, content=partial, name="g.bin").ranges == ["bytes=100000-"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_self_signed_certificate_is_refused(serve, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run([*command, "-subj", "/CN=127.0.0.1", "-days", "1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    httpd = serve(Handler)
    httpd.answers, httpd.ranges = [whole], []
    httpd.handle_error = lambda *args: None  # the client hangs up
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
    remote = download.Remote(f"https://127.0.0.1:{httpd.server_port}/f", len(CONTENT), SHA256)
    with one_line("certificate verify failed"):
        download.fetch(remote, tmp_path / "f.bin", timeout=5, sleep=pytest.fail)
    assert httpd.ranges == []


def test_a_full_disk_is_noticed_before_the_download(fetch):
    with one_line(r"MiB free; f\.bin needs"):
        fetch(whole, size=10**18)
    assert fetch.record.ranges == []


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(fetch, tmp_path):
    (tmp_path / "new").write_text("")
    with one_line("cannot be fetched: .*/new"):
        fetch(whole)
    assert fetch.record.waits == []
