"""Downloads, from a server on this machine that misbehaves as told."""

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from stages.lib.sources import downloads
from stages.lib.sources.downloads import fetch

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes, several chunks
MD5 = hashlib.md5(CONTENT).hexdigest()


class _Server(HTTPServer):
    """Serves CONTENT; each of `faults` spoils one request, in order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: list[str] = []
        self.ranges: list[str | None] = []
        self.honours_range = True
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        fault = self.server.faults.pop(0) if self.server.faults else ""
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if fault.isdigit():
            self.send_error(int(fault))
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.honours_range else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "drip":
            for at in range(0, 1000, 10):
                self.wfile.write(body[at : at + 10])
                time.sleep(0.01)
            return
        self.wfile.write(body[: len(body) // 2] if fault == "short" else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_download_lands_under_its_name_and_leaves_no_part(server: _Server, tmp_path: Path) -> None:
    fetch(server.url, tmp_path / "new" / "file.bin", md5=MD5)
    assert (tmp_path / "new" / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.bin"]


def test_broken_connection_is_resumed_where_it_broke(server: _Server, tmp_path: Path) -> None:
    server.faults = ["short"]
    fetch(server.url, tmp_path / "file.bin", md5=MD5, pause_s=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges[0] is None
    resumed_at = int(str(server.ranges[1]).removeprefix("bytes=").removesuffix("-"))
    assert 0 < resumed_at <= len(CONTENT) // 2


def test_part_of_an_earlier_run_is_continued(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    fetch(server.url, tmp_path / "file.bin", md5=MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_download_starts_over_if_the_server_ignores_range(server: _Server, tmp_path: Path) -> None:
    server.honours_range = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    fetch(server.url, tmp_path / "file.bin", md5=MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_download_starts_over_if_the_part_is_too_long(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"x")
    fetch(server.url, tmp_path / "file.bin", md5=MD5, pause_s=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_server_errors_are_retried(server: _Server, tmp_path: Path) -> None:
    server.faults = ["503", "500"]
    fetch(server.url, tmp_path / "file.bin", md5=MD5, pause_s=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_that_drips_is_given_up_and_asked_again(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PATIENCE_S", 0.1)
    monkeypatch.setattr(downloads, "MIN_BYTES_PER_S", 100_000)
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 10)
    server.faults = ["drip"]
    fetch(server.url, tmp_path / "file.bin", md5=MD5, pause_s=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_two_that_want_the_same_file_download_it_once(server: _Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(fetch, server.url, tmp_path / "file.bin", md5=MD5) for _ in range(4)]:
            done.result()
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_missing_file_is_not_retried(server: _Server, tmp_path: Path) -> None:
    server.faults = ["404"]
    with pytest.raises(OSError, match="404"):
        fetch(server.url, tmp_path / "file.bin", md5=MD5, pause_s=0)
    assert len(server.ranges) == 1


def test_giving_up_keeps_the_part_for_the_next_run(server: _Server, tmp_path: Path) -> None:
    server.faults = ["short", "503"]
    with pytest.raises(OSError, match="could not be downloaded in 2 attempts"):
        fetch(server.url, tmp_path / "file.bin", md5=MD5, attempts=2, pause_s=0)
    assert not (tmp_path / "file.bin").exists()
    assert (tmp_path / "file.bin.part").stat().st_size > 0


def test_file_with_another_digest_is_deleted(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"must have the MD5 {'0' * 32}, got {MD5}"):
        fetch(server.url, tmp_path / "file.bin", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_verified_file_is_not_fetched_again(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "file.bin", md5=MD5)
    assert server.ranges == []


def test_spoiled_file_is_fetched_again(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    fetch(server.url, tmp_path / "file.bin", md5=MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
