"""Downloads from a local server that behaves, breaks off, lies, refuses or falls silent."""

import hashlib
import http.server
import time

import pytest

from calibrax.data import DataError, download

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
        elif self.path == "/silent":
            time.sleep(3)
        elif self.path == "/ranges":
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.server.starts.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start:])
        else:
            body = {"/file": CONTENT, "/torn": CONTENT[:100_000], "/other": CONTENT[::-1]}[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(serve):
    httpd = serve(Handler)
    httpd.starts = []
    return httpd


def remote(server, path, **options):
    return download.Remote(f"http://127.0.0.1:{server.server_port}{path}", len(CONTENT), SHA256)._replace(**options)


def test_a_good_file_arrives_whole(server, tmp_path):
    download.fetch(remote(server, "/file"), tmp_path / "folder" / "f.bin", timeout=5)
    assert (tmp_path / "folder" / "f.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["f.bin"]


def test_a_partial_file_is_gone_on_with(server, tmp_path):
    (tmp_path / "f.bin.part").write_bytes(CONTENT[:12_345])
    download.fetch(remote(server, "/ranges"), tmp_path / "f.bin", timeout=5)
    assert (tmp_path / "f.bin").read_bytes() == CONTENT
    assert server.starts == [12_345]


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("/missing", "answers 404"),
        ("/torn", "broke off"),
        ("/other", "not the file it should be"),
        ("/silent", "cannot be fetched"),
    ],
)
def test_whatever_goes_wrong_no_file_stands_under_the_good_name(server, tmp_path, path, match):
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$"):
        download.fetch(remote(server, path), tmp_path / "f.bin", timeout=0.5)
    assert not (tmp_path / "f.bin").exists()
    assert time.monotonic() - start < 2.5


def test_a_torn_download_is_completed_by_the_next_try(server, tmp_path):
    with pytest.raises(DataError, match="broke off"):
        download.fetch(remote(server, "/torn"), tmp_path / "f.bin", timeout=5)
    assert (tmp_path / "f.bin.part").stat().st_size == 100_000
    download.fetch(remote(server, "/ranges"), tmp_path / "f.bin", timeout=5)
    assert (tmp_path / "f.bin").read_bytes() == CONTENT


def test_a_disk_too_full_is_noticed_before_the_download(server, tmp_path):
    with pytest.raises(DataError, match=r"MiB free; f\.bin needs"):
        download.fetch(remote(server, "/file", size=10**18), tmp_path / "f.bin", timeout=5)


def test_a_folder_that_cannot_be_made_is_said_in_one_line(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^[^\n]*file cannot be made: [^\n]*$"):
        download.fetch(remote(server, "/file"), tmp_path / "file" / "f.bin", timeout=5)
